"""What may import what: the runtime never needs torch, and importing the package costs next to nothing."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import bestow_edge
import bestow_edge.runtime

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "yaml", "accelerate", "peft"}
SOURCES = ["bestow_edge", "export", "runtime", "training"]
LAYERS = {  # each folder, and the folders it may import besides itself
    "core": (),
    "runtime": ("core",),
    "model": ("core",),
    "export": ("core", "model", "runtime"),
    "training": ("core", "model", "runtime"),
    "evaluation": ("core", "runtime"),
    "server": ("core", "runtime"),
    "cli": ("core", "runtime", "model", "export", "training", "evaluation", "server"),
}
LIBRARIES = {  # of a light layer, all that it may import besides Python's own
    "core": {"numpy", "huggingface_hub"},
    "runtime": {
        "numpy",
        "tokenizers",
        "onnxruntime",
        "platformdirs",
        "soundfile",
        "soxr",
        "sounddevice",
        "cuda",
        "tensorrt",
        "PyInstaller",  # which runs the hooks
    },
    "server": {"numpy", "starlette", "uvicorn", "python_multipart", "prometheus_client"},
}
BLOCKED = [*sorted(HEAVY), "bestow_edge.export", "bestow_edge.training", "bestow_edge.model"]


def imported(path: Path) -> set[str]:
    """Return the full names of all modules a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def run(script: str, *arguments: str, cwd: Path) -> str:
    """Run a script in a fresh Python, outside the repository."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of(layer: str) -> list[Path]:
    """Return every file of a layer, in whatever folder of it."""
    return sorted((ROOT / layer if layer in SOURCES else ROOT / "bestow_edge" / layer).rglob("*.py"))


def test_every_folder_is_a_layer() -> None:
    inside = {path.name for path in (ROOT / "bestow_edge").iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert inside | set(SOURCES) - {"bestow_edge"} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_itself_and_those_below_it(layer: str) -> None:
    allowed = {"bestow_edge", f"bestow_edge.{layer}", *(f"bestow_edge.{other}" for other in LAYERS[layer])}
    for path in files_of(layer):
        ours = {".".join(name.split(".")[:2]) for name in imported(path) if name.split(".")[0] == "bestow_edge"}
        face = {f"bestow_edge.{name}" for name in (*bestow_edge.__all__, "__version__")}
        assert ours - allowed <= face, path


@pytest.mark.parametrize("layer", LIBRARIES)
def test_a_light_layer_imports_no_heavy_library(layer: str) -> None:
    for path in files_of(layer):
        names = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names - {"bestow_edge"}
        assert names <= LIBRARIES[layer], path


def test_one_file_imports_onnxruntime() -> None:
    found = [path for layer in LAYERS for path in files_of(layer) if "onnxruntime" in imported(path)]
    assert found == [ROOT / "runtime" / "devices" / "onnx_cpu.py"]


def test_one_light_file_imports_the_hub() -> None:
    found = [path for layer in LIBRARIES for path in files_of(layer) if "huggingface_hub" in imported(path)]
    assert found == [ROOT / "bestow_edge" / "core" / "hub.py"]


def test_importing_the_package_loads_nothing(tmp_path: Path) -> None:
    script = "import sys, json, bestow_edge; bestow_edge.BestowEdgeError; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(run(script, cwd=tmp_path))}
    assert not loaded & (HEAVY | {"numpy", "onnxruntime", "tokenizers", "soundfile", "soxr", "typer", "rich"})


def test_a_session_runs_with_torch_blocked(tmp_path: Path, tiny_bundle: Path, speech: np.ndarray) -> None:
    np.save(tmp_path / "speech.npy", speech[:32000])
    script = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import json
import numpy as np
import bestow_edge.runtime as runtime
model = runtime.load(sys.argv[1])
with model.session(source="en", target="de", k=1) as session:
    events = [*session.feed(np.load("speech.npy")), *session.finish()]
tokens = [token for event in events if event.text for token in event.token_ids]
print(json.dumps([session.num_tokens, session.heard_s, tokens]))
"""
    num_tokens, heard_s, tokens = json.loads(run(script, str(tiny_bundle), cwd=tmp_path).splitlines()[-1])
    assert num_tokens > 8
    assert tokens
    assert heard_s == pytest.approx(2.0, abs=0.09)


def test_pyproject_lists_every_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {path.parent for source in SOURCES for path in (ROOT / source).rglob("*.py")}
    mapped = {value: key for key, value in setuptools["package-dir"].items()}

    def name(folder: Path) -> str:
        top, *rest = folder.relative_to(ROOT).parts
        return ".".join([mapped.get(top, top), *rest])

    assert {name(folder) for folder in found} == set(setuptools["packages"])
    assert all((folder / "__init__.py").is_file() for folder in found)


def test_public_names_are_pinned() -> None:
    assert bestow_edge.__all__ == [
        "AlignAtt", "BestowEdgeError", "Event", "EveryStep", "Hotword", "LiveSession", "LocalAgreement", "Model",
        "Offline", "Policy", "Question", "SegmentConfig", "SegmentEvent", "Session", "TextEvent", "View", "WaitK",
        "load", "open_audio", "read_audio", "stream",
    ]  # fmt: skip
    assert bestow_edge.runtime.__all__ == [
        "AlignAtt", "Event", "EveryStep", "Hotword", "LiveSession", "LocalAgreement", "Model", "Offline", "Policy",
        "Question", "SegmentConfig", "SegmentEvent", "Session", "TextEvent", "View", "WaitK", "embedded_bundle", "load",
        "open_audio", "read_audio", "stream"
    ]  # fmt: skip
    for name in bestow_edge.__all__:
        assert getattr(bestow_edge, name) is not None
    for name in set(bestow_edge.__all__) & set(bestow_edge.runtime.__all__):
        assert getattr(bestow_edge, name) is getattr(bestow_edge.runtime, name)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = bestow_edge.lode
