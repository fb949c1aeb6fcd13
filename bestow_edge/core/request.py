"""A request: what is asked of a recording or a stream, as a command line, a server or a program states it.

All of them share its checks and its errors. Plain Python.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bestow_edge.core.config import ModelConfig, PolicyConfig, PolicyName
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.delay import Choice, parse_latency, solve
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.policy import POLICIES, AlignAtt, EveryStep, Offline, Policy, check_policy
from bestow_edge.core.prompts import AUTO, AboutSpeech, Question, check_answers, check_trained, parse_asked

DEFAULT_SPOKEN = "en"  # of models that know it


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Prompts, read/write policy, delay and search. None stands for the default of the model."""

    lang: str | None = None
    """Language pairs such as `en-en,en-de`; of questions alone the language of the speech."""
    ask: tuple[str, ...] = ()
    """Questions about the speech."""
    stream: bool = True
    """Write while listening, not at the end of the audio."""
    policy: PolicyName | None = None
    """Name of the read/write policy of a stream."""
    k: int | None = None
    """wait-k: blocks heard before the first token."""
    l: int | None = None  # noqa: E741 - the paper's letter
    """Encoder steps in a block."""
    threshold: int | None = None
    """align-att: encoder steps between the attention's peak and the newest step."""
    delay: int | None = None
    """every-step: encoder steps from the end of a word to its text."""
    blank_bias: float | None = None
    """every-step: added to the log-probability of BLANK, nats."""
    lookahead: int | None = None
    """Right context of the encoder, steps."""
    latency: str | None = None
    """Delay such as `2.5s`, in place of k, l and lookahead."""
    beam_size: int = 1
    """Hypotheses of the search over the whole audio; 1 is greedy."""
    hotwords: tuple[Hotword, ...] = ()
    """Names and terms that are preferred to words that sound alike."""

    def __post_init__(self) -> None:
        """Refuse values that do not go together, before a model is loaded.

        Raises:
            PromptError: a pair or a question cannot be asked, or comes twice.
            ConfigError: a value does not fit the others.
        """
        if self.given and not self.stream:
            raise ConfigError(f"{', '.join(self.given)}: only for a stream; without one all is heard before text comes")
        asked = () if self.lang is None else parse_asked(self.lang, self.ask)
        if self.beam_size > 1 and (self.stream or len(asked or self.ask) > 1):
            raise ConfigError("a beam searches one text of the whole audio; give one pair or question and no stream")
        if self.latency is not None and (self.policy not in {None, "wait-k"} or self.threshold is not None):
            raise ConfigError("latency is for wait-k; leave out policy and threshold")
        if self.latency is not None and (self.k, self.l, self.lookahead) != (None, None, None):
            raise ConfigError("latency chooses k, l and lookahead; leave them out")
        if self.latency is not None:
            parse_latency(self.latency)
        if self.policy is not None:
            check_fields(self.policy, self.fields)

    def asked(self, config: ModelConfig) -> tuple[AboutSpeech, ...]:
        """Return language pairs, and the questions behind them.

        Without `lang` it is a transcription: `auto` if the model detects languages, else English or else its first
        language; the first pair of a model that only translates. Of questions alone it is English or else its first
        language.
        """
        return parse_asked(self.lang or (_default_spoken if self.ask else default_pair)(config), self.ask)

    @property
    def fields(self) -> dict[str, float]:
        """Fields of the policy that were given."""
        return given_fields(k=self.k, l=self.l, threshold=self.threshold, delay=self.delay, blank_bias=self.blank_bias)

    @property
    def given(self) -> list[str]:
        """Names of the values that are for a stream alone."""
        named = {"policy": self.policy, "latency": self.latency, **self.fields}
        return [name for name, value in named.items() if value is not None]

    def choose(self, config: ModelConfig) -> Choice | None:
        """Return K, L and look-ahead for the latency, None if none was given.

        Raises:
            ConfigError: the latency is shorter than the shortest possible.
        """
        return None if self.latency is None else solve(parse_latency(self.latency), config)

    def prompts(self, config: ModelConfig) -> tuple[tuple[AboutSpeech, Policy], ...]:
        """Return the prompts of a session with their policies.

        Questions are answered when everything has been heard, unless the policy of a stream was given. A model that
        cannot wait for the end writes as in a stream.
        """
        at_the_end = offline_policy(config)
        policy = at_the_end
        if self.stream:
            choice = self.choose(config)
            name = self.policy if choice is None else "wait-k"
            fields = self.fields if choice is None else {"k": choice.k, "l": choice.l}
            policy = change_policy(default_policy(name, config.policy), fields)
        for_questions = policy if self.given else at_the_end
        asked = self.asked(config)
        return tuple((what, for_questions if isinstance(what, Question) else policy) for what in asked)

    def check(self, config: ModelConfig) -> None:
        """Refuse what a model cannot do, without loading it.

        Raises:
            PromptError: it was not trained for a pair or a question.
            ConfigError: it cannot follow a policy, or has no such look-ahead.
        """
        for asked, policy in self.prompts(config):
            check_asked(asked, config)
            check_follows(policy, config)
        check_lookahead(self.right_context(config), config)

    def right_context(self, config: ModelConfig) -> int | None:
        """Return the look-ahead of a session, None for the model's default."""
        choice = self.choose(config)
        return self.lookahead if choice is None else choice.lookahead


