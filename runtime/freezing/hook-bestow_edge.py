"""Hook of `bestow_edge`: modules that are imported by their names, the embedded bundle, and the version."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

hiddenimports = [
    "bestow_edge.runtime",
    "soundfile",
    "soxr",
    *collect_submodules("bestow_edge.runtime.assets"),
    *collect_submodules("bestow_edge.runtime.decoders"),
    *collect_submodules("bestow_edge.runtime.devices"),
    *collect_submodules("bestow_edge.runtime.encoders"),
]
datas = [*collect_data_files("bestow_edge.runtime.assets.demo"), *copy_metadata("bestow-edge")]
