"""A whole Qwen3-ASR: outputs equal transformers' class, finished blocks never change, wrong folders are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoding
import numpy as np
import pytest
import torch
from commands import run_here
from safetensors.torch import load_file, save_file
from tiny_qwen3_asr import SECONDS, save_qwen3_asr
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.features import log_mel
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.policy import LocalAgreement, Offline, Policy
from bestow_edge.core.prompts import parse_pair, prompt_text
from bestow_edge.core.specs.blocks import blocks
from bestow_edge.core.tensors import SPEECH_EMBEDS
from bestow_edge.export.graphs.base import speech_side
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.whole import init_whole
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.stream.listener import Listener

pytestmark = pytest.mark.usefixtures("no_line")
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen3_asr(tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qwen") / "checkpoint"
    init_whole(WholeRequest(source=str(folder)), out, progress=lambda _: None)
    return out


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    out = tmp_path_factory.mktemp("qwen") / "fp32"
    export_bundle(checkpoint, out, precision="fp32", progress=lambda _: None)
    return load(out, threads=1)


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """5.3 s that begin with their loudest sound, so that the range of all bins is that of the first block."""
    sound = np.load(Path(__file__).parents[2] / "fixtures" / "salm" / "salm.npz")["waveform"][:84_800].copy()
    sound[:4_000] *= 3
    return sound


def reference(folder: Path, checkpoint: Path, waveform: np.ndarray, number: int = 24) -> dict[str, np.ndarray]:
    """Return what transformers' own class and front-end compute for German."""
    theirs = Qwen3ASRForConditionalGeneration.from_pretrained(folder).eval()
    extract = Qwen3ASRFeatureExtractor(feature_size=32)
    features = extract(waveform, sampling_rate=16_000, padding=True, return_attention_mask=True)
    mask = features["attention_mask"]
    config = load_checkpoint(checkpoint).config
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompt = tokenizer.encode(prompt_text(parse_pair("de"), config.chat), add_special_tokens=False).ids
    with torch.no_grad():
        audio = theirs.get_audio_features(features["input_features"], mask)
        at, steps = prompt.index(theirs.config.audio_token_id), len(audio.pooler_output)
        ids = torch.tensor([prompt[:at] + [theirs.config.audio_token_id] * steps + prompt[at + 1 :]])
        inputs = {"input_ids": ids, "input_features": features["input_features"], "input_features_mask": mask}
        logits = theirs(**inputs).logits[0, at + steps - 1 :]
        answer = theirs.generate(**inputs, max_new_tokens=number, do_sample=False)[0, ids.shape[1] :]
    return {
        "features": features["input_features"][0, :, : int(mask.sum())].T.numpy(), "encoded": audio.last_hidden_state,
        "projected": audio.pooler_output, "logits": logits, "answer": answer.numpy(), "prompt": np.array(prompt),
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("samples", [84_800, 64_000, 33_000, 3_000])
def test_everything_equals_transformers(folder: Path, checkpoint: Path, waveform: np.ndarray, samples: int) -> None:
    """Also of whole blocks, and of audio that is filled up to half a second."""
    want = reference(folder, checkpoint, waveform[:samples])
    model = load_checkpoint(checkpoint)
    heard = np.pad(waveform[:samples], (0, max(0, 8_000 - samples)))
    mel = log_mel(heard, model.config.features)
    np.testing.assert_allclose(mel, want["features"], atol=1e-4)
    speech = model.encode(torch.from_numpy(mel)[None], torch.tensor([len(mel)]))
    np.testing.assert_allclose(speech.steps[0], want["encoded"], atol=1e-4)
    assert int(speech.lens[0]) == blocks(model.config).num_steps(len(mel)) == len(want["encoded"])
    (projected,) = speech_side(model)(speech.steps)
    np.testing.assert_allclose(projected[0], want["projected"], atol=1e-4)
    prompt = torch.from_numpy(want["prompt"])[None]
    behind = len(want["logits"])
    logits = model(prompt, speech, torch.zeros_like(prompt)).logits[0, -behind:]
    np.testing.assert_allclose(logits, want["logits"], atol=1e-4)


@torch.no_grad()
def test_utterances_of_a_batch_are_apart(checkpoint: Path, waveform: np.ndarray) -> None:
    model = load_checkpoint(checkpoint)
    mel = torch.from_numpy(log_mel(waveform, model.config.features))
    batch, lens = torch.stack([mel, mel]), torch.tensor([len(mel), 137])
    batch[1, 137:] = 0
    together = model.encode(batch, lens)
    alone = model.encode(mel[None, :137], lens[1:])
    steps = int(alone.lens[0])
    assert together.lens.tolist() == [blocks(model.config).num_steps(len(mel)), steps]
    torch.testing.assert_close(together.steps[1, :steps], alone.steps[0], atol=1e-5, rtol=1e-5)


TEMPLATE = (  # as the checkpoint's chat_template.jinja lays it out
    "<|im_start|>system\n{% for m in messages if m.role == 'system' %}{{ m.content[0].text }}{% endfor %}<|im_end|>\n"
    "<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    "{% for m in messages if m.role == 'assistant' %}{{ m.content[0].text }}{% endfor %}"
)


def test_hotwords_stand_in_the_system_turn(bundle: Model, folder: Path) -> None:
    """The prompt is that of transformers' processor."""
    names = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=names)
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(feature_size=32), tokenizer, chat_template=TEMPLATE)
    german = parse_pair("de")
    for words, prompt in ([], None), ([Hotword("Zürich"), Hotword("Bad Homburg")], "Zürich, Bad Homburg"):
        (text,) = processor.apply_transcription_request(np.zeros(1), "German", prompt, tokenize=False)
        want = tuple(tokenizer(text, add_special_tokens=False).input_ids)
        assert bundle.prompt_ids(german, words) == want
        session = bundle.session(source="de", hotwords=words)
        assert session._prompt_tokens == [want]


