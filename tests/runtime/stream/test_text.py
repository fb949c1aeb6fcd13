"""Token ids to text that only grows, in whole characters."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_damaged_tokenizer_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer file"):
        load_tokenizer(path)
    with pytest.raises(BundleError):
        load_tokenizer(tmp_path / "missing.json")
