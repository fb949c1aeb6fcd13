"""Damaged bundles, and what `verify`, `inspect` and `export` say about good ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run_here


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    path = bundle / "bundle.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def truncate(bundle: Path) -> None:
    path = bundle / "llm_step.onnx"
    path.write_bytes(path.read_bytes()[:1_000])


def alter(bundle: Path) -> None:
    path = bundle / "llm_step.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(bundle: Path) -> None:
    """Put one graph in another's place, with a manifest that agrees."""
    shutil.copyfile(bundle / "llm_step.onnx", bundle / "adapter_step.onnx")
    content = (bundle / "adapter_step.onnx").read_bytes()
    new = {"path": "adapter_step.onnx", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda document: [entry.update(new) for entry in document["files"] if entry["path"] == new["path"]])


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "not a bundle, bundle.json is missing"),
    (lambda bundle: (bundle / "adapter_step.onnx").unlink(), "adapter_step.onnx: the file is missing"),
    (lambda bundle: (bundle / "tokenizer.json").unlink(), "tokenizer.json: the file is missing"),
    (truncate, "llm_step.onnx: 1000 bytes, the manifest says"),
    (lambda bundle: edit(bundle, lambda document: document.update(format_version=99)), "format bestow-edge-bundle 99"),
    (lambda bundle: edit(bundle, lambda document: document.update(colour="red")), "unknown colour; known are"),
    (lambda bundle: edit(bundle, lambda document: document["files"][0].update(path="../x")), "leaves the bundle"),
    (lambda bundle: (bundle / "bundle.json").write_text("{"), "not valid JSON"),
    (swap, "adapter_step.onnx: tensors differ from the manifest's model"),
]


@pytest.mark.parametrize("command", ["run", "verify"])
@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message[:30] for _, message in DAMAGE])
def test_damaged_bundles(
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    wav: Path,
    command: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    damage(bundle)
    arguments = ["run", wav, "--bundle", bundle] if command == "run" else ["verify", bundle]
    code, out, err = run_here(capsys, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_verify_finds_an_altered_file(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    alter(bundle)
    code, _, err = run_here(capsys, "verify", bundle)
    assert code == 2
    assert "SHA-256 differs from the manifest" in err


def test_verify(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run_here(capsys, "verify", tiny_bundle)
    assert (code, err, out.count(" ok ")) == (0, "", 3)
    from bestow_edge.runtime.records import golden

    monkeypatch.setitem(golden.TOLERANCES, "fp32", -1.0)
    code, out, _ = run_here(capsys, "verify", tiny_bundle, "--json")
    record = json.loads(out)
    assert (code, record["passed"]) == (1, False)
    assert [row["graph"] for row in record["graphs"]] == ["encoder_chunk", "adapter_step", "llm_step"]


def test_inspect_bundle(capsys: pytest.CaptureFixture[str], tiny_bundle: Path) -> None:
    code, out, err = run_here(capsys, "inspect", tiny_bundle)
    assert (code, err) == (0, "")
    for shown in ("en-en, en-de, de-de, de-en", "mel: float32 (batch, frames, 80)", "golden.npz", "batch=1 frames=112"):
        assert shown in out
    record = json.loads(run_here(capsys, "inspect", tiny_bundle, "--json")[1])
    assert (record["kind"], record["format_version"]) == ("bundle", 5)
    assert "token_ids: int64 (batch, tokens)" in record["graphs"]["adapter_step"]["inputs"]


def test_inspect_a_bidirectional_bundle(
    capsys: pytest.CaptureFixture[str], bidirectional_bundle: Path, bidirectional_checkpoint: Path
) -> None:
    for path in (bidirectional_bundle, bidirectional_checkpoint):
        code, out, err = run_here(capsys, "inspect", path)
        assert (code, err) == (0, "")
        shown = " ".join(out.replace("\u2502", " ").split())
        assert "bidirectional, encoded again every 4 steps: at most 375 steps of 80 ms, right context 13" in shown
        assert "16000 Hz, 80 mel bins, normalised per_feature" in shown
        assert "look-aheads" not in shown
    record = json.loads(run_here(capsys, "inspect", bidirectional_bundle, "--json")[1])
    assert record["graphs"]["encoder_window"]["inputs"] == [
        "mel: float32 (batch, frames, 80)", "frame_end: int64 (batch)"
    ]  # fmt: skip
    assert record["model"]["encoder"]["window"] == 375


def test_inspect_checkpoint_without_torch(cli: Callable[..., Any], tiny_checkpoint: Path) -> None:
    blocked = "import sys\nfor name in ('torch', 'safetensors', 'numpy'): sys.modules[name] = None"
    done = cli("inspect", tiny_checkpoint, "--json", before=blocked)
    record = json.loads(done.stdout)
    assert record["kind"] == "checkpoint"
    assert set(record["weights"]) == {"encoder", "connector", "llm"}
    assert record["weights"]["connector"] > 100_000
    assert "wait-k, k 3, l 4" in cli("inspect", tiny_checkpoint, before=blocked).stdout


def test_inspect_something_else(capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = run_here(capsys, "inspect", tmp_path)
    assert code == 2
    assert "is neither a bundle nor a checkpoint" in err
    assert "no such directory" in run_here(capsys, "inspect", tmp_path / "gone")[2]
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"12345678not a header")
    code, _, err = run_here(capsys, "inspect", copy)
    assert code == 2
    assert "model.safetensors: not a safetensors file" in err


@pytest.mark.slow
def test_export(cli: Callable[..., Any], tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = cli("export", tiny_checkpoint, "--out", "made", "--precision", "fp32", timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert "torchvision" not in done.stderr
    assert "llm_step: comparing with PyTorch" in done.stderr
    assert "Parity with PyTorch" in done.stdout
    assert "golden.npz" in done.stdout
    assert (tmp_path / "made" / "bundle.json").is_file()
    again = cli("export", tiny_checkpoint, "--out", "made")
    assert again.returncode == 2
    assert "error: " in again.stderr
    assert "--force" in again.stderr


def test_export_errors(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("export", tmp_path / "gone", "--out", "made", before="import sys; sys.modules['onnx'] = None")
    assert done.returncode == 2
    done = cli("export", tmp_path / "gone", "--out", "made", before="import sys; sys.modules['torch'] = None")
    assert done.returncode == 2
    assert done.stderr.endswith("error: torch is not installed; run: pip install 'bestow-edge[export]'\n")
    assert not (tmp_path / "made").exists()


def test_without_a_path_the_embedded_bundle_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    from bestow_edge.runtime import embedded_bundle

    embedded = str(embedded_bundle())
    for command in ("verify", "inspect"):
        code, out, err = run_here(capsys, command, "--json")
        record = json.loads(out)
        assert (code, err, record.get("bundle", record.get("path"))) == (0, "", embedded)
    code, out, err = run_here(capsys, "report")
    assert (code, err) == (0, "")
    assert out.startswith("# Model card: people\n")
