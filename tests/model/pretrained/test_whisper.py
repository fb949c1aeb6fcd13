"""A whole Whisper and its encoder: a checkpoint equal to transformers' model, and damaged folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run_here
from safetensors.torch import load_file, save_file
from tiny_llms import make_llm
from tiny_whisper import edit, save_whisper
from transformers import WhisperForConditionalGeneration

from bestow_edge.core.checkpoint import load_config
from bestow_edge.core.config import PolicyConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.specs.cross_layers import cross_layers
from bestow_edge.core.specs.windowed import windowed
from bestow_edge.model.base import Speech
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.whisper import whisper_encoder, whole

pytestmark = pytest.mark.usefixtures("no_line")
ALIGN_ATT = PolicyConfig(name="align-att", l=4, threshold=2)
FRAMES = 200  # all that the encoder has positions for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


def read(folder: Path, padding: int = 25) -> Any:
    request = WholeRequest(source=str(folder), policy=ALIGN_ATT, padding_s=0.08 * padding)
    return whole(folder, request).model


def test_logits_equal_transformers(folder: Path) -> None:
    model, theirs = read(folder), WhisperForConditionalGeneration.from_pretrained(folder).eval()
    mel = torch.randn(2, FRAMES, 80, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 250, (2, 9))
    with torch.no_grad():
        speech = model.encode(mel, torch.full((2,), FRAMES))
        want = theirs(input_features=mel.transpose(1, 2), decoder_input_ids=ids)
        got = model(ids, speech, torch.zeros_like(ids)).logits
    positions = speech.steps.reshape(2, -1, 32)  # four positions a step
    torch.testing.assert_close(positions, want.encoder_last_hidden_state, atol=1e-5, rtol=1e-5)
    barred = model.connector.barred
    torch.testing.assert_close(got[..., ~barred], want.logits[..., ~barred], atol=1e-4, rtol=1e-4)
    assert torch.equal(got[..., barred].amax(-1), got.amin(-1))  # never the best, and finite
    assert barred.nonzero().flatten().tolist()[:3] == [5, 6, 7]


def test_short_utterances_are_not_filled_up(folder: Path) -> None:
    encoder = read(folder)
    mel = torch.randn(1, 80, 80)
    with torch.no_grad():
        alone = encoder.encode(mel[:, :37], torch.tensor([37]))
        beside = encoder.encode(mel, torch.tensor([37]))
    assert alone.lens.tolist() == beside.lens.tolist() == [5]
    torch.testing.assert_close(alone.steps, beside.steps[:, :5], atol=1e-5, rtol=1e-5)


def test_config(folder: Path) -> None:
    config = read(folder).config
    encoder, connector = windowed(config), cross_layers(config)
    assert (encoder.window, encoder.right_context, encoder.padding, encoder.block) == (25, 0, 25, 4)
    assert (encoder.width, encoder.positions_per_step, config.step_s) == (4 * 32, 4, 0.08)
    assert connector.alignment_heads == ((0, 1), (1, 3))
    assert config.pairs == ("en-en", "de-de", "de-en")
    assert config.features.normalize == "peak"


def test_prompt_ids(folder: Path) -> None:
    part = whole(folder, WholeRequest(source=str(folder)))
    model, tokenizer = part.model, part.tokenizer
    from bestow_edge.core.prompts import parse_pair, prompt_text

    text = prompt_text(parse_pair("de-en"), model.config.chat)
    assert text == "<|startoftranscript|><|de|><|translate|><|notimestamps|>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert [tokenizer.id_to_token(token) for token in ids] == [
        f"<|{name}|>" for name in text.strip("<|>").split("|><|")
    ]


def test_an_english_one_has_a_short_prompt(tmp_path: Path) -> None:
    model = read(save_whisper(tmp_path, multilingual=False))
    assert model.config.pairs == ("en-en",)
    assert (model.config.chat.before, model.config.chat.instruction) == ("<|startoftranscript|>", "")


def test_texts_without_speech_are_refused(folder: Path) -> None:
    model, ids = read(folder), torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ConfigError, match="its LLM reads speech alone"):
        model(ids, None, ids)
    with pytest.raises(ConfigError, match="its LLM reads speech alone"):
        model(ids, Speech(torch.zeros(1, 2, 128), torch.tensor([2])), ids, with_llm=False)


def test_the_encoder_alone(folder: Path) -> None:
    part = whisper_encoder(folder)
    assert part.left_out == {"decoder": len(load_file(folder / "model.safetensors")) - len(part.module.state_dict())}
    assert part.config.padding == 0
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).model.encoder.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in part.module.state_dict().items())


def break_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: break_weights(folder, lambda w: w.pop("model.decoder.layer_norm.bias")),
         "1 missing weights: llm.model.decoder.layer_norm.bias"),
        (lambda folder: break_weights(folder, lambda w: w.update(extra=torch.zeros(1))),
         "1 unknown weights: llm.extra"),
        (lambda folder: break_weights(folder, lambda w: w.update({"model.encoder.conv1.bias": torch.zeros(7)})),
         r"encoder.conv1.bias \(7,\), config says \(32,\)"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json: does not load"),
        (lambda folder: (folder / "generation_config.json").unlink(), "generation_config.json is missing"),
        (lambda folder: edit(folder / "generation_config.json", alignment_heads=None), "names no alignment_heads"),
        (lambda folder: edit(folder / "preprocessor_config.json", n_fft=512), "n_fft is 512, expected 400"),
        (lambda folder: edit(folder / "config.json", tie_word_embeddings=False), "tie_word_embeddings is false"),
        (lambda folder: edit(folder / "config.json", d_model="wide"), "transformers refuses its config"),
        (lambda folder: edit(folder / "config.json", decoder_start_token_id=3), "<|startoftranscript|> is"),
    ],
)  # fmt: skip
def test_damaged_folders(tmp_path: Path, damage: Any, message: str) -> None:
    save_whisper(tmp_path)
    damage(tmp_path)
    with pytest.raises((CheckpointError, ConfigError), match=message.replace("|", r"\|")):
        read(tmp_path)


def test_init_from_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "checkpoint"
    code, printed, _ = run_here(capsys, "init", "--from", folder, "--out", out, "--padding", "0.8", "--json")
    assert code == 0
    assert [part["part"] for part in json.loads(printed)["parts"]] == ["encoder", "llm"]
    assert windowed(load_config(out)).padding == 10
    weights = load_checkpoint(out).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read(folder).state_dict().items())


def test_init_with_its_encoder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm, out = make_llm(tmp_path / "llm", "llama"), tmp_path / "checkpoint"
    arguments = ("--llm", llm, "--out", out, "--adapter-width", 48, "--adapter-heads", 4)
    code, _, _ = run_here(capsys, "init", "--encoder", folder, *arguments)
    assert code == 0
    config = load_config(out)
    assert (config.encoder.kind, config.encoder.width, config.connector.kind) == ("windowed", 128, "cross_adapter")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "x", "--encoder", "y"), "--from takes a whole model"),
        (("--llm", "y"), "give --encoder and --llm, or a whole model with --from"),
    ],
)
def test_init_refuses(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_here(capsys, "init", *arguments, "--out", "unused")
    assert (code, message in err) == (2, True), err


def test_init_from_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_here(capsys, "init", "--from", make_llm(tmp_path / "llm", "llama"), "--out", tmp_path / "out")
    assert (code, "expected a Whisper" in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_numbers_stay_finite(folder: Path) -> None:
    model = read(folder)
    logits = model(torch.zeros(1, 2, dtype=torch.int64), model.encode(torch.zeros(1, 8, 80), torch.tensor([8])),
                   torch.zeros(1, 2, dtype=torch.int64)).logits  # fmt: skip
    assert np.isfinite(logits.detach().numpy()).all()
