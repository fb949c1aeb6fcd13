"""Makes the folder mypy and editors read: every file under its import name. Knows `pyproject.toml`, not mypy.

    python tests/support/link_tree.py          # build/tree, which pyproject.toml and .gitignore name
    mypy                               # then checks the whole project

The repository keeps `export`, `runtime` and `training` beside `bestow_edge`, and setuptools maps them into it. Type
checkers cannot follow that mapping; a folder of links shows them what an installed wheel looks like.
"""

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make_link_tree(target: Path) -> None:
    """Fill `target`, emptied first, with `bestow_edge/` and links to everything in it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    if target.exists():
        shutil.rmtree(target)
    package = target / "bestow_edge"
    package.mkdir(parents=True)
    mapped = {name.removeprefix("bestow_edge."): ROOT / folder for name, folder in settings["package-dir"].items()}
    own = {path.name: path for path in (ROOT / "bestow_edge").iterdir() if path.name != "__pycache__"}
    for name, source in (own | mapped).items():
        (package / name).symlink_to(source, target_is_directory=source.is_dir())


if __name__ == "__main__":
    make_link_tree(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "tree")
