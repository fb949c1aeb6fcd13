"""Token ids of questions, and text of token ids, which only grows."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.errors import BundleError, PromptError
from bestow_edge.core.prompts import Question, prompt_text

LEAST_ANSWER = 16
"""Tokens of the LLM's context that a question's prompt must leave for a sentence."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`; raise a `BundleError` if the file is not one."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise BundleError(f"{path}: not a tokenizer file ({error}); export the checkpoint again") from error


def question_ids(tokenizer: Tokenizer, question: Question, chat: ChatTemplate, max_text_tokens: int) -> tuple[int, ...]:
    """Return the token ids of a question's whole prompt, equal to those in training.

    Raises:
        PromptError: if the question holds one of the LLM's special tokens, or leaves no room for an answer.
    """
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    if found := [token for token in special if token in question.text]:
        raise PromptError(f"question {question.text!r:.60} holds {found[0]}, which the LLM's prompts use; leave it out")
    ids: list[int] = tokenizer.encode(prompt_text(question, chat), add_special_tokens=False).ids
    if (most := max_text_tokens - LEAST_ANSWER) < len(ids):
        has = f"its prompt has {len(ids)} tokens, of the LLM's context of {max_text_tokens} it may take {most}"
        raise PromptError(f"question {question.text!r:.60} is too long: {has}; ask a shorter one")
    return tuple(ids)


class Detokenizer:
    """Turns the tokens of one answer into text; bytes of an incomplete character wait."""

    def __init__(self, tokenizer: Tokenizer, prefix: str) -> None:
        """Start an answer; `prefix` is put before its first text."""
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._started = False

    def push(self, token_id: int) -> str:
        """Add a token and return the text that it completes, or an empty string."""
        text: str = self._stream.step(self._tokenizer, token_id) or ""
        if not self._started:
            text = text.lstrip()  # an answer begins with a space, because the prompt ends without one
            self._started = bool(text)
            text = self._prefix + text if text else ""
        return text
