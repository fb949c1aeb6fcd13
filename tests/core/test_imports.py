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
LIGHT_FILES = [
    *sorted((ROOT / "bestow_edge").glob("*.py")),
    *sorted((ROOT / "bestow_edge" / "evaluation").glob("*.py")),
    *sorted((ROOT / "runtime").rglob("*.py")),
]
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


@pytest.mark.parametrize("path", LIGHT_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_core_and_runtime_import_nothing_heavy(path: Path) -> None:
    names = imported(path)
    assert not {name.split(".")[0] for name in names} & HEAVY
    heavy_parts = ("bestow_edge.export", "bestow_edge.training", "bestow_edge.model")
    assert not [name for name in names if f"{name}.".startswith(tuple(f"{part}." for part in heavy_parts))]
    if any(name.split(".")[0] == "onnxruntime" for name in names):
        assert path == ROOT / "runtime" / "graph.py"


def test_core_does_not_import_the_runtime() -> None:
    for path in (ROOT / "bestow_edge").glob("*.py"):
        if path.name != "__init__.py":  # its names are loaded when they are used
            assert not [name for name in imported(path) if name.startswith("bestow_edge.runtime")], path


def test_training_and_export_do_not_import_each_other() -> None:
    for folder, other in (("training", "export"), ("export", "training")):
        for path in (ROOT / folder).glob("*.py"):
            assert not [name for name in imported(path) if name.startswith(f"bestow_edge.{other}")], path


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
        "AlignAtt", "BestowEdgeError", "Event", "LiveSession", "LocalAgreement", "Model", "Offline", "Policy",
        "Question", "SegmentConfig", "SegmentEvent", "Session", "TextEvent", "View", "WaitK", "load", "read_audio",
        "stream",
    ]  # fmt: skip
    assert bestow_edge.runtime.__all__ == [
        "AlignAtt", "Event", "LiveSession", "LocalAgreement", "Model", "Offline", "Policy", "Question", "SegmentConfig",
        "SegmentEvent", "Session", "TextEvent", "View", "WaitK", "embedded_bundle", "load", "read_audio", "stream"
    ]  # fmt: skip
    for name in bestow_edge.__all__:
        assert getattr(bestow_edge, name) is not None
    for name in set(bestow_edge.__all__) & set(bestow_edge.runtime.__all__):
        assert getattr(bestow_edge, name) is getattr(bestow_edge.runtime, name)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = bestow_edge.lode
