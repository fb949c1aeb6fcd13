"""Forms of written text."""

from __future__ import annotations

from typing import Literal, get_args

TextFormat = Literal["txt", "srt", "vtt", "tsv", "json"]
"""Name of a form, which is also the suffix of its files."""
FORMATS: tuple[TextFormat, ...] = get_args(TextFormat)
"""All forms."""
TIMED: tuple[TextFormat, ...] = ("srt", "vtt", "tsv")
"""Those in which the times of words stand."""
