"""`doctor` and `devices` on machines where things are missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
