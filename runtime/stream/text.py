"""Token ids of questions, and text of token ids, which only grows."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from tokenizers import Tokenizer

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.errors import BestowEdgeError, BundleError, PromptError
from bestow_edge.core.prompts import Question, prompt_text

LEAST_ANSWER = 16
"""Tokens of the LLM's context that a question's prompt must leave for a sentence."""
LONGEST_CHARACTER = 3  # tokens of a character that another one may complete: UTF-8 has up to four bytes
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def load_tokenizer(path: Path, error_type: type[BestowEdgeError] = BundleError) -> Tokenizer:
    """Read a `tokenizer.json`; raise an error of a type if the file is not one."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        remedy = "export the checkpoint again" if error_type is BundleError else "copy the checkpoint again"
        raise error_type(f"{path}: not a tokenizer file ({error!s:.300}); {remedy}") from error


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text without special tokens around it.

    Raises:
        BundleError: if the tokenizer fails, as one does that has no token for unknown words.
    """
    try:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    except Exception as error:  # as above
        raise BundleError(f"tokenizer.json cannot encode {text!r:.60} ({error!s:.200}); export again") from error


def question_ids(tokenizer: Tokenizer, question: Question, chat: ChatTemplate, max_text_tokens: int) -> tuple[int, ...]:
    """Return the token ids of a question's whole prompt, equal to those in training.

    Raises:
        PromptError: if the question holds one of the LLM's special tokens, or leaves no room for an answer.
    """
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    if found := [token for token in special if token in question.text]:
        raise PromptError(f"question {question.text!r:.60} holds {found[0]}, which the LLM's prompts use; leave it out")
    ids = encode(tokenizer, prompt_text(question, chat))
    if (most := max_text_tokens - LEAST_ANSWER) < len(ids):
        has = f"its prompt has {len(ids)} tokens, of the LLM's context of {max_text_tokens} it may take {most}"
        raise PromptError(f"question {question.text!r:.60} is too long: {has}; ask a shorter one")
    return tuple(ids)


class Detokenizer:
    """Turns the tokens of one answer into text; bytes of an incomplete character wait.

    Tokens that stand for a byte (`<0xC3>`) are decoded here: the library's decoder takes back text that it gave before
    when a run of them is no UTF-8. A byte that belongs to no character becomes U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, prefix: str) -> None:
        """Start an answer; `prefix` is put before its first text."""
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._waiting: list[int] = []  # tokens of an incomplete character
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_bytes = self._decode(_ids(tokenizer, "<0x41>")) == "A"
        self._anchor = _ids(tokenizer, "a")[-1:]  # stands before what is decoded: at the begin, a space would be lost
        if "\ufffd" in (anchor := self._decode(self._anchor)) or not anchor:
            self._anchor, anchor = [], ""
        self._anchor_len = len(anchor)
        self._started = False

    def push(self, token_id: int) -> str:
        """Add a token and return the text that it completes, or an empty string."""
        text = self._add(token_id)
        if not self._started:
            text = text.lstrip()  # an answer begins with a space, because the prompt ends without one
            self._started = bool(text)
            text = self._prefix + text if text else ""
        return text

    def _add(self, token_id: int) -> str:
        byte = _BYTE.fullmatch(self._tokenizer.id_to_token(token_id) or "") if self._has_bytes else None
        if byte:
            return self._bytes.decode(bytes.fromhex(byte[1]))
        text = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        self._waiting.append(token_id)
        found = self._text(self._waiting)
        if not found.endswith("\ufffd"):
            self._waiting = []
            return text + found
        for count in range(len(self._waiting) - LONGEST_CHARACTER, 0, -1):
            head, rest = self._text(self._waiting[:count]), self._text(self._waiting[count:])
            if head + rest == found:  # no character crosses this border, so what stands before it is complete
                self._waiting = self._waiting[count:]
                return text + head
        return text

    def _text(self, token_ids: list[int]) -> str:
        return self._decode([*self._anchor, *token_ids])[self._anchor_len :]

    def _decode(self, token_ids: list[int]) -> str:
        try:
            text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        except Exception as error:  # as above
            raise BundleError(f"tokenizer.json cannot decode {token_ids} ({error!s:.200}); export again") from error
        return text


def _ids(tokenizer: Tokenizer, word: str) -> list[int]:
    """Return the token of a word, or its tokens."""
    token_id: int | None = tokenizer.token_to_id(word)
    if token_id is not None:
        return [token_id]
    try:
        return encode(tokenizer, word)
    except BundleError:
        return []  # it knows no letters: words begin without a space then
