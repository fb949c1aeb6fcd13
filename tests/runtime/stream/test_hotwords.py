"""Hotwords in the decode loop: whole words or none, text that stays, every connector and policy, a beam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from decoding import tokens
from scripted import word_tokenizer
from tiny_qwen3_asr import save_qwen3_asr
from tiny_whisper import export_whisper, save_whisper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import bestow_edge as be
from bestow_edge.core.errors import PromptError
from bestow_edge.core.hotwords import Hotword
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.whole import init_whole
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.stream.beam import beam_search
from bestow_edge.runtime.stream.hotwords import START, HotwordDecoder, HotwordTrie, hotword_paths

WORDS = ("<end>", "▁Brit", "ain", "ula", "▁Br", "utus", "▁is", ".")
END, BRIT, AIN, ULA, BR, UTUS, IS, DOT = range(len(WORDS))
Table = Mapping[tuple[int, ...], Mapping[int, float]]


class TableDecoder:
    """Log-probabilities of the next token by the text so far; others have -20. Other texts end."""

    heard = 4

    def __init__(self, table: Table, rows: int = 1) -> None:
        self.table, self.rows = table, rows
        self.texts: list[tuple[int, ...]] = [()] * rows
        self.attempts = 0

    @property
    def num_tokens(self) -> np.ndarray:
        return np.array([len(text) for text in self.texts])

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        self.attempts += 1
        return [self._attempt(text, visible) for text, visible in zip(self.texts, visible_steps, strict=True)]

    def _attempt(self, text: tuple[int, ...], visible: int) -> Attempt:
        log_probs = np.full(len(WORDS), -20, dtype=np.float32)
        for token, log_prob in self.table.get(text, {END: 0.0}).items():
            log_probs[token] = log_prob
        best = int(log_probs.argmax())
        return Attempt(best, float(log_probs[best]), visible, lambda: log_probs)

    def commit(self, row: int, token_id: int) -> None:
        self.texts[row] += (token_id,)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        kept = self.texts.copy()
        try:
            yield
        finally:
            self.texts = kept

    def take_rows(self, rows: Sequence[int]) -> None:
        self.texts = [self.texts[row] for row in rows]


def tokenizer() -> Tokenizer:
    """Return a tokenizer of the words above: "Britula" is ▁Brit + ula."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    pieces = [*"▁Britanulsa.", "▁B", "▁Br", "▁Bri", "▁Brit", "ai", "ain", "ul", "ula", "ut", "utu", "utus", "▁i", "▁is"]
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "B"), ("▁B", "r"), ("u", "l"), ("ul", "a"), ("u", "t"), ("ut", "u"), ("utu", "s"), ("▁", "i"),
              ("▁i", "s"), ("▁Br", "i"), ("▁Bri", "t"), ("a", "i"), ("ai", "n")]  # fmt: skip
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    return found


def written(table: Table, *hotwords: Hotword, rows: int = 1) -> list[int]:
    """Return the greedy text of the last row."""
    inner = TableDecoder(table, rows)
    decoder = HotwordDecoder(inner, HotwordTrie(tokenizer(), hotwords), {END})
    text: list[int] = []
    while len(text) < 8:
        attempt = decoder.attempt([4] * rows)[-1]
        if attempt.token_id == END:
            break
        text.append(attempt.token_id)
        for row in range(rows):
            decoder.commit(row, attempt.token_id)
        assert inner.texts == [tuple(text)] * rows
    return text


HEARD: Table = {  # the model writes "Britain is", and "Britula" is a little less probable
    (): {BRIT: -0.5, BR: -1.5},
    (BRIT,): {AIN: -0.2, ULA: -3.0},
    (BRIT, AIN): {IS: -0.1},
    (BRIT, ULA): {IS: -0.1},
    (BR,): {UTUS: -9.0, DOT: -0.1},
    (BR, DOT): {END: 0.0},
}


def test_paths_begin_at_a_word() -> None:
    assert hotword_paths(tokenizer(), "Britula") == {(BRIT, ULA), (START, BRIT, ULA)}
    trie = HotwordTrie(tokenizer(), [Hotword("Britula")])
    assert trie.follow((), BRIT) == trie.follow((START,), BRIT)[1:] == (BRIT,)
    assert trie.follow((BRIT,), AIN) == ()
    assert trie.follow((BRIT,), DOT) == (START,)
    with pytest.raises(PromptError, match="hotword 'Xanten': the tokenizer writes 'antn'; change it or leave it out"):
        hotword_paths(tokenizer(), "Xanten")


def test_scripts_without_spaces_have_words_anywhere() -> None:
    letters = word_tokenizer({"<end>": 0, "東京": 1, "a": 2})
    assert hotword_paths(letters, "東京") == {(1,)}


def test_a_hotword_replaces_a_word_that_is_a_little_more_probable() -> None:
    assert written(HEARD) == written(HEARD, Hotword("Britula", 0.0)) == [BRIT, AIN, IS]
    assert written(HEARD, Hotword("Britula", 2.0)) == [BRIT, AIN, IS]
    assert written(HEARD, Hotword("Britula", 3.0)) == [BRIT, ULA, IS]
    assert written(HEARD, Hotword("Britula", 3.0), rows=2) == [BRIT, ULA, IS]


def test_a_hotword_whose_end_was_not_said_is_not_begun() -> None:
    """Its first token wins with the bonus, the whole word does not."""
    assert written(HEARD, Hotword("Brutus", 4.0)) == [BRIT, AIN, IS]
    assert written(HEARD, Hotword("Brutus", 6.0)) == [BR, UTUS]


