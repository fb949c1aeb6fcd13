"""Encoders out of transformers' folders, alone and inside recognisers, and where parts are found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from tiny_llms import edit_json, save
from transformers import AutoConfig, AutoModel

from bestow_edge.core.errors import CheckpointError, ConfigError, HubError
from bestow_edge.model.pretrained.huggingface import huggingface_encoder
from bestow_edge.model.pretrained.repository import find_source, origins, pinned

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "subsampling_conv_channels": 4,
}  # fmt: skip
STREAMING, PARAKEET = "nemotron_asr_streaming_encoder", "parakeet_encoder"


def whole_model(name: str) -> Any:
    """Return a random recogniser of transformers, or an encoder alone."""
    torch.manual_seed(0)
    kind = STREAMING if name.startswith("Nemotron") or name == STREAMING else PARAKEET
    encoder = AutoConfig.for_model(kind, **SIZES)
    if name in (STREAMING, PARAKEET):
        return AutoModel.from_config(encoder)
    rnnt = {"vocab_size": 9, "decoder_hidden_size": 8, "blank_token_id": 8, "pad_token_id": 0}
    decoder = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
               "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}  # fmt: skip
    fields: dict[str, dict[str, Any]] = {
        "ParakeetForCTC": {"vocab_size": 9, "pad_token_id": 8},
        "ParakeetForRNNT": rnnt,
        "ParakeetForTDT": rnnt,
        "NemotronAsrStreamingForRNNT": rnnt,
        "CanaryForConditionalGeneration": {"vocab_size": 9, "decoder_config": decoder, "pad_token_id": 0},
    }
    cls = getattr(transformers, name)
    return cls(cls.config_class(encoder_config=encoder.to_dict(), **fields[name]))


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        (STREAMING, set()),
        (PARAKEET, set()),
        ("ParakeetForCTC", {"ctc_head"}),
        ("ParakeetForRNNT", {"decoder", "encoder_projector", "joint"}),
        ("ParakeetForTDT", {"decoder", "encoder_projector", "joint"}),
        ("NemotronAsrStreamingForRNNT", {"decoder", "encoder_projector", "joint"}),
        ("CanaryForConditionalGeneration", {"decoder", "proj_out"}),
    ],
)
def test_the_encoder_alone_is_taken(tmp_path: Path, name: str, left_out: set[str]) -> None:
    model = whole_model(name)
    part = huggingface_encoder(save(model, tmp_path))
    assert set(part.left_out) == left_out
    encoder = model if name in (STREAMING, PARAKEET) else getattr(model, "model", model).encoder
    want = encoder.state_dict()
    assert part.module.state_dict().keys() == want.keys()
    for weight, tensor in part.module.state_dict().items():
        assert torch.equal(tensor, want[weight]), weight
    assert part.features.normalize == ("per_feature" if type(encoder).__name__ == "ParakeetEncoder" else "none")


def test_shards_and_half_precision(tmp_path: Path) -> None:
    model = whole_model("ParakeetForCTC").to(torch.bfloat16)
    save(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    part = huggingface_encoder(tmp_path)
    assert {weight.dtype for weight in part.module.parameters()} == {torch.bfloat16}
    assert torch.equal(part.module.state_dict()["subsampling.linear.bias"], model.encoder.subsampling.linear.bias)


def test_the_front_end_and_look_aheads_come_with_it(tmp_path: Path) -> None:
    save(whole_model(STREAMING), tmp_path)
    assert huggingface_encoder(tmp_path).config.right_contexts == (13, 6, 1, 0)
    processor = {
        "feature_extractor": {"feature_size": 80, "win_length": 320, "preemphasis": None, "hop_length": 160},
        "supported_num_lookahead_tokens": [6, 13],
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    part = huggingface_encoder(tmp_path)
    assert (part.config.right_contexts, part.config.default_right_context) == ((6, 13), 13)
    assert (part.features.window_samples, part.features.preemphasis) == (320, 0.0)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text('{"feature_size": 128}')
    with pytest.raises(ConfigError, match="the feature extractor has 128 mel bins, the encoder 80"):
        huggingface_encoder(tmp_path)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


DAMAGE: dict[str, Callable[[Path], object]] = {
    r"1 missing weights: layers\.0\.conv\.norm\.bias": lambda folder: change(
        folder, lambda weights: weights.pop("encoder.layers.0.conv.norm.bias")
    ),
    r"1 unknown weights: speaker\.x": lambda folder: change(
        folder, lambda weights: weights.update({"speaker.x": torch.zeros(1)})
    ),
    r"2 weights end in subsampling\.linear\.weight": lambda folder: change(
        folder, lambda weights: weights.update({"second.subsampling.linear.weight": torch.zeros(1)})
    ),
    r"model\.safetensors is missing; expected weights as safetensors": lambda folder: (
        folder / "model.safetensors"
    ).unlink(),
    r"not a safetensors file": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
    r"names a file outside its folder": lambda folder: (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"encoder.x": "../secret.safetensors"}}'
    ),
    r"a whisper; expected": lambda folder: edit_json(folder / "config.json", model_type="whisper", encoder_config=None),
    r"a parakeet_ctc with a lasr_encoder; expected": lambda folder: edit_json(
        folder / "config.json", encoder_config={"model_type": "lasr_encoder"}
    ),
    r"subsampling_conv_kernel_size is 5; only 3": lambda folder: edit_json(
        folder / "config.json", encoder_config={"model_type": PARAKEET, **SIZES, "subsampling_conv_kernel_size": 5}
    ),
    r"transformers refuses its sizes": lambda folder: edit_json(
        folder / "config.json", encoder_config={"model_type": PARAKEET, "hidden_size": "wide"}
    ),
    r"of another shape: .*, config says": lambda folder: edit_json(
        folder / "config.json", encoder_config={"model_type": PARAKEET, **SIZES, "intermediate_size": 64}
    ),
    r"not valid JSON": lambda folder: (folder / "config.json").write_text("{"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_named(tmp_path: Path, message: str) -> None:
    save(whole_model("ParakeetForCTC"), tmp_path)
    DAMAGE[message](tmp_path)
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        huggingface_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no config\.json; expected a model as transformers saves it"):
        find_source(str(tmp_path / "empty"), "encoder")
    (tmp_path / "empty" / "a.nemo").touch()
    assert find_source(str(tmp_path / "empty"), "encoder").name == "a.nemo"
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        find_source(str(tmp_path / "empty"), "llm")
    (tmp_path / "empty" / "b.nemo").touch()
    with pytest.raises(CheckpointError, match=r"holds a\.nemo, b\.nemo; give one of them"):
        find_source(str(tmp_path / "empty"), "encoder")
    with pytest.raises(CheckpointError, match=r"a file of an unknown kind; expected a folder .*weights$"):
        find_source(str(tmp_path / "empty" / "a.nemo"), "llm")
    for name in ("./nowhere", "/no/where", "a/b/c", "gone.nemo", "~/nowhere-at-all"):
        with pytest.raises(CheckpointError, match="no such file or folder; a Hub id would look like OWNER/NAME"):
            find_source(name, "encoder")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, name: str, files: dict[str, str]) -> Path:
    """Put files into the cache as a download would."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file, content in files.items():
        (snapshot / file).write_text(content)
    return snapshot


