"""`doctor` and `devices` on machines where things are missing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = "from bestow_edge.cli.main import main; main()"


def blocked(*names: str) -> str:
    return f"import sys\nfor name in {names!r}: sys.modules[name] = None"


def test_doctor(cli: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime")
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    assert "the runtime works" in done.stdout
    report = json.loads(cli("doctor", "--json").stdout)
    assert "CPUExecutionProvider" in report["providers"]
    assert report["errors"] == []
    assert report["versions"]["numpy"].startswith("2.")


def test_no_command_leaves_telemetry(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("XDG_CACHE_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    assert cli("doctor").returncode == 0
    assert [path.name for path in tmp_path.rglob("*") if path.name in {"Microsoft", ".ses"}] == []


def test_doctor_without_training_packages(cli: Callable[..., Any]) -> None:
    done = cli("doctor", "--json", before=blocked("torch", "transformers", "onnx", "sounddevice", "accelerate"))
    report = json.loads(done.stdout)
    assert (done.returncode, report["versions"]["torch"]) == (0, None)
    assert report["missing"]["torch"] == "pip install 'bestow-edge[export]'"
    assert report["missing"]["accelerate"] == "pip install 'bestow-edge[train]'"
    assert report["missing"]["sounddevice"] == "pip install 'bestow-edge[mic]'"


@pytest.mark.parametrize(
    ("name", "command"), [("onnxruntime", "'bestow-edge[cpu]'"), ("numpy", "'bestow-edge'"), ("tokenizers", "'bestow")]
)
def test_doctor_without_the_runtime(cli: Callable[..., Any], name: str, command: str) -> None:
    done = cli("doctor", before=blocked(name))
    assert done.returncode == 1
    assert f"error: {name} cannot be imported" in done.stderr
    assert f"run: pip install {command}" in done.stderr


def test_doctor_with_both_onnxruntimes(cli: Callable[..., Any]) -> None:
    both = "import importlib.metadata as m; old = m.version; m.version = lambda n: '1.2' if 'onnxr' in n else old(n)"
    done = cli("doctor", before=both)
    assert done.returncode == 0
    assert "warning: onnxruntime 1.2 and onnxruntime-gpu 1.2 overwrite each other's files; keep one: " in done.stderr


@pytest.mark.parametrize("command", [["devices"], ["mic", "--bundle"]])
def test_no_sounddevice(cli: Callable[..., Any], tiny_bundle: object, command: list[str]) -> None:
    arguments = command if command == ["devices"] else [*command, tiny_bundle]
    done = cli(*arguments, before=blocked("sounddevice"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: sounddevice is not installed; run: pip install 'bestow-edge[mic]'\n"


FAKE = (
    "import importlib.machinery, sys, types\nfake = types.ModuleType('sounddevice')\n"
    "fake.__spec__ = importlib.machinery.ModuleSpec('sounddevice', None)\nsys.modules['sounddevice'] = fake\n"
)
NO_DEVICE = FAKE + (
    "fake.query_hostapis = lambda: []\nfake.query_devices = lambda: []\n"
    "fake.default = types.SimpleNamespace(device=(-1, -1))"
)
NO_LIBRARY = (
    "import importlib\nold = importlib.import_module\n"
    "def new(name, package=None):\n"
    "    if name == 'sounddevice':\n        raise OSError('PortAudio library not found')\n"
    "    return old(name, package)\n"
    "importlib.import_module = new"
)


@pytest.mark.parametrize(
    ("before", "message"),
    [(NO_DEVICE, "error: no microphone: PortAudio lists no"), (NO_LIBRARY, "error: the PortAudio library was not fou")],
)
def test_no_microphone_and_no_portaudio(
    cli: Callable[..., Any], tiny_bundle: object, before: str, message: str
) -> None:
    for arguments in (["devices"], ["mic", "--bundle", tiny_bundle]):
        done = cli(*arguments, before=before)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert done.stderr.startswith(message)
    assert cli("doctor", before=before).returncode == 0


def test_doctor_of_a_gpu_that_is_not_there(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("doctor", "--gpu", "--pack", tmp_path / "gpu.json", before="import sys\nsys.modules['cuda'] = None")
    assert done.returncode == 0, done.stderr
    assert "No GPU" in done.stdout
    assert "not done" in done.stdout
    assert "cuda.bindings is not installed; run: pip install 'bestow-edge[gpu]'" in done.stdout
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["findings"][0]["state"] == "not done"


def test_doctor_lists_and_cleans_what_killed_commands_left(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from bestow_edge.core import files
target = Path("b").resolve()
if sys.argv[1] == "old":
    Path.rename = lambda path, to, rename=Path.rename: os.kill(os.getpid(), 9) if to == target else rename(path, to)
if sys.argv[1] == "temporary":
    files.temporary_file("a")
    with files.temporary_directory("b"): os.kill(os.getpid(), 9)
with files.atomic_directory(target, replace=True):
    if sys.argv[1] == "new": os.kill(os.getpid(), 9)
"""
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("the only copy")
    for kind in ("old", "new", "temporary"):
        script = [sys.executable, "-c", code, kind]
        if kind == "new":
            (tmp_path / "c").mkdir()
        subprocess.run(script, cwd=tmp_path / "c" if kind == "new" else tmp_path, check=False)
    report = json.loads(cli("doctor", "--json").stdout)
    assert len([path for path in report["leftovers"] if path.startswith(str(tmp_path))]) == 5
    assert any("remove them: bestow-edge doctor --clean" in warning for warning in report["warnings"])
    done = cli("doctor", "--clean")
    assert (done.returncode, "put back as b" in done.stdout) == (0, True)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["b", "b/mine", "c", "t"]
    assert "nothing is left of killed commands" in cli("doctor", "--clean").stdout


def test_sigterm_cleans_up_like_ctrl_c(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "export", str(tiny_checkpoint), "--out", str(tmp_path / "bundle")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "tracing" in line:
                break
        assert any(".edge-new." in path.name for path in tmp_path.iterdir())
        process.terminate()
        assert "stopped by SIGTERM" in process.stderr.read()
        assert process.wait(60) == 143
    assert list(tmp_path.iterdir()) == []