def test_a_hotword_that_was_begun_is_finished() -> None:
    """The bonus of all its tokens decides, so its last token may be improbable."""
    table: Table = {(): {IS: -1.0, BR: -1.5}, (BR,): {UTUS: -4.5, DOT: -0.1}, (IS,): {DOT: -2.0}, (BR, UTUS): {END: 0}}
    assert written(table, Hotword("Brutus", 2.0)) == [BR, UTUS]
    assert written({**table, (): {BR: -0.5}}, Hotword("Brutus", 2.0)) == [BR, DOT]


def test_the_end_and_a_repetition_are_never_replaced() -> None:
    assert written({(): {END: -0.6, BR: -0.8}, (BR,): {UTUS: -0.1}}, Hotword("Brutus", 20.0)) == []
    once: Table = {(): {IS: -0.1, BR: -3.0}, (BR,): {UTUS: -0.1}, (BR, UTUS): {DOT: -0.5, BR: -1.0},
                   (BR, UTUS, BR): {UTUS: -0.1}}  # fmt: skip
    assert written(once, Hotword("Brutus", 5.0)) == [BR, UTUS, DOT]


def test_a_beam_pays_the_bonus_of_whole_words_alone() -> None:
    def best(*hotwords: Hotword) -> list[int]:
        trie = HotwordTrie(tokenizer(), hotwords) if hotwords else None
        return [attempt.token_id for attempt in beam_search(TableDecoder(HEARD, 3), 4, {END}, 8, trie)]  # type: ignore[arg-type]  # a part of a decoder

    assert best() == [BRIT, AIN, IS]
    assert best(Hotword("Britula", 3.0)) == [BRIT, ULA, IS]
    assert best(Hotword("Brutus", 2.0)) == [BRIT, AIN, IS]  # its first token alone would win with the bonus
    trie, zeros = HotwordTrie(tokenizer(), [Hotword("Britula", 3.0)]), np.zeros(len(WORDS), dtype=np.float32)
    assert trie.scores((), zeros)[[BRIT, ULA, IS]].tolist() == [3, 0, 0]
    assert trie.scores((BRIT,), zeros)[[BRIT, ULA, IS, END]].tolist() == [0, 3, -3, -3]
    assert trie.scores((BRIT, ULA), zeros)[[BRIT, ULA, IS]].tolist() == [3, 0, 0]


@pytest.fixture(scope="module")
def models_of_each_kind(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "whisper").mkdir()
    whisper = export_whisper(save_whisper(folder / "whisper"), tmp_path_factory.mktemp("bundle"))
    init_whole(
        WholeRequest(source=str(save_qwen3_asr(folder / "qwen"))), folder / "checkpoint", progress=lambda _: None
    )
    export_bundle(folder / "checkpoint", folder / "fp32", precision="fp32", progress=lambda _: None)
    found = {"cross_adapter": tiny_bundle, "cross_layers": whisper, "prepend": folder / "fp32"}
    return {kind: load(path, threads=1) for kind, path in found.items()}


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("cross_adapter", be.WaitK(3, 4)), ("cross_adapter", be.AlignAtt(2)), ("cross_adapter", be.Offline()),
        ("cross_adapter", be.LocalAgreement(2, 6)), ("cross_layers", be.AlignAtt(2, l=4)),
        ("cross_layers", be.Offline()), ("prepend", be.LocalAgreement(2, 13)), ("prepend", be.Offline()),
    ],
)  # fmt: skip
def test_every_kind_and_policy(
    models_of_each_kind: dict[str, Model], speech: np.ndarray, kind: str, policy: be.Policy
) -> None:
    """Random models write a heavy hotword, whole each time; blocks of audio make no difference."""
    model, waveform = models_of_each_kind[kind], speech[:24_000]
    assert model.config.connector.kind == kind

    def text(block: int, *hotwords: Hotword) -> list[int]:
        return tokens(model.multi_session([("de-de", policy)], hotwords=hotwords), waveform, block)[0]

    plain, weightless = text(777), text(777, Hotword("three", 0.0))
    heavy = Hotword("three", 20.0)
    whole, cut = text(30_000, heavy), text(777, heavy)
    assert (plain == weightless) == (kind != "prepend")  # whose prompt has them
    assert plain != whole == cut
    assert "three" in model.tokenizer.decode(whole)
    assert "three" not in model.tokenizer.decode(plain)


def test_beam_of_a_model(models_of_each_kind: dict[str, Model], speech: np.ndarray) -> None:
    model = models_of_each_kind["cross_layers"]
    found = [
        tokens(model.session(source="de", policy=be.Offline(), beam_size=2, hotwords=words), speech[:24_000], 8_000)[0]
        for words in ([], [Hotword("three", 20.0)])
    ]
    assert ["three" in model.tokenizer.decode(ids) for ids in found] == [False, True]


def test_texts_of_a_batch_share_the_hotwords(models_of_each_kind: dict[str, Model], speech: np.ndarray) -> None:
    model, words = models_of_each_kind["cross_layers"], [Hotword("three", 20.0)]
    pairs = ("de-de", "de-en")
    both = tokens(model.multi_session([(pair, be.Offline()) for pair in pairs], hotwords=words), speech[:24_000], 8_000)
    alone = [tokens(model.multi_session([(pair, be.Offline())], hotwords=words), speech[:24_000], 8_000)[0]
             for pair in pairs]  # fmt: skip
    assert both == alone


def test_hotwords_that_cannot_be_used(models_of_each_kind: dict[str, Model]) -> None:
    model = models_of_each_kind["cross_layers"]
    with pytest.raises(PromptError, match=r"hotword '<\|endoftext\|>': the tokenizer writes ''; change it"):
        model.session(source="de", hotwords=["<|endoftext|>"])
    with pytest.raises(PromptError, match="given twice"):
        model.session(source="de", hotwords=["one", "one"])
