"""Read/write policy: which speech steps each text position may see. numpy only.

The one definition of wait-k (paper, section 3.2). The training mask, the exporter's parity inputs and the live loop all
call `visible_steps`, so a model is run exactly as it was trained. Only encoder steps (80 ms) and text positions count:
the text does not depend on how the audio arrived.

Positions: a sequence is `prompt_tokens` prompt tokens and then the answer. The last prompt token is the first query; it
predicts answer token 0. Prompt tokens before it see no speech, only the null frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from bestow_edge.core.errors import ConfigError

if TYPE_CHECKING:  # the command line reads policies and needs no numpy for that
    import numpy as np
    import numpy.typing as npt

ALL_STEPS = 2**31 - 1  # "as many as there will ever be": larger than any stream, fits the graphs' int64 and int32
MOST_BIAS = 100.0  # of a token, nats


@dataclass(frozen=True, slots=True)
class View:
    """A token that the model proposes, for a policy to accept or to refuse."""

    index: int
    """Answer token, from 0."""
    token_id: int
    """The proposal."""
    log_prob: float
    """Its natural log-probability."""
    visible_steps: int
    """Encoder steps it was made with, counted from the first one."""
    refusals: int
    """How often this token was refused before."""
    attention: Callable[[int], npt.NDArray[np.float32]]
    """Cross-attention of an adapter layer (0, 1, ... or -1 for the last), mean over heads: (steps,) float32 over the
    last of the visible steps, all of them unless the stream is longer than its memory."""
    drafts: tuple[tuple[int, ...], ...]
    """Whole answers the model would have given with the speech visible at the last reads, the newest last; at most
    `num_drafts`."""


class Policy:
    """When to read and when to write. Base class: accepts whatever the model proposes after every `read_steps`.

    A policy of your own overrides what it needs. It holds no state: everything it may decide on is in the `View`.
    """

    @property
    def read_steps(self) -> int:
        """Encoder steps to read before the same token is tried again, at least 1."""
        return 4

    @property
    def num_drafts(self) -> int:
        """Drafts that `accepts` wants to see; each costs a decoding to its end."""
        return 0

    @property
    def end_bias(self) -> float:
        """Added to the log-probability of the end tokens before the end of the audio, nats."""
        return 0.0

    @property
    def most_at_once(self) -> int:
        """Most tokens written with the same speech visible, before the end of the audio."""
        return ALL_STEPS

    def steps_needed(self, index: int) -> int:  # noqa: ARG002 - for those that override it
        """Return the encoder steps that must be heard before answer token `index` (from 0) is tried."""
        return self.read_steps

    def accepts(self, view: View) -> bool:  # noqa: ARG002 - for those that override it
        """Write the token (True), or read `read_steps` more and try again. Not asked once all audio is heard."""
        return True


@dataclass(frozen=True, slots=True)
class WaitK(Policy):
    """Wait for `k` blocks of `l` encoder steps, then write one token per block. Source: paper, section 3.2."""

    k: int
    l: int  # noqa: E741 - the paper's letter

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_numbers(self)
        if self.k < 1 or self.l < 1:
            raise ConfigError(f"wait-k needs k >= 1 and l >= 1, got k={self.k}, l={self.l}")

    @property
    def read_steps(self) -> int:
        """One block."""
        return self.l

    def steps_needed(self, index: int) -> int:
        """Return (k + index) * l."""
        return (self.k + index) * self.l


@dataclass(frozen=True, slots=True)
class Offline(Policy):
    """Hear everything before the first token: wait-k with k * l = infinity."""

    @property
    def read_steps(self) -> int:
        """Never used: there is nothing left to read."""
        return ALL_STEPS

    def steps_needed(self, index: int) -> int:  # noqa: ARG002 - the base's signature
        """Return more steps than any stream has."""
        return ALL_STEPS


@dataclass(frozen=True, slots=True)
class AlignAtt(Policy):
    """Write a token unless it looks at the newest speech, whose continuation may change it.

    The attention's peak, after averaging over `pool` steps, must lie at least `threshold` steps behind the newest
    visible step. Source: Papi et al. 2023 (AlignAtt) as the BESTOW authors' code applies it to the adapter; there the
    first 8 steps are skipped as an attention sink, which adapters trained on word times don't have.
    """

    threshold: int = 4
    """Steps (80 ms) between the attention's peak and the newest visible one."""
    layer: int = -1
    """Adapter layer, -1 = the last."""
    l: int = 4  # noqa: E741 - the paper's letter
    """Steps read before a token is tried again."""
    sink_steps: int = 0
    """First steps of the stream to leave out."""
    pool: int = 5
    """Steps averaged before the peak is looked for."""
    least_share: float = 0.0
    """Least share of the attention on the visible steps. The rest is on the null frame, or on the silence behind the
    audio, as for words that a Whisper guesses."""
    most_refusals: int = 10
    """A token refused so often is written all the same."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_numbers(self)
        if self.threshold < 0 or self.l < 1 or self.sink_steps < 0 or self.pool < 1 or self.most_refusals < 0:
            raise ConfigError(f"align-att: need l and pool of at least 1, the others of at least 0, got {self}")
        if not 0 <= self.least_share < 1:
            raise ConfigError(f"align-att: least_share must be at least 0 and below 1, got {self.least_share}")

    @property
    def read_steps(self) -> int:
        """One block."""
        return self.l

    def accepts(self, view: View) -> bool:
        """Compare the distance of the peak from the newest step with the threshold."""
        import numpy as np

        if view.refusals >= self.most_refusals:
            return True
        weights = view.attention(self.layer)
        if weights.sum() < self.least_share:
            return False
        first = view.visible_steps - weights.size  # 0 unless the stream outgrew its memory
        weights = weights[max(0, self.sink_steps - first) :]
        if not weights.size:
            return False
        peak = int(np.convolve(weights, np.ones(self.pool), mode="same").argmax())
        return weights.size - 1 - peak >= self.threshold


@dataclass(frozen=True, slots=True)
class LocalAgreement(Policy):
    """Write what `n` successive drafts agree on, each made with one block more. Source: Liu et al. 2020.

    Made for encoders that hear both ways, whose past changes as more is heard.
    """

    n: int = 2
    """Drafts that must agree."""
    l: int = 4  # noqa: E741 - the paper's letter
    """Steps between two drafts."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_numbers(self)
        if self.n < 2 or self.l < 1:
            raise ConfigError(f"local agreement needs n >= 2 and l >= 1, got n={self.n}, l={self.l}")

    @property
    def read_steps(self) -> int:
        """One block."""
        return self.l

    @property
    def num_drafts(self) -> int:
        """`n`."""
        return self.n

    def accepts(self, view: View) -> bool:
        """All drafts are there and say the same up to this token."""
        heads = [draft[: view.index + 1] for draft in view.drafts]
        return len(heads) == self.n and len(heads[0]) == view.index + 1 and len(set(heads)) == 1


