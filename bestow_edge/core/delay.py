"""A delay in seconds turned into K, L and look-ahead. Plain Python.

The first token comes after at most `K * L + right context` encoder steps of audio (docs/method.md, "Policy"). How long
the machine computes on top of that is measured by `bestow_edge.runtime.calibration`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError

TRAINED_K = range(3, 13)  # K drawn in training (paper, section 3.2); the defaults of `k_min` and `k_max` in recipes
DECIMALS = 6  # of a delay: to the microsecond, so that 29 steps of 0.08 s are the 2.32 s a user may type

_LATENCY = re.compile(r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+) ?(?P<unit>s|ms)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Settings of a session that keep to a latency."""

    k: int
    """Wait-k: blocks heard before the first token."""
    l: int  # noqa: E741 - the paper's letter
    """Encoder steps in a block."""
    lookahead: int
    """Right context of the encoder, steps."""
    delay_s: float
    """Most audio that comes before the first token, seconds."""

    def __str__(self) -> str:
        return f"K={self.k}, L={self.l}, look-ahead {self.lookahead} ({self.delay_s:.2f} s)"


def parse_latency(text: str) -> float:
    """Return the seconds meant by "2.5s", "2500ms" or "2.5".

    Raises:
        ConfigError: if the text is not a number with one of these units.
    """
    match = _LATENCY.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"latency {text!r}: expected seconds or milliseconds such as 2.5s, 2500ms or 2.5")
    return float(match["number"]) / (1000 if match["unit"] == "ms" else 1)


def delay_s(k: int, l: int, lookahead: int, config: ModelConfig) -> float:  # noqa: E741 - the paper's letter
    """Return the most audio, in seconds, that comes before the first token: (k * l + lookahead) steps."""
    return round((k * l + lookahead) * config.step_s, DECIMALS)


def solve(target_s: float, config: ModelConfig) -> Choice:
    """Choose K, L and look-ahead for a latency.

    Of all choices whose delay is at most the target, in this order:

    1. The L the model was trained with. With another one speech becomes visible at a pace never seen in training.
    2. K within the trained 3 to 12, or as near below 3 as fits.
    3. Should L have to change, the largest one, which is nearest to the trained L.
    4. The largest look-ahead: every step of speech is then encoded with more of its future, and large chunks cost the
       machine less. Filling the target to the last step instead would let the look-ahead jump with it, for a model of
       L = 4 from 6 at 2.4 s to 0 at 2.56 s.
    5. The largest K. So less than one block (L steps) of the target is left unused, unless K is at 12.

    The delay never falls when the target grows, and neither does the look-ahead while K is in its range.

    Args:
        target_s: most audio before the first token, seconds.
        config: the model.

    Raises:
        ConfigError: if even the shortest delay is longer than the target.
    """
    choices = [
        Choice(k=k, l=l, lookahead=lookahead, delay_s=delay_s(k, l, lookahead, config))
        for k in range(1, TRAINED_K.stop)
        for l in range(1, config.policy.l + 1)  # noqa: E741 - the paper's letter
        for lookahead in config.encoder.right_contexts
    ]
    fitting = [choice for choice in choices if choice.delay_s <= target_s]
    if not fitting:
        shortest = min(choices, key=lambda choice: choice.delay_s)
        raise ConfigError(f"latency {target_s:g} s: the shortest possible with this model is {shortest}")
    return max(fitting, key=lambda choice: _preference(choice, config.policy.l))


def is_trained(k: int, l: int, config: ModelConfig) -> bool:  # noqa: E741 - the paper's letter
    """Return whether L is the model's own and K within the range usual in training."""
    return l == config.policy.l and k in TRAINED_K


def _preference(choice: Choice, trained_l: int) -> tuple[bool, int, int, int, int]:
    """Return the key to compare choices by. K comes last, which is why a larger target never gives a smaller delay."""
    return choice.l == trained_l, min(choice.k, TRAINED_K.start), choice.l, choice.lookahead, choice.k
