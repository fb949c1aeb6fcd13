"""Token ids to text that only grows, in whole characters."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from bestow_edge.core.errors import BundleError
from bestow_edge.runtime.stream.text import Detokenizer, load_tokenizer
from bestow_edge.training.data.tokens import answer_ids, train_tokenizer

BYTES = train_tokenizer(["a"], ["en-de"], 261)  # 256 bytes and the special tokens: every other letter is split
WORDS = train_tokenizer(["fünf sechs fünf sieben", "zwölf"] * 9, ["en-de"], 400)


def pieces(tokenizer: object, text: str, prefix: str = "") -> list[str]:
    detokenizer = Detokenizer(tokenizer, prefix)  # type: ignore[arg-type]  # tokenizers has no types
    return [detokenizer.push(token_id) for token_id in answer_ids(tokenizer, text)]  # type: ignore[arg-type]  # same


def test_characters_are_never_split() -> None:
    got = pieces(BYTES, "fünf €")
    assert len(got) == len(" fünf €".encode())
    assert got == ["", "f", "", "ü", "n", "f", " ", "", "", "€"]


def test_words_come_as_tokens_come() -> None:
    assert pieces(WORDS, "fünf sechs") == ["fünf", " sechs"]


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30))
def test_text_only_grows(text: str) -> None:
    assume("<|" not in text)  # special tokens are none of the text
    got = pieces(BYTES, text)
    assert "".join(got) == text.lstrip()
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in got)


def test_a_later_segment_begins_with_its_prefix() -> None:
    assert pieces(WORDS, "fünf sechs", prefix=" ") == [" fünf", " sechs"]
    assert pieces(WORDS, "", prefix=" ") == []


def test_special_tokens_are_silent() -> None:
    detokenizer = Detokenizer(WORDS, "")
    assert detokenizer.push(WORDS.token_to_id("<|user|>")) == ""
    assert detokenizer.push(answer_ids(WORDS, "fünf")[0]) == "fünf"


def byte_fallback() -> Tokenizer:
    """Return a vocabulary like those of Llama 2, Mistral and Gemma: characters without a token are bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "A", "▁the"]
    tokenizer = Tokenizer(
        models.BPE({word: at for at, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)  # noqa: S106 - no password
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


FALLBACK = byte_fallback()


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("a <0xF0> <0x9F> <0x99> <0x82> <0xC3> b", "a🙂\ufffdb"),
        ("<0xC3> <0xBC> <0xC3> b", "ü\ufffdb"),
        ("A <0xFF> ▁the", "A\ufffd the"),
        ("<0x41> <0xFF> ▁the", "A\ufffd the"),
        ("<0xF0> <0x9F> <0x99> <0x82> ▁the ▁the", "🙂 the the"),
        ("<0x80> <0x80> <0xC3> <0xBC> a", "\ufffd\ufffdüa"),
    ],
)
def test_bytes_that_are_no_character_lose_nothing_behind_them(tokens: str, text: str) -> None:
    detokenizer = Detokenizer(FALLBACK, "")
    assert "".join(detokenizer.push(FALLBACK.token_to_id(token)) for token in tokens.split()) == text


@given(st.lists(st.integers(3, FALLBACK.get_vocab_size() - 1), max_size=40))
def test_no_tokens_of_a_byte_vocabulary_raise(token_ids: list[int]) -> None:
    detokenizer = Detokenizer(FALLBACK, "")
    text = "".join(detokenizer.push(token_id) for token_id in [*token_ids, FALLBACK.token_to_id("b")])
    letters = [FALLBACK.id_to_token(token_id) for token_id in token_ids]
    assert text.endswith("b")
    assert text.count("A") == letters.count("A") + letters.count("<0x41>")


@given(st.lists(st.integers(0, BYTES.get_vocab_size() - 1), max_size=40))
def test_no_tokens_of_a_byte_level_vocabulary_raise(token_ids: list[int]) -> None:
    detokenizer = Detokenizer(BYTES, "")
    end = [*answer_ids(BYTES, "a b"), *answer_ids(BYTES, "a b")]
    assert "".join(map(detokenizer.push, [*token_ids, *end])).endswith("a b")


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_damaged_tokenizer_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer file"):
        load_tokenizer(path)
    with pytest.raises(BundleError):
        load_tokenizer(tmp_path / "missing.json")