def tokens(model: Model, waveform: np.ndarray, policy: Policy, block: int) -> list[int]:
    return decoding.tokens(model.session(source="de", policy=policy), waveform, block)[0]


@pytest.mark.parametrize("samples", [84_800, 3_000])
def test_offline_tokens_equal_generate(
    bundle: Model, folder: Path, checkpoint: Path, waveform: np.ndarray, samples: int
) -> None:
    want = reference(folder, checkpoint, waveform[:samples], number=12)["answer"].tolist()
    got = tokens(bundle, waveform[:samples], Offline(), 10_000)
    assert got[:12] == want[: len(got)]
    assert len(set(want)) > 3  # it says something


@pytest.mark.parametrize("policy", [LocalAgreement(2, 13), LocalAgreement(2, 26), Offline()], ids=repr)
def test_blocks_of_audio_make_no_difference(bundle: Model, waveform: np.ndarray, policy: Policy) -> None:
    whole, cut = (tokens(bundle, waveform, policy, size) for size in (84_800, 777))
    assert whole == cut
    assert whole


def test_finished_blocks_never_change(bundle: Model, waveform: np.ndarray) -> None:
    """Steps of a stream equal those of the whole audio, for each block from its last encoding on."""
    whole = load_speech(bundle, waveform, Offline())
    stream = load_speech(bundle, waveform, LocalAgreement(2, 13))
    size = 13 * SECONDS
    for first in range(0, len(whole[-1][1]), size):
        ends = [(start, steps) for start, steps in stream if start == first]
        assert [start for start, _ in ends] == [first] * len(ends)
        want = next(steps for start, steps in whole if start == first)
        np.testing.assert_allclose(ends[-1][1], want, atol=1e-5)
    assert [start // size for start, _ in stream] == [0, 0, 1, 1, 2, 2]  # 5.3 s in seconds, two a block


def load_speech(model: Model, waveform: np.ndarray, policy: Policy) -> list[tuple[int, Any]]:
    """Return the first step and the embeddings of each encoding."""
    listener = Listener(model.open_encoder(model.graphs, [policy], 0), None)
    found = []
    listener.add(waveform)
    listener.end()
    while listener.has_chunk:
        speech = listener.next_chunk()
        (embeds,) = model.device.get(speech.tensors[SPEECH_EMBEDS])
        found.append((speech.start, embeds[0, : speech.end - speech.start]))
    return found


def test_a_session_that_reads_more_encodes_less_often(bundle: Model, waveform: np.ndarray) -> None:
    ends = {}
    for reads in (4, 13, 14, 26):
        encodings = load_speech(bundle, waveform, LocalAgreement(2, reads))
        ends[reads] = [start + len(steps) for start, steps in encodings]
    assert ends[4] == ends[13] == [13, 26, 39, 52, 65, 69]
    assert ends[14] == ends[26] == [26, 52, 69]


def test_later_sound_changes_no_earlier_text(bundle: Model, waveform: np.ndarray) -> None:
    louder = np.concatenate([waveform[:72_000], 4 * waveform[72_000:]])
    texts = []
    for audio in (waveform, louder):
        written: list[tuple[float, int]] = []
        session = bundle.session(source="de", policy=LocalAgreement(2, 13))
        session.on_decision = lambda one, out=written: (
            out.append((one.time_s, one.token_id)) if one.verdict == "write" else None
        )
        session.feed(audio)
        session.finish()
        texts.append(written)
    early, other = ([token for heard, token in text if heard <= 4.01] for text in texts)
    assert early == other
    assert early
    assert texts[0] != texts[1]


def test_segments_begin_anew(bundle: Model, waveform: np.ndarray) -> None:
    segments = replace(bundle.config.segments, max_s=4.0)
    for policy in (LocalAgreement(2, 13), Offline()):
        with bundle.session(source="de", policy=policy, segments=segments) as session:
            session.feed(np.tile(waveform, 2))
            session.finish()
            assert session.segment_start_s > 4


def test_the_authors_layout_gives_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_qwen3_asr(tmp_path / "authors", authors=True)
    assert any(name.startswith("thinker.") for name in load_file(folder / "model.safetensors"))
    init_whole(WholeRequest(source=str(folder)), tmp_path / "out", progress=lambda _: None)
    want, got = (load_checkpoint(path).state_dict() for path in (checkpoint, tmp_path / "out"))
    assert want.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())