@dataclass(frozen=True, slots=True)
class EveryStep(Policy):
    """Ask the model after every turn of `l` encoder steps; it writes tokens until BLANK, its end token.

    For connectors whose LLM was trained to decide itself when it writes. Source: Seide et al. 2024 (Speech ReaLLM).
    """

    l: int = 4  # noqa: E741 - the paper's letter
    """Encoder steps in a turn, as in training."""
    delay: int = 4
    """Steps from the end of a word to its text, one of those that the model was trained with; the model is given it."""
    blank_bias: float = 0.0
    """Added to the log-probability of BLANK, nats: above 0 text comes later, below 0 sooner."""
    most_tokens: int = 8
    """Most tokens of a turn; the rest of the text waits for the next one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_numbers(self)
        if self.l < 1 or self.delay < 0 or self.most_tokens < 1:
            raise ConfigError(f"every-step: need l and most_tokens of at least 1 and delay of at least 0, got {self}")
        if not abs(self.blank_bias) <= MOST_BIAS:
            raise ConfigError(f"every-step: blank_bias is {self.blank_bias}; expected {-MOST_BIAS:g} to {MOST_BIAS:g}")

    @property
    def read_steps(self) -> int:
        """One turn."""
        return self.l

    @property
    def end_bias(self) -> float:
        """`blank_bias`."""
        return self.blank_bias

    @property
    def most_at_once(self) -> int:
        """`most_tokens`."""
        return self.most_tokens


POLICIES: dict[str, type[Policy]] = {
    "wait-k": WaitK,
    "offline": Offline,
    "align-att": AlignAtt,
    "local-agreement": LocalAgreement,
    "every-step": EveryStep,
}
"""Names of the policies in files and on the command line; all are dataclasses."""


def _check_numbers(policy: Any) -> None:  # Any: a dataclass of whole numbers and shares
    for item in fields(policy):
        value = getattr(policy, item.name)
        kinds = (int, float) if item.name in {"least_share", "blank_bias"} else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) <= ALL_STEPS:
            expected = "a number" if len(kinds) > 1 else "a whole number"
            raise ConfigError(f"policy {type(policy).__name__}: {item.name} is {value!r:.60}; expected {expected}")


def check_policy(policy: object) -> None:
    """Check what a session relies on, for policies that a program brings too.

    Raises:
        ConfigError: if it is no policy, or asks for a number of steps or drafts that no session can give.
    """
    if not isinstance(policy, Policy):
        raise ConfigError(f"policy {policy!r:.60}: expected one such as WaitK(k=6, l=4) or Offline()")
    asked = {
        "read_steps": (policy.read_steps, 0, ALL_STEPS),
        "num_drafts": (policy.num_drafts, 0, 100),
        "steps_needed(0)": (policy.steps_needed(0), 0, ALL_STEPS),
    }
    for name, (value, least, most) in asked.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            got = f"{name} is {value!r:.60}"
            raise ConfigError(f"policy {type(policy).__name__}: {got}; expected a whole number from {least} to {most}")


def visible_steps(
    policy: Policy,
    *,
    prompt_tokens: int,
    text_tokens: int,
    source_steps: int,
    at_least: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Return how many speech steps each text position sees, counted from the first step.

    Args:
        policy: the read/write policy.
        prompt_tokens: tokens of the prompt, at least 1.
        text_tokens: tokens of the whole sequence, prompt included.
        source_steps: encoder steps there are (all of them when the audio has ended).
        at_least: (answer positions,) steps already read when the token was tried, after pauses; it raises what the
            policy allows. None means no pauses.

    Returns:
        (text_tokens,) int64; 0 = the null frame alone.
    """
    import numpy as np

    if prompt_tokens < 1 or text_tokens < prompt_tokens:
        raise ValueError(f"need 1 <= prompt_tokens <= text_tokens, got {prompt_tokens} and {text_tokens}")
    num_answers = text_tokens - prompt_tokens + 1
    floors = [0] * num_answers if at_least is None else at_least.tolist()
    if len(floors) != num_answers:
        raise ValueError(f"at_least has {len(floors)} entries, expected {num_answers}: one for each answer position")
    answers = [min(wanted_steps(policy, index, floor), source_steps) for index, floor in enumerate(floors)]
    return np.array([0] * (prompt_tokens - 1) + answers, dtype=np.int64)


def wanted_steps(policy: Policy, index: int, at_least: int = 0) -> int:
    """Return the speech steps that answer token `index` (from 0) sees, if there are so many; until then it has to READ.

    A pause at this token or an earlier one has asked for `at_least` steps.
    """
    return max(policy.steps_needed(index), at_least)
