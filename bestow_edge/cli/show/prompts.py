"""Prompts and policies as lines and as JSON show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.core.prompts import AboutSpeech, Question

if TYPE_CHECKING:
    from bestow_edge.runtime.records.trace import TracedPrompt


def labels(asked: Sequence[AboutSpeech], longest: int | None = None) -> list[str]:
    """Return what the lines of each text begin with; a single text needs nothing.

    Args:
        asked: pairs and questions.
        longest: characters of a question that are shown, None = all.
    """
    names = [name if longest is None or len(name) <= longest else f"{name[:longest]}..." for name in map(str, asked)]
    return [""] if len(asked) == 1 else [f"{name}: " for name in names]


def languages(asked: Sequence[AboutSpeech]) -> str:
    """Return the pairs as `--lang` takes them; of questions alone the language of the speech."""
    return ",".join(str(what) for what in asked if not isinstance(what, Question)) or asked[0].source


def asked_record(asked: AboutSpeech) -> dict[str, object]:
    """Return what is asked as JSON shows it."""
    if isinstance(asked, Question):
        return {"lang": asked.source, "question": asked.text}
    return {"lang": str(asked)}


def policy_record(prompt: TracedPrompt, lookahead: int) -> dict[str, object]:
    """Return a policy as JSON shows it."""
    return {"name": prompt.policy, **prompt.fields, "lookahead": lookahead}
