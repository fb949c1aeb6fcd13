"""Policies from the command line: which options belong to which, and what a stream is run with.

It knows the options as values, not who takes them nor how a session is opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from bestow_edge.cli.asked.delay import choose_for, latency_target
from bestow_edge.cli.asked.options import PolicyName

if TYPE_CHECKING:
    from bestow_edge.core.policy import Policy
    from bestow_edge.core.prompts import AboutSpeech
    from bestow_edge.runtime import Model
    from bestow_edge.runtime.records.trace import TracedPrompt


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StreamOptions:
    """When a stream is written, as the options say; None where one was not given."""

    policy: PolicyName | None
    k: int | None
    l: int | None  # noqa: E741 - the paper's letter
    threshold: int | None
    lookahead: int | None
    latency: str | None

    @property
    def given(self) -> list[str]:
        """Names of the options that say something about streams alone."""
        named = {"policy": self.policy, "latency": self.latency, **self._fields}
        return [f"--{name}" for name, value in named.items() if value is not None]

    @property
    def for_questions(self) -> bool:
        """Whether questions are to be answered in the stream too, because a policy was asked for."""
        return bool(self.given)

    def check(self) -> None:
        """Refuse what does not go together, before a model is loaded.

        Raises:
            BadParameter: an option is not one of the policy, or comes beside `--latency`.
            ConfigError: the latency is not a time.
        """
        if self.latency is not None and (self.policy not in {None, "wait-k"} or self.threshold is not None):
            raise typer.BadParameter("--latency is for wait-k; leave out --policy and --threshold")
        latency_target(self.latency, self.k, self.l, self.lookahead)
        _check_fields(self.policy or "wait-k", self._fields)

    def choose(self, model: Model, asked: Sequence[AboutSpeech], *, calibrated: bool) -> tuple[Policy, int | None]:
        """Return the policy of all texts and the look-ahead, None for the bundle's.

        Args:
            model: the loaded bundle.
            asked: what is asked about the stream.
            calibrated: measure what the choice for a latency costs on this machine.

        Raises:
            ConfigError: the latency is shorter than the shortest possible.
        """
        from bestow_edge.core.policy import WaitK

        target_s = latency_target(self.latency, self.k, self.l, self.lookahead)
        if target_s is None:
            return with_fields(default_policy(self.policy or "wait-k", model), self._fields), self.lookahead
        choice = choose_for(target_s, model, asked, calibrated=calibrated)
        return WaitK(choice.k, choice.l), choice.lookahead

    @property
    def _fields(self) -> dict[str, int]:
        return given_fields(k=self.k, l=self.l, threshold=self.threshold)


def given_fields(**options: int | None) -> dict[str, int]:
    """Return the fields of a policy that options set: those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def default_policy(name: PolicyName, model: Model) -> Policy:
    """Return a policy as it is without options: wait-k has the bundle's K and L."""
    from bestow_edge.core.policy import POLICIES, WaitK

    default = model.config.policy
    return WaitK(default.k, default.l) if name == "wait-k" else POLICIES[name]()


def with_fields(policy: Policy, given: Mapping[str, int]) -> Policy:
    """Return a policy, one of `POLICIES`, with the fields that options set.

    Raises:
        BadParameter: the policy does not have such a field.
    """
    from bestow_edge.core.policy import POLICIES

    _check_fields(next(name for name, kind in POLICIES.items() if type(policy) is kind), given)
    plain: Any = policy  # a dataclass, as all POLICIES are
    result: Policy = dataclasses.replace(plain, **given)
    return result


def policy_record(prompt: TracedPrompt, lookahead: int) -> dict[str, object]:
    """Return a policy as JSON shows it."""
    return {"name": prompt.policy, **prompt.fields, "lookahead": lookahead}


def _check_fields(name: str, given: Mapping[str, int]) -> None:
    from bestow_edge.core.policy import POLICIES

    kind: Any = POLICIES[name]  # a dataclass, as all of them are
    if unknown := set(given) - {field.name for field in dataclasses.fields(kind)}:
        raise typer.BadParameter(f"--{min(unknown)}: policy {name} has none; leave it out or choose another --policy")
