"""Ends of segments: their limits in steps and tokens, and the words of an answer that end before a cut in speech."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from bestow_edge.core.config import OVERSHOOT_STEPS, ModelConfig, SegmentConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import ALL_STEPS, Policy
from bestow_edge.core.specs.interleave import interleave
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.encoders.base import sizes_for

BORDER_STEPS = 8  # 0.64 s: a word that ends so near the cut may be incomplete, or change with the speech after it
SHORTEST_PAUSE_S = 1.2  # longer than the speech that a new segment hears again, or segments would roll over for ever
SHORTEST_SEGMENT_S = 3.0  # holds a word, the border behind it and the speech that a new segment hears again
MOST_STEPS = 4000  # 5 minutes, a chunk less than the speech memory holds
SURE = -0.105  # natural logarithm of 0.9: words of at least this probability are not doubted
WORD_TOKENS = 4  # a longer answer is more than a word, also in languages without spaces
LOUDER = 2.3  # nats of log-mel, 10 dB: words this much louder than the sound before are not doubted
QUIET_STEPS = 3  # 0.24 s: speech is cut in the middle of so much
WORD_MARKS = ("Ġ", "▁")  # space before a word in byte-level and SentencePiece vocabularies


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a session's segments."""

    pause_steps: int
    """Steps without text; 0 = never."""
    most_steps: int
    """Steps of speech."""
    most_tokens: int
    """Tokens of an answer."""


def limits(
    segments: SegmentConfig,
    config: ModelConfig,
    policies: Sequence[Policy],
    *,
    prompt_tokens: int,
    max_text_tokens: int,
) -> Limits:
    """Return the limits of segments.

    Args:
        segments: limits that are asked for.
        config: the model's.
        policies: of the session's texts.
        prompt_tokens: tokens of the longest prompt.
        max_text_tokens: the LLM's context, tokens.

    Raises:
        ConfigError: if a limit is too small, or the prompt and its context leave no room for an answer.
    """
    if CONNECTORS[config.connector.kind].continuous:
        _check_window(config, prompt_tokens)
        return Limits(pause_steps=0, most_steps=ALL_STEPS, most_tokens=ALL_STEPS)
    for name, seconds, least_s in (
        ("pause_s", segments.pause_s, SHORTEST_PAUSE_S),
        ("max_s", segments.max_s, SHORTEST_SEGMENT_S),
    ):
        if seconds and not seconds >= least_s:
            raise ConfigError(f"segments: {name} {seconds}, expected 0 or at least {least_s} s")
    longest = MOST_STEPS
    if config.connector.sees_all or config.connector.unit > 1:  # a window that moves on would begin within a unit
        longest = min(longest, sizes_for(config, policies).whole_steps)
    most_steps = min(round(segments.max_s / config.step_s) or longest, longest)
    speech = config.connector.llm_positions(most_steps + OVERSHOOT_STEPS)
    room = max_text_tokens - prompt_tokens - 1 - segments.context_tokens - speech
    if room < 1:
        asked = f"segments: context_tokens {segments.context_tokens}"
        asked += f", speech of {speech} positions (max_s {segments.max_s:g})" if speech else ""
        asked += f" and the prompt of {prompt_tokens}"
        raise ConfigError(f"{asked} leave no room in the LLM's context of {max_text_tokens} tokens")
    return Limits(
        pause_steps=round(segments.pause_s / config.step_s),
        most_steps=most_steps,
        most_tokens=min(segments.max_tokens or room, room),
    )


def _check_window(config: ModelConfig, prompt_tokens: int) -> None:
    """Refuse a prompt that leaves less than half of the part of the window that stays when it is full.

    Raises:
        ConfigError: names both.
    """
    window = interleave(config).window
    if prompt_tokens >= (most := window // 4):
        got = f"a prompt of {prompt_tokens} tokens"
        raise ConfigError(f"{got}; expected fewer than {most}, a quarter of the window of {window} positions")


def whole_words(attempts: Sequence[Attempt], visible: int, tokenizer: Tokenizer) -> list[Attempt]:
    """Return the first tokens of an answer to the visible steps, up to the last word that ends before the border.

    If the tokenizer marks no token as the begin of a word, the answer is cut at the border.
    """
    count = 0
    while count < len(attempts) and attempts[count].span()[1] <= visible - BORDER_STEPS:
        count += 1
    if count == len(attempts):
        return list(attempts)
    starts = [n for n in range(1, count + 1) if _begins_word(attempts[n], tokenizer)]
    return list(attempts[: max(starts, default=count)])


def only_word(answer: Iterable[Attempt], tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Return first and end step of an answer that is one improbable word, None for any other answer.

    The model writes single words of low probability for music and clatter; speech has more words, or probable ones.
    Iteration over the answer stops as soon as the result is known.
    """
    word: list[Attempt] = []
    for attempt in answer:
        if len(word) == WORD_TOKENS or (word and _begins_word(attempt, tokenizer)):
            return None
        word.append(attempt)
    if not word or sum(attempt.log_prob for attempt in word) >= SURE:
        return None
    spans = [attempt.span() for attempt in word]
    return min(first for first, _ in spans), max(end for _, end in spans)


def quietest(level: Callable[[int, int], float], first: int, end: int) -> int:
    """Return the step in the middle of the quietest moment between two steps, the later one if there is no choice.

    Args:
        level: returns how loud the steps from one to before another are.
        first: first step.
        end: step after the last one.
    """
    starts = range(first, end - QUIET_STEPS + 1)
    return min(starts, key=lambda start: level(start, start + QUIET_STEPS), default=end - 1) + QUIET_STEPS // 2


def _begins_word(attempt: Attempt, tokenizer: Tokenizer) -> bool:
    return str(tokenizer.id_to_token(attempt.token_id)).startswith(WORD_MARKS)
