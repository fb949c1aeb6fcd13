"""Hook of the server: the files of its page."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("bestow_edge.server")
