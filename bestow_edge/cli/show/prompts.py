"""Labels and JSON of prompts (language pairs and questions) and policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.core.prompts import AboutSpeech, Question

if TYPE_CHECKING:
    from bestow_edge.runtime.records.trace import TracedPrompt


def labels(prompts: Sequence[AboutSpeech], longest: int | None = None) -> list[str]:
    """Return the label before the lines of each text; a single text has an empty one.

    Args:
        prompts: pairs and questions.
        longest: most characters of a label; a longer question is cut. None = no limit.
    """
    if len(prompts) == 1:
        return [""]
    names = map(str, prompts)
    return [f"{name}: " if longest is None or len(name) <= longest else f"{name[:longest]}...: " for name in names]


def languages(prompts: Sequence[AboutSpeech]) -> str:
    """Return the pairs in the form of `--lang`; if there are only questions, the language of the speech."""
    return ",".join(str(prompt) for prompt in prompts if not isinstance(prompt, Question)) or prompts[0].source


def prompt_record(prompt: AboutSpeech) -> dict[str, object]:
    """Return the JSON of a pair or a question."""
    if isinstance(prompt, Question):
        return {"lang": prompt.source, "question": prompt.text}
    return {"lang": str(prompt)}


def policy_record(prompt: TracedPrompt, lookahead: int) -> dict[str, object]:
    """Return the JSON of a prompt's policy."""
    return {"name": prompt.policy, **prompt.fields, "lookahead": lookahead}
