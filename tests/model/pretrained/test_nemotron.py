"""NVIDIA's cache-aware recognisers as transformers saves them, model and processor: features and steps are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from commands import run_here
from tiny_llms import edit_json, make_llm, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, NemotronAsrStreamingFeatureExtractor, ParakeetTokenizer

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.features import log_mel
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.model.pretrained.huggingface import huggingface_encoder
from bestow_edge.runtime import read_audio

pytestmark = pytest.mark.usefixtures("no_line")
TOLERANCE = 1e-4
AUDIO = Path(__file__).parents[2] / "audio" / "speech_commands"
ENGLISH, MULTILINGUAL = "NemotronAsrStreaming", "Nemotron3_5Asr"
LOOKAHEADS = {ENGLISH: [13, 6, 1, 0], MULTILINGUAL: [3, 0, 6, 13]}  # as published, the default one first
LEFT = {ENGLISH: 70, MULTILINGUAL: 56}
PARTS = {"encoder_projector", "decoder", "joint"}
PROMPT = {"num_prompts": 5, "prompt_intermediate_size": 24, "default_prompt_id": 3}
LANGUAGES = {"en-US": 0, "de-DE": 2, "auto": 3}


def recogniser(name: str) -> Any:
    """Return a random model with the fields of a published one, but for its sizes."""
    encoder = AutoConfig.for_model(
        "nemotron_asr_streaming_encoder", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, subsampling_conv_channels=8, num_mel_bins=128, attention_bias=False,
        convolution_bias=False, scale_input=False, sliding_window=LEFT[name] + 1,
        default_num_lookahead_tokens=LOOKAHEADS[name][0],
    )  # fmt: skip
    prompt = PROMPT if name == MULTILINGUAL else {}
    fields = {"vocab_size": 9, "decoder_hidden_size": 16, "blank_token_id": 8, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(encoder_config=encoder.to_dict(), **fields, **prompt)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForRNNT")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # large enough for every part to matter
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.dim() > 1 else 0.1) + (weight.dim() == 1) * weight)
    return model


def processor(name: str) -> Any:
    """Return a processor with the front-end, look-aheads and languages of a published one."""
    vocabulary = {"<pad>": 0, "<unk>": 1, **{letter: index for index, letter in enumerate("abcdef", 2)}, "<blank>": 8}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no secret
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = ParakeetTokenizer(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")  # noqa: S106
    lookaheads = {
        "supported_num_lookahead_tokens": LOOKAHEADS[name],
        "default_num_lookahead_tokens": LOOKAHEADS[name][0],
    }
    prompt = {"prompt_dictionary": LANGUAGES, "num_prompts": PROMPT["num_prompts"]} if name == MULTILINGUAL else {}
    extractor = NemotronAsrStreamingFeatureExtractor(feature_size=128)
    return getattr(transformers, f"{name}Processor")(extractor, fast, **lookaheads, **prompt)


@pytest.fixture(scope="module", params=[ENGLISH, MULTILINGUAL])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any, Any]:
    """Name, folder, model and processor."""
    folder = tmp_path_factory.mktemp("recogniser")
    model, whole = recogniser(request.param), processor(request.param)
    save(model, folder)
    whole.save_pretrained(folder)
    return request.param, folder, model, whole


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """Three digits; white noise would show that transformers' float32 spectrum is 1.3e-4 off exact arithmetic."""
    return np.concatenate([read_audio(path, 16_000) for path in sorted(AUDIO.glob("one_*.ogg"))[:3]])


def features(whole: Any, waveform: np.ndarray) -> Any:
    inputs = whole(waveform, sampling_rate=16_000)
    frames = int(inputs["attention_mask"].sum())
    return inputs["input_features"][:, :frames]


@torch.no_grad()
def test_init_takes_the_encoder(
    published: tuple[str, Path, Any, Any], waveform: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder, model, whole = published
    parts = ("--encoder", folder, "--llm", make_llm(tmp_path / "llm"), "--adapter-width", 16, "--adapter-heads", 2)
    code, _, err = run_here(capsys, "init", *parts, "--out", tmp_path / "start")
    assert code == 0, err
    expected = PARTS | ({"prompt_projector"} if name == MULTILINGUAL else set())
    assert all(f"of {part}" in err for part in expected)
    ours = load_checkpoint(tmp_path / "start")
    encoder: Any = ours.config.encoder
    assert encoder.left_context == LEFT[name]
    assert encoder.right_contexts == tuple(LOOKAHEADS[name]) == tuple(whole.supported_num_lookahead_tokens)
    mel = features(whole, waveform)
    got = torch.from_numpy(log_mel(waveform, ours.config.features))
    assert got.shape == mel[0].shape
    assert float((got - mel[0]).abs().max()) < TOLERANCE
    for lookahead in whole.supported_num_lookahead_tokens:
        want = model.encoder(mel, num_lookahead_tokens=lookahead).last_hidden_state[0]
        speech = ours.encode(got[None], torch.tensor([len(got)]), lookahead)
        steps = speech.steps[0, : int(speech.lens)]
        assert steps.shape == want.shape
        assert float((steps - want).abs().max()) < TOLERANCE
    assert encoder.default_right_context == whole.default_num_lookahead_tokens


@torch.no_grad()
def test_a_language_changes_no_step_of_the_encoder(waveform: np.ndarray) -> None:
    model, mel = recogniser(MULTILINGUAL), features(processor(MULTILINGUAL), waveform)
    english, german = (
        model.get_audio_features(mel, prompt_ids=torch.tensor([LANGUAGES[code]])) for code in ("en-US", "de-DE")
    )
    assert torch.equal(english.last_hidden_state, german.last_hidden_state)
    assert not torch.allclose(english.pooler_output, german.pooler_output, atol=0.01)  # the prompt comes behind it


def test_the_processor_chooses_the_default(published: tuple[str, Path, Any, Any], tmp_path: Path) -> None:
    _, folder, _, _ = published
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit_json(tmp_path / "processor_config.json", default_num_lookahead_tokens=6)
    assert huggingface_encoder(tmp_path).config.default_right_context == 6


def test_front_ends_of_other_layouts_are_refused(published: tuple[str, Path, Any, Any], tmp_path: Path) -> None:
    _, folder, _, _ = published
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit_json(tmp_path / "processor_config.json", feature_extractor=None, audio_processor={"sampling_rate": 16_000})
    with pytest.raises(ConfigError, match="its audio_processor is not supported; expected a feature_extractor"):
        huggingface_encoder(tmp_path)
