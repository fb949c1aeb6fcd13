"""`bestow-edge init` from end to end: pretrained parts, a few steps of training, export, verify, real recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run_here
from nemo_files import CACHE_AWARE, nemo_config, nemo_fixture, random_weights, write_nemo
from safetensors import safe_open
from tiny_llms import edit_json, make_llm
from torch.nn import functional as F

from bestow_edge.core.checkpoint import load_config, weight_shapes
from bestow_edge.core.features import log_mel
from bestow_edge.core.policy import WaitK, visible_steps
from bestow_edge.model.checkpoint import load_checkpoint, save_checkpoint
from bestow_edge.runtime import read_audio

pytestmark = pytest.mark.usefixtures("no_line")
AUDIO = Path(__file__).parents[1] / "audio" / "fsdd" / "3_george_4.ogg"
ADAPTER = ("--adapter-width", 48, "--adapter-heads", 4)
STEPS = 6


def encoder_file(kind: str) -> Path:
    """Return NeMo's own file."""
    return nemo_fixture("streaming.nemo" if kind == "cache-aware" else "offline.nemo")


def train(checkpoint: Path, out: Path) -> list[float]:
    """Take a few steps on one recording and return their losses."""
    torch.manual_seed(0)
    model = load_checkpoint(checkpoint).train()
    config = model.config
    mel = torch.from_numpy(log_mel(read_audio(AUDIO, 16_000), config.features))[None]
    token_ids = torch.arange(20, 32)[None]
    steps = visible_steps(WaitK(1, 4), prompt_tokens=6, text_tokens=12, source_steps=mel.shape[1] // 8)
    visible = torch.from_numpy(steps)[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        speech = model.encode(mel, torch.tensor([mel.shape[1]]))
        logits = model(token_ids, speech, visible).logits
        loss = F.cross_entropy(logits[0, 5:-1], token_ids[0, 6:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    save_checkpoint(model.eval(), (checkpoint / "tokenizer.json").read_text(encoding="utf-8"), out)
    return losses


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("cache-aware", "qwen2"),
        ("cache-aware", "llama"),
        ("cache-aware", "gemma3"),
        ("bidirectional", "llama-base"),
    ],
)
def test_from_pretrained_parts_to_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, family: str
) -> None:
    llm = make_llm(tmp_path / "llm", family)
    parts = ("--encoder", encoder_file(kind), "--llm", llm, *ADAPTER, "--adapter-layers", 1)
    code, out, err = run_here(capsys, "init", *parts, "--pairs", "en-en,en-de", "--out", tmp_path / "start")
    assert code == 0, err
    assert "unused weights of the recogniser: 2 of decoder" in err
    assert ("no chat template" in err) == (family == "llama-base")
    assert str(llm) in out
    code, out, err = run_here(capsys, "inspect", tmp_path / "start")
    assert code == 0, err
    assert "en-en, en-de" in out
    losses = train(tmp_path / "start", tmp_path / "trained")
    assert losses[-1] < losses[0]
    bundle = tmp_path / "bundle"
    code, _, err = run_here(capsys, "export", tmp_path / "trained", "--out", bundle, "--precision", "int8")
    assert code == 0, err  # float32 graphs are made and compared on the way
    code, _, err = run_here(capsys, "verify", bundle)
    assert code == 0, err
    code, out, err = run_here(capsys, "run", AUDIO, "--bundle", bundle, "--lang", "en-en", "--json")
    assert code == 0, err
    assert json.loads(out)["text"] is not None
    code, _, err = run_here(capsys, "run", AUDIO, "--bundle", bundle, "--lang", "en-de", "--stream", "--k", 3)
    assert code == 0, err


def made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, *options: object, context: int = 256
) -> tuple[int, str, str]:
    """Run `init` with small parts that are there, an LLM with a context of so many tokens among them."""
    if not (tmp_path / "llm").exists():
        make_llm(tmp_path / "llm", "qwen3-tied", torch.bfloat16)
        edit_json(tmp_path / "llm" / "config.json", max_position_embeddings=context)
    config = nemo_config(CACHE_AWARE)
    path = write_nemo(tmp_path / "speech.nemo", config, random_weights(config))
    parts = ("--encoder", path, "--llm", tmp_path / "llm", *ADAPTER)
    return run_here(capsys, "init", *parts, "--out", tmp_path / "start", *options)


def stored(checkpoint: Path) -> dict[str, str]:
    """Return the dtype of each stored weight."""
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict


def test_dtypes_are_kept_and_tied_weights_stored_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = made(capsys, tmp_path, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [(part["part"], part["dtype"]) for part in report["parts"]] == [
        ("encoder", "float32"), ("connector", "float32"), ("llm", "bfloat16"),
    ]  # fmt: skip
    assert report["left_out"] == {"decoder": 2}
    dtypes = stored(tmp_path / "start")
    assert {dtype for name, dtype in dtypes.items() if name.startswith("llm.")} == {"BF16"}
    assert "llm.lm_head.weight" not in dtypes or "llm.model.embed_tokens.weight" not in dtypes
    sizes = {
        name: int(np.prod(shape)) for name, shape in weight_shapes(tmp_path / "start" / "model.safetensors").items()
    }
    parameters = {part["part"]: part["parameters"] for part in report["parts"]}
    assert sum(size for name, size in sizes.items() if name.startswith("llm.")) == parameters["llm"]
    model = load_checkpoint(tmp_path / "start")
    assert model.llm.get_input_embeddings().weight is model.llm.get_output_embeddings().weight
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    code, _, err = made(capsys, tmp_path, "--dtype", "float16", "--force")
    assert code == 0, err
    assert set(stored(tmp_path / "start").values()) == {"F16"}


def test_options_reach_the_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--adapter-layers", 1, "--adapter-ffn", 2, "--text-mixer", "lstm", "--prompt-mode", "bypass", "--k", 4,
               "--l", 5, "--pairs", "de, EN-de")  # fmt: skip
    code, _, err = made(capsys, tmp_path, *options)
    assert code == 0, err
    config = load_config(tmp_path / "start")
    adapter = config.connector
    assert (adapter.num_layers, adapter.width, adapter.num_heads, adapter.ffn_factor) == (1, 48, 4, 2)
    assert (adapter.text_mixer, adapter.prompt_mode) == ("lstm", "bypass")
    assert (config.policy.k, config.policy.l, config.pairs) == (4, 5, ("de-de", "en-de"))


def test_the_same_seed_gives_the_same_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made(capsys, tmp_path)
    first = (tmp_path / "start" / "model.safetensors").read_bytes()
    made(capsys, tmp_path, "--force")
    assert (tmp_path / "start" / "model.safetensors").read_bytes() == first
    made(capsys, tmp_path, "--force", "--seed", 1)
    assert (tmp_path / "start" / "model.safetensors").read_bytes() != first


def test_nothing_is_replaced_or_left_half_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert made(capsys, tmp_path)[0] == 0
    before = sorted(tmp_path.rglob("*"))
    code, _, err = made(capsys, tmp_path)
    assert code == 2
    assert "exists; choose another path or allow it to be replaced (--force)" in err
    (tmp_path / "llm" / "tokenizer.json").write_text("{}")
    code, _, err = made(capsys, tmp_path, "--force")
    assert code == 2
    assert "its tokenizer does not load" in err
    assert sorted(tmp_path.rglob("*")) == before
    load_checkpoint(tmp_path / "start")


@pytest.mark.parametrize(
    ("options", "described"),
    [
        (("--speech-layers", "mlp", "--stack", 2), "2 steps stacked, a hidden layer of width 48, linear projection"),
        (("--speech-layers", "qformer", "--stack", 7, "--queries", 2), "2 embeddings of each 7 steps"),
        (("--compressor", "frame_averaging", "--labels", 40, "--mask", "non_causal"),
         "CTC compressor (frame_averaging, 40 labels), linear projection of each step, in the place of token 318"),
    ],
)  # fmt: skip
def test_speech_in_the_sequence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[Any, ...], described: str
) -> None:
    code, _, err = made(capsys, tmp_path, "--connector", "prepend", *options, context=600)
    assert code == 0, err
    config = load_config(tmp_path / "start")
    assert described in config.connector.describe()
    assert config.policy.name == "local-agreement"
    assert all((lookahead + 1) % config.connector.unit == 0 for lookahead in config.encoder.right_contexts)


WRONG: dict[str, tuple[Any, ...]] = {
    "are for --connector prepend; leave them out or add it": ("--stack", 2),
    "--compressor needs --labels": ("--connector", "prepend", "--compressor", "blank_removal"),
    "--queries is for --speech-layers qformer": ("--connector", "prepend", "--queries", 2),
    "leave out --connector prepend": ("--connector", "prepend", "--adapter", "decoder"),
    "it joins 5 steps, but the encoder's chunks have 14, 7, 2, 1": ("--connector", "prepend", "--stack", 5),
    "conformer layers hear both ways, but the encoder is chunked": (
        "--connector",
        "prepend",
        "--speech-layers",
        "conformer",
    ),
    "connector: width 48 is not a multiple of num_heads 5": ("--adapter-heads", 5),
    "text_mixer 'lstm' has one cross-attention layer": ("--text-mixer", "lstm"),
    "language pair 'en-xx': expected SOURCE-TARGET": ("--pairs", "en-xx"),
    "no such file or folder; a Hub id would look like OWNER/NAME": ("--encoder", "./nowhere.nemo"),
    "not in the Hub's cache; downloads are switched off": ("--llm", "nobody/nothing", "--offline"),
    "a qwen3; expected nemotron_asr_streaming_encoder or": ("--encoder", "llm"),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = made(capsys, tmp_path, *WRONG[message])
    assert (code, out) == (2, "")
    assert message in err
    assert err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "start").exists()


def test_a_context_too_short_for_the_prompt(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_llm(tmp_path / "llm")
    path = tmp_path / "llm" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 10}))
    code, _, err = made(capsys, tmp_path)
    assert code == 2
    assert "tokens, the model's context 10; choose an LLM with a longer one" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delays", "2"], "--delays: only --connector interleave has delays; give both"),
        (["--connector", "interleave", "--delays", "4,x"], "--delays 4,x: expected numbers of steps such as 2,4,8"),
        (["--connector", "interleave", "--delays", "4,2"], "delays [4, 2]; expected steps from 0, ascending"),
        (["--connector", "interleave", "--adapter", "decoder"], "interleave begins with fresh weights; leave out"),
    ],
)
def test_turns_that_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    code, _, err = run_here(capsys, "init", "--encoder", "e", "--llm", "l", *options, "--out", tmp_path / "start")
    assert code == 2
    assert message in err
    assert not (tmp_path / "start").exists()