@pytest.mark.usefixtures("no_line")
def test_the_cache_is_used_without_the_network(cache: Path) -> None:
    folder = cached(cache, "some/llm", {"config.json": "{}", "model.safetensors": ""})
    assert find_source("some/llm", "llm", offline=True) == folder
    assert find_source("some/llm@main", "llm", offline=True) == folder
    archive = cached(cache, "some/speech", {"README.md": "", "speech.nemo": ""})
    speech = find_source("some/speech", "encoder", offline=True)
    assert speech == archive / "speech.nemo"
    sources = {"encoder": pinned("some/speech", speech), "LLM": pinned(str(folder), folder)}
    assert sources == {"encoder": f"some/speech@{'0' * 40}", "LLM": str(folder)}
    assert pinned("some/llm@main", folder) == f"some/llm@{'0' * 40}"
    assert origins(sources) == (f"encoder: some/speech@{'0' * 40}",)
    with pytest.raises(HubError, match=r"some/other: .*not in the Hub's cache; downloads are switched off"):
        find_source("some/other", "llm", offline=True)
    with pytest.raises(HubError, match="not an id of the Hub; an id looks like OWNER/NAME"):
        find_source("not an/id", "llm", offline=True)


@pytest.mark.usefixtures("no_line", "cache")
def test_the_environment_switches_downloads_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"downloads are switched off \(--offline or HF_HUB_OFFLINE\)"):
        find_source("some/llm", "llm")


def reply(status: int, code: str) -> httpx2.Response:
    request = httpx2.Request("GET", "https://huggingface.co/api/models/some/llm")
    return httpx2.Response(status, request=request, headers={"X-Error-Code": code})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("x", response=reply(404, "")), "the Hub has no such model, or none for"),
        (errors.GatedRepoError("x", response=reply(403, "")), "wants its terms accepted .*hf auth login"),
        (errors.RevisionNotFoundError("x", response=reply(404, "")), "has no revision v2"),
        (errors.LocalEntryNotFoundError("x"), "the Hub cannot be reached: check the connection"),
        (errors.HfHubHTTPError("503 too busy", response=reply(503, "")), r"cannot be reached \(503 too busy\)"),
        (httpx2.ReadTimeout("timed out"), r"cannot be reached \(timed out\)"),
    ],
)
def test_what_the_hub_answers(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(HubError, match=message) as caught:
        find_source("some/llm@v2", "llm")
    assert isinstance(caught.value, OSError)
    assert "some/llm" in str(caught.value)


def test_what_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[list[str]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        assert (repository, revision, local_files_only) == ("some/llm", None, bool(os.environ.get("HF_HUB_OFFLINE")))
        wanted.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "config.json").write_text("{}")
    assert find_source("some/llm", "llm") == tmp_path
    assert [patterns[-1] for patterns in wanted] == ["*.model", "*.safetensors", "pytorch_model*.bin"]
    assert not any(pattern.endswith((".py", "*")) for patterns in wanted for pattern in patterns)
