"""The distribution: what the wheel holds, that it works alone, what it depends on, and how large files may grow."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy
import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bestow_edge.core.embedded import EMBEDDED

ROOT = Path(__file__).parents[2]
PACKAGE_FOLDERS = ("bestow_edge", "export", "runtime", "training")
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "benchmarks",
    "bestow_edge", "docs", "examples", "export", "pyproject.toml", "requirements-dev.lock", "runtime",
    "tests", "training",
}  # fmt: skip
HEAVY = {"accelerate", "onnx", "onnx-ir", "onnxscript", "safetensors", "torch", "transformers"}
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"
MAX_WHEEL_BYTES = 100_000_000  # PyPI takes no larger file
MAX_FROZEN_BYTES = 350_000_000
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_README_LINES = 160


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the tracked files, so that nothing left over in `build/` gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out]
    subprocess.run([*command, source], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def installed_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a virtual environment; the packages it needs come from that of the tests."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    site = subprocess.run([python, "-c", SITE], check=True, capture_output=True, text=True).stdout.strip()
    others = dict.fromkeys(str(Path(module.__file__ or "").parents[1]) for module in (numpy, typer))
    (Path(site) / "needed.pth").write_text("\n".join(others))  # Python reads no .pth file of folders named in one
    return python


def files() -> list[str]:
    """Return the repository's files: tracked ones and new ones that git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def run_in(site: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code on the unpacked wheel, in a directory that is not the repository's."""
    env = dict(os.environ, PYTHONPATH=str(site))
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_top_level_is_as_agreed() -> None:
    assert {name.split("/")[0] for name in files()} == TOP_LEVEL


def test_the_lock_holds_what_developers_install(settings: dict[str, Any]) -> None:
    lines = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    locked = [line.split(" ;")[0] for line in lines if line and not line.lstrip().startswith("#")]
    assert all("--hash=sha256:" in line for line in locked)
    versions = dict(line.split()[0].split("==") for line in locked)
    extras = settings["project"]["optional-dependencies"]
    (names,) = [re.findall(r"[a-z]+", item.split("[")[1]) for item in extras["all"]]
    wanted = map(
        Requirement, [*settings["project"]["dependencies"], *(item for name in names for item in extras[name])]
    )
    for requirement in wanted:
        if requirement.name != "torch":  # it is installed first, from the index of its kind
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_every_folder_with_code_is_a_package_of_the_wheel(settings: dict[str, Any]) -> None:
    folders = {path.parent for top in PACKAGE_FOLDERS for path in (ROOT / top).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    expected = {name if name.startswith("bestow_edge") else f"bestow_edge.{name}" for name in names}
    assert set(settings["tool"]["setuptools"]["packages"]) == expected


def test_the_wheel_holds_all_code_the_typing_marker_and_the_demo_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {path.relative_to(ROOT).as_posix() for top in PACKAGE_FOLDERS for path in (ROOT / top).rglob("*.py")}
    expected = {name if name.startswith("bestow_edge/") else f"bestow_edge/{name}" for name in code}
    assert {name for name in held if name.endswith(".py")} == expected
    assert "bestow_edge/py.typed" in held
    assert {f"bestow_edge/runtime/assets/{name}/bundle.json" for name in EMBEDDED} <= held
    assert "bestow_edge/server/static/index.html" in held
    assert all(name.startswith("bestow_edge/") for name in held)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_wheel_carries_the_licences(wheel: Path) -> None:
    names = {name.split(".dist-info/licenses/")[-1] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"LICENSE", "runtime/assets/LICENSES.md", "runtime/assets/people/LICENSES.md"} <= names


def test_the_wheel_runs_from_another_directory(unpacked: Path, tmp_path: Path) -> None:
    recording = ROOT / "examples" / "audio" / "digits_en.wav"
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "onnx"]))
import bestow_edge as be
assert be.__file__.startswith({str(unpacked)!r}), be.__file__
model = be.load("demo")
with model.session(source="en", target="de") as session:
    events = session.feed(be.read_audio({str(recording)!r}, model.sample_rate_hz)) + session.finish()
print("".join(event.text for event in events))
"""
    done = run_in(unpacked, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_command_line_of_the_wheel_starts_elsewhere(unpacked: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['bestow-edge', '--help']; from bestow_edge.cli.main import main; main()"
    done = run_in(unpacked, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "export" in done.stdout


@pytest.mark.parametrize("place", ["clone", "elsewhere"])
def test_an_installed_wheel_works_in_the_root_of_a_clone_and_elsewhere(
    installed_python: Path, tmp_path: Path, place: str
) -> None:
    """In the root, Python takes the folder bestow_edge/ for the package: its parts are beside it, not in it."""
    folder = ROOT if place == "clone" else tmp_path
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
    code = "import bestow_edge.runtime, bestow_edge.export, bestow_edge.training; print(bestow_edge.__file__)"
    for arguments in (["-c", code], ["-m", "bestow_edge", "--version"]):
        done = subprocess.run(
            [installed_python, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        if arguments[0] == "-c":
            origin = Path(done.stdout.strip()).parent
            assert (origin == ROOT / "bestow_edge") == (place == "clone")
            assert origin.is_relative_to(ROOT if place == "clone" else installed_python.parents[1])
        else:
            assert done.stdout.startswith("bestow-edge ")


@pytest.mark.slow
def test_a_frozen_program_runs_without_python_and_holds_no_torch(unpacked: Path, tmp_path: Path) -> None:
    example, audio = (ROOT / "examples" / name for name in ("transcribe_file.py", "audio/digits_en.wav"))
    env = dict(os.environ, PYTHONPATH=str(unpacked), PYINSTALLER_CONFIG_DIR=str(tmp_path / "cache"))
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "WARN", "--name", "captions", example]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = tmp_path / "dist" / "captions" / ("captions.exe" if os.name == "nt" else "captions")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    env = {name: value for name, value in os.environ.items() if name in {"SYSTEMROOT", "HOME", "LANG"}}
    ran = subprocess.run([program, audio], cwd=elsewhere, env=env, capture_output=True, encoding="utf-8", check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split()[-1] for line in ran.stdout.splitlines()] == ["neun", "eins", "fünf", "sieben", "null"]
    frozen = modules_of(tmp_path / "build" / "captions" / "PYZ-00.toc")
    assert "bestow_edge" in frozen
    assert not frozen & {*HEAVY, "huggingface_hub", "av", "matplotlib", "scipy"}
    assert sum(path.stat().st_size for path in program.parent.rglob("*") if path.is_file()) < MAX_FROZEN_BYTES


def modules_of(table: Path) -> set[str]:
    """Return the top-level names in a table of contents that PyInstaller writes."""
    return {entry[0].split(".")[0] for entry in ast.literal_eval(table.read_text(encoding="utf-8"))[1]}


@pytest.mark.parametrize("extra", ["", "cpu", "mic", "server"])
def test_running_needs_no_torch_and_no_onnx(settings: dict[str, Any], extra: str) -> None:
    project = settings["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]
    assert not HEAVY & set(closure(wanted))


def test_no_extra_brings_both_onnxruntimes(settings: dict[str, Any]) -> None:
    extras = settings["project"]["optional-dependencies"]
    for name in extras:
        asked = {requirement_name(item) for item in expanded(extras, name)}
        assert not {"onnxruntime", "onnxruntime-gpu"} <= asked, name


def test_no_file_and_no_function_is_too_long() -> None:
    too_long = []
    for name in files():
        if name.endswith(".py"):
            text = (ROOT / name).read_text(encoding="utf-8")
            if (lines := len(text.splitlines())) > MAX_FILE_LINES:
                too_long.append(f"{name}: {lines} lines")
            too_long += [f"{name}: {function}" for function in long_functions(text)]
    assert not too_long


def long_functions(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.name}, {lines} lines"


def expanded(extras: dict[str, list[str]], name: str) -> list[str]:
    """Return the requirements of an extra, with those of the extras it names itself."""
    requirements = []
    for item in extras[name]:
        inner = re.fullmatch(r"bestow-edge\[(.*)\]", item)
        requirements += [r for extra in inner[1].split(",") for r in expanded(extras, extra)] if inner else [item]
    return requirements


def requirement_name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def closure(requirements: list[str]) -> set[str]:
    """Return the names of all distributions these need, as the installed ones say; extras of theirs are left out."""
    names: set[str] = set()
    waiting = list(requirements)
    while waiting:
        name = requirement_name(waiting.pop())
        if name not in names:
            names.add(name)
            waiting += [item for item in installed(name) if "extra ==" not in item]
    return names


def installed(name: str) -> list[str]:
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:  # for another platform or Python
        return []
    return found.requires or []


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (run,) = [line for line in lines if line.startswith("pip install '.[cpu]' && bestow-edge run ")]
    (test,) = [line for line in lines if line.startswith("pip install torch==") and " && python -m pytest" in line]
    assert (ROOT / next(word for word in run.split() if word.startswith("examples/"))).is_file()
    assert [part.split()[0] for part in test.split(" && ")] == ["pip", "pip", "python"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_readme_names_every_folder() -> None:
    """The tree of README.md holds the folders of the product two levels deep."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## What is where")[2].split("```")[1]
    for top in PACKAGE_FOLDERS:
        for folder in sorted(path for path in (ROOT / top).iterdir() if path.is_dir() and any(path.glob("*.py"))):
            assert re.search(rf"\b{folder.name}/", tree), folder
