"""mypy --strict has nothing to say about any file, read under its import name as an installed wheel has it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def mypy(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run mypy on a tree of links."""
    pytest.importorskip("mypy")
    tree = tmp_path / "tree"
    subprocess.run([sys.executable, ROOT / "tests" / "support" / "link_tree.py", tree], check=True)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    return subprocess.run(
        [*command, "--cache-dir", tmp_path / "cache", *options],
        cwd=tmp_path,  # there the settings' own `mypy_path`, which is relative, finds nothing
        env=dict(os.environ, MYPYPATH=str(tree)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_mypy_finds_nothing_for_other_systems(tmp_path: Path, platform: str) -> None:
    """Training is for Linux and macOS."""
    layers = [option for layer in ("core", "runtime", "server") for option in ("-p", f"bestow_edge.{layer}")]
    done = mypy(tmp_path, "--platform", platform, *layers)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_finds_nothing(tmp_path: Path) -> None:
    done = mypy(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = [path for folder in ("bestow_edge", "export", "runtime", "training") for path in (ROOT / folder).rglob("*")]
    folders = {path for path in paths if path.is_dir() and "__pycache__" not in path.parts}
    modules = [path for path in paths if path.suffix == ".py" and "." not in path.stem]  # hooks have dots: no modules
    num_files = len(modules) + len(folders - {path.parent for path in modules})  # mypy counts folders without modules
    assert f"in {num_files} source files" in done.stdout
