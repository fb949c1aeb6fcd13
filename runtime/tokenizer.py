"""Token ids to text that only ever grows. Knows the `tokenizers` library and nothing of models."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from bestow_edge.errors import BundleError


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        BundleError: it is not one.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise BundleError(f"{path}: not a tokenizer file ({error}); export the checkpoint again") from error


class Detokenizer:
    """Turns one answer's tokens into text, holding back bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer, prefix: str) -> None:
        """Start an answer; `prefix` is put before its first text."""
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._started = False

    def push(self, token_id: int) -> str:
        """Add a token and return the text it completes, empty if it completes none."""
        text: str = self._stream.step(self._tokenizer, token_id) or ""
        if not self._started:
            text = text.lstrip()  # the prompt's end is no word's end, so an answer begins with a space
            self._started = bool(text)
            text = self._prefix + text if text else ""
        return text
