"""An adapter that begins as a Whisper's decoder, before an LLM that passes its answer on: it writes as Whisper."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_here
from safetensors.torch import load_file, save_file
from tiny_llms import make_llm
from tiny_whisper import save_whisper
from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration

from bestow_edge.core.checkpoint import load_config
from bestow_edge.core.prompts import parse_pair, prompt_text
from bestow_edge.core.specs.cross_adapter import cross_adapter
from bestow_edge.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("no_line")
SCRIPT = Path(__file__).parents[3] / "examples" / "people" / "llm.py"
INSTRUCTION = "<|{source}|><|{task}|>"
FRAMES = 200  # all that the encoder has positions for


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "model")


@pytest.fixture(scope="module")
def llm(whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    (folder / "texts.txt").write_text("one two three four\neins zwei drei\n", encoding="utf-8")
    script = runpy.run_path(str(SCRIPT))
    script["main"](
        [str(whisper), str(folder / "llm"), "--texts", str(folder / "texts.txt"), "--tokens", "270", "--layers", "2"]
    )
    return folder / "llm"


@pytest.fixture(scope="module")
def start(whisper: Path, llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bestow_edge.model.pretrained.assemble import InitRequest, init_checkpoint

    out = tmp_path_factory.mktemp("start") / "checkpoint"
    request = InitRequest(
        encoder=str(whisper), llm=str(llm), connector=None, pairs=("en-en", "de-en"), instruction=INSTRUCTION
    )
    init_checkpoint(request, out, progress=lambda _: None)
    return out


def test_the_vocabulary_is_cut(whisper: Path, llm: Path) -> None:
    whole, cut = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (whisper, llm))
    assert 256 < cut.get_vocab_size() <= 270 + 7 < whole.get_vocab_size() + 7
    for text in (" one two", " eins", " Zürich, 7 €", " 日本"):
        assert cut.decode(cut.encode(text, add_special_tokens=False).ids) == text
    assert cut.encode("eins", add_special_tokens=False).ids == cut.encode(" eins", add_special_tokens=False).ids
    assert cut.encode(" one", add_special_tokens=False).tokens == whole.encode(" one", add_special_tokens=False).tokens
    text = prompt_text(parse_pair("de-en"), load_template(llm))
    assert cut.encode(text, add_special_tokens=False).tokens == whole.encode(text, add_special_tokens=False).tokens


def load_template(llm: Path) -> Any:
    from dataclasses import replace

    from bestow_edge.model.pretrained.llm import read_llm

    return replace(read_llm(llm).chat, instruction=INSTRUCTION)


@torch.no_grad()
def test_it_writes_as_whisper(whisper: Path, start: Path) -> None:
    """If the prompt hears the speech too, the best of the tokens that both have is the same at each position."""
    theirs = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    model = load_checkpoint(start)
    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (whisper, start))
    mel = torch.randn(2, FRAMES, 80, generator=torch.Generator().manual_seed(1))
    text = prompt_text(parse_pair("de-en"), model.config.chat) + " one two three"
    names = new.encode(text, add_special_tokens=False).tokens
    ids = torch.tensor([[new.token_to_id(name) for name in names]] * 2)
    same = torch.tensor([[old.token_to_id(name) for name in names]] * 2)
    speech = model.encode(mel, torch.full((2,), FRAMES))
    got = model(ids, speech, torch.full_like(ids, speech.steps.shape[1])).logits
    want = theirs(input_features=mel.transpose(1, 2), decoder_input_ids=same).logits
    kept = torch.tensor([old.token_to_id(new.id_to_token(token)) for token in range(new.get_vocab_size())])
    want = want[..., kept]
    assert torch.equal(got[..., : len(kept)].argmax(-1), want.argmax(-1))
    got = got[..., : len(kept)]
    scale = (got * want).sum(-1, keepdim=True) / (want * want).sum(-1, keepdim=True)  # of the LLM's last norm
    torch.testing.assert_close(got, scale * want, atol=1e-3 * float(got.abs().max()), rtol=0)


def test_config(start: Path) -> None:
    adapter = cross_adapter(load_config(start))
    assert (adapter.num_layers, adapter.width, adapter.num_heads, adapter.positions) == (2, 32, 4, 96)
    assert (adapter.speech_parts, adapter.null_frame, adapter.residual) == (4, "alone", False)
    assert adapter.describe().endswith("96 positions, embeddings of its own, no residual, 4 parts a step")


def test_another_vocabulary(whisper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens of the same name have Whisper's embedding, others the mean of what Whisper makes of their text."""
    llm, out = make_llm(tmp_path / "llm", "llama"), tmp_path / "checkpoint"
    code, printed, err = run_here(capsys, "init", "--encoder", whisper, "--llm", llm, "--adapter", "decoder",
                                  "--out", out)  # fmt: skip
    assert code == 0, err
    assert "decoder of" in " ".join(printed.split())
    words = load_checkpoint(out).state_dict()["connector.words.weight"]
    table = load_file(whisper / "model.safetensors")["model.decoder.embed_tokens.weight"]
    ours, theirs = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (out, whisper))
    shared = [name for name in ours.get_vocab() if theirs.token_to_id(name) is not None]
    assert shared
    assert all(torch.equal(words[ours.token_to_id(name)], table[theirs.token_to_id(name)]) for name in shared)


def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm, fixtures = make_llm(tmp_path / "llm", "llama"), Path(__file__).parents[2] / "fixtures"
    out = ("--llm", llm, "--adapter", "decoder", "--out", tmp_path / "out")
    code, _, err = run_here(capsys, "init", "--encoder", fixtures / "nemo" / "offline.nemo", *out)
    assert (code, "needs the decoder of a Whisper" in err) == (2, True), err
    broken = save_whisper(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.decoder.layers.1.fc2.bias"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, _, err = run_here(capsys, "init", "--encoder", broken, *out)
    assert (code, "model.decoder.layers.1.fc2.bias is missing; copy it again" in err) == (2, True), err
    assert not (tmp_path / "out").exists()
