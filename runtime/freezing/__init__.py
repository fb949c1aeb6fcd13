"""Hooks of PyInstaller, which freezes programs: what it cannot see in the imports of this package.

The entry point `pyinstaller40` in `pyproject.toml` names `hook_folders`. Nothing else imports this package.
"""

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folders with the hooks."""
    return [str(Path(__file__).parent)]