def test_init_and_inspect(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "checkpoint"
    code, _, err = run_here(capsys, "init", "--from", folder, "--out", out)
    assert code == 0, err
    code, printed, _ = run_here(capsys, "inspect", out)
    assert "blocks of 26 steps, the last one encoded again every 13" in " ".join(printed.split())
    code, _, err = run_here(capsys, "init", "--from", folder, "--llm", "x", "--out", tmp_path / "other")
    assert (code, "is a Qwen3-ASR: leave out --llm" in err) == (2, True)


def edit(path: Path, **values: Any) -> None:
    fields = json.loads(path.read_text())
    fields["audio_config"].update(values)
    path.write_text(json.dumps(fields))


def without(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: without(folder, "model.multi_modal_projector.linear_1.bias"),
         r"1 missing weights: connector\.hidden\.0\.bias"),
        (lambda folder: edit(folder / "config.json", encoder_layers=3), "missing weights: encoder.layers.2"),
        (lambda folder: edit(folder / "config.json", n_window=20), "n_window 20 and n_window_infer 200; expected 50"),
        (lambda folder: edit(folder / "config.json", activation_function="relu"), "relu.*; only .*gelu.* is supported"),
        (lambda folder: edit(folder / "config.json", d_model="wide"), "transformers refuses its config"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "its tokenizer does not load"),
    ],
)  # fmt: skip
def test_damaged_folders(tmp_path: Path, damage: Change, message: str) -> None:
    folder = save_qwen3_asr(tmp_path / "model")
    damage(folder)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        init_whole(WholeRequest(source=str(folder)), tmp_path / "out", progress=lambda _: None)
    assert not (tmp_path / "out").exists()