def default_pair(config: ModelConfig, *, auto: bool = True) -> str:
    """Return the pair of a request that names none, see `Request.asked`; without `auto` it names the language."""
    if auto and config.connector.detects:
        return AUTO
    transcripts = [pair for pair in config.pairs if pair.partition("-")[0] == pair.partition("-")[2]]
    english = f"{DEFAULT_SPOKEN}-{DEFAULT_SPOKEN}"
    if english in transcripts or not config.pairs:
        return english
    return (transcripts or config.pairs)[0]


def _default_spoken(config: ModelConfig) -> str:
    return DEFAULT_SPOKEN if DEFAULT_SPOKEN in config.questions or not config.questions else config.questions[0]


def given_fields(**values: float | None) -> dict[str, float]:
    """Return the fields of a policy that were given."""
    return {name: value for name, value in values.items() if value is not None}


def default_policy(name: str | None, default: PolicyConfig) -> Policy:
    """Return the policy of a name, None for the model's own, with the model's values where it has them."""
    kind: Any = POLICIES[name or default.name]  # a dataclass, as all of them are
    names = [field.name for field in dataclasses.fields(kind) if hasattr(default, field.name)]
    policy: Policy = kind(**{name: getattr(default, name) for name in names})
    return policy


def offline_policy(config: ModelConfig) -> Policy:
    """Return `Offline`, or the model's own policy if its connector cannot wait for the end of the audio."""
    return default_policy(None, config.policy) if CONNECTORS[config.connector.kind].continuous else Offline()


def describe_policy(default: PolicyConfig) -> str:
    """Return the policy of a session that names none, in words for people: `wait-k, k 6, l 4`."""
    policy: Any = default_policy(None, default)  # a dataclass, as all POLICIES are
    fields = [field.name for field in dataclasses.fields(policy) if hasattr(default, field.name)]
    return ", ".join([default.name, *(f"{name} {getattr(policy, name)}" for name in fields)])


def change_policy(policy: Policy, fields: Mapping[str, float]) -> Policy:
    """Return one of `POLICIES` with other fields.

    Raises:
        ConfigError: the policy has no such field, or a value is out of range.
    """
    check_fields(next(name for name, kind in POLICIES.items() if type(policy) is kind), fields)
    plain: Any = policy  # a dataclass, as all POLICIES are
    try:
        changed: Policy = dataclasses.replace(plain, **fields)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return changed


def check_fields(name: str, fields: Mapping[str, float]) -> None:
    """Refuse fields that a policy does not have.

    Raises:
        ConfigError: names the first one.
    """
    kind: Any = POLICIES[name]  # a dataclass, as all of them are
    if unknown := set(fields) - {field.name for field in dataclasses.fields(kind)}:
        raise ConfigError(f"{min(unknown)}: policy {name} has none; leave it out or choose another policy")


def check_asked(asked: AboutSpeech, config: ModelConfig) -> None:
    """Refuse a pair or a question that the model was not trained for.

    Raises:
        PromptError: names those that it was trained for.
    """
    if isinstance(asked, Question):
        check_answers(asked, config.questions)
    else:
        check_trained(asked, config.pairs, config.connector.detects)


def check_lookahead(lookahead: int | None, config: ModelConfig) -> None:
    """Refuse a look-ahead, in encoder steps, that the encoder does not have; None is its default.

    Raises:
        ConfigError: names those that it has.
    """
    known = config.encoder.right_contexts
    if lookahead is not None and lookahead not in known:
        raise ConfigError(f"lookahead {lookahead}: this model has {', '.join(map(str, known))}")


def check_follows(policy: Policy, config: ModelConfig) -> None:
    """Refuse a policy that the model's kind of connector cannot follow.

    Raises:
        ConfigError: names the policies that it can follow, or what no session can do, see `check_policy`.
    """
    check_policy(policy)
    if isinstance(policy, EveryStep):
        config.connector.check_policy(PolicyConfig(name="every-step", **dataclasses.asdict(policy)))
    layers = getattr(config.connector, "num_layers", 1)
    if isinstance(policy, AlignAtt) and not -layers <= policy.layer < layers:
        raise ConfigError(f"policy align-att: layer {policy.layer}; expected {-layers} to {layers - 1}")
    kind = CONNECTORS[config.connector.kind]
    if not kind.can_follow(policy):
        known = ", ".join(name for name in POLICIES if kind.can_follow(default_policy(name, config.policy)))
        name = next((name for name, one in POLICIES.items() if type(policy) is one), type(policy).__name__)
        raise ConfigError(
            f"policy {name}: a model with connector {config.connector.kind} cannot follow it; use {known}"
        )
