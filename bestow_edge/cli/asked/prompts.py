"""`--lang` and `--ask`: what is asked about a recording or a stream, with which policy, and how it is shown.

It knows pairs, questions and policies as values, not sessions or terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.core.prompts import AboutSpeech, Question, parse_asked

if TYPE_CHECKING:
    from bestow_edge.core.policy import Policy

DEFAULT_PAIR = "en-de"
DEFAULT_SPOKEN = "en"


def read_asked(lang: str | None, ask: Sequence[str] | None) -> tuple[AboutSpeech, ...]:
    """Return the pairs that `--lang` names and the questions of `--ask` behind them.

    Raises:
        PromptError: a pair or a question is none, or given twice.
    """
    questions = ask or ()
    return parse_asked(lang or (DEFAULT_SPOKEN if questions else DEFAULT_PAIR), questions)


def with_policies(
    asked: Sequence[AboutSpeech], policy: Policy, *, for_questions: bool
) -> tuple[tuple[AboutSpeech, Policy], ...]:
    """Return the prompts of a session.

    Args:
        asked: pairs and questions.
        policy: of the pairs.
        for_questions: whether the questions have it too; if not, they are answered when everything has been heard.
    """
    from bestow_edge.core.policy import Offline

    return tuple((what, Offline() if isinstance(what, Question) and not for_questions else policy) for what in asked)


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
