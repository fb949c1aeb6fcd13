"""Checkpoint directories: round trip, damage, and no pickle in them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import CheckpointError, ConfigError, PromptError
from bestow_edge.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint, load_config, save_checkpoint


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def edit(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = checkpoint / CONFIG_FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(
    model_config: Callable[..., ModelConfig], make_model: Callable[..., Any], tmp_path: Path, tied: bool
) -> None:
    config = model_config()
    config = replace(config, llm=config.llm | {"tie_word_embeddings": tied})
    model = make_model(config)
    save_checkpoint(model, '{"version": "1.0"}', tmp_path / "ck")
    again = load_checkpoint(tmp_path / "ck")
    assert not again.training
    shared = again.llm.get_input_embeddings().weight is again.llm.get_output_embeddings().weight
    assert shared == tied
    want = model.state_dict()
    assert again.state_dict().keys() == want.keys()
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, want[name]), name
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    save_checkpoint(model, '{"version": "2.0"}', tmp_path / "ck")  # a second one takes its place
    assert (tmp_path / "ck" / "tokenizer.json").read_text() == '{"version": "2.0"}'


def test_nothing_is_pickled(checkpoint: Path) -> None:
    weights = (checkpoint / WEIGHTS_FILE).read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert all(entry["dtype"] in {"F32", "I64"} for name, entry in header.items() if name != "__metadata__")
    for name in ("config.json", "tokenizer.json"):
        assert isinstance(json.loads((checkpoint / name).read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=f"not a checkpoint, {name} is missing"):
        load_checkpoint(checkpoint)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_truncated_weights(checkpoint: Path, keep: int) -> None:
    path = checkpoint / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: weights do not load"):
        load_checkpoint(checkpoint)


def change_missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["connector.text_out.weight"]


def change_surplus(weights: dict[str, torch.Tensor]) -> None:
    weights["connector.extra"] = torch.zeros(1)


def change_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["connector.text_out.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "name"),
    [(change_missing, "text_out.weight"), (change_surplus, "connector.extra"), (change_shape, "text_out.weight")],
)
def test_weights_that_do_not_fit(
    checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], None], name: str
) -> None:
    weights = load_file(checkpoint / WEIGHTS_FILE)
    change(weights)
    save_file(weights, checkpoint / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=rf"weights do not load:(?s:.)*{name}"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.update(format_version=9), CheckpointError, "bestow-edge-checkpoint 9, expected"),
        (
            lambda d: d.update(format_version=1),
            CheckpointError,
            "-checkpoint 1, expected bestow-edge-checkpoint 2; make the checkpoint again with train or init$",
        ),
        (lambda d: d.update(format="x"), CheckpointError, "config.json is x 2, expected"),
        (
            lambda d: d["model"].update(polizy=1),
            ConfigError,
            "config: unknown polizy; known are encoder, connector, llm",
        ),
        (lambda d: d["model"]["connector"].update(width="64"), ConfigError, r"config\.connector\.width: expected int"),
        (lambda d: d["model"].update(pairs=["en-xx"]), PromptError, "language pair 'en-xx'"),
        (lambda d: d.pop("model"), ConfigError, "config: encoder is missing"),
    ],
)
def test_wrong_configs(
    checkpoint: Path, change: Callable[[dict[str, Any]], object], error: type[Exception], message: str
) -> None:
    edit(checkpoint, change)
    with pytest.raises(error, match=message):
        load_config(checkpoint)
