"""The settings of an evaluation: policies with their parameters, and look-aheads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bestow_edge.core.config import ModelConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import POLICIES, Policy
from bestow_edge.core.request import change_policy, check_follows, default_policy

VARIED = {"wait-k": "k", "align-att": "threshold", "every-step": "blank_bias"}
"""The parameter of each policy that trades latency for quality. Other policies do not have one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of a latency-quality curve."""

    policy: str
    """Name in `POLICIES`."""
    fields: Mapping[str, float]
    """Its parameters."""
    lookahead: int
    """Right context of the encoder, steps of 80 ms."""

    @property
    def name(self) -> str:
        """Name of its directory, such as `wait-k_k3_l4_lookahead13`."""
        parts = [f"{field}{value}" for field, value in self.fields.items()]
        return "_".join([self.policy, *parts, f"lookahead{self.lookahead}"])

    @property
    def curve(self) -> str:
        """Name of its curve."""
        delay = f", delay {self.fields['delay']}" if "delay" in self.fields else ""
        return f"{self.policy}{delay}, look-ahead {self.lookahead}"

    @property
    def point(self) -> str:
        """Label of its point on the curve, such as `K=3`; empty if the curve is one point."""
        varied = VARIED.get(self.policy, "")
        return f"{varied.upper() if len(varied) == 1 else varied}={self.fields[varied]}" if varied else ""

    def make_policy(self, default: PolicyConfig) -> Policy:
        """Return the policy; what the setting does not name is as in the model's default.

        Raises:
            ConfigError: if a parameter is out of range.
        """
        return change_policy(default_policy(self.policy, default), self.fields)

    def record(self) -> dict[str, object]:
        """Return its fields for JSON."""
        return {"name": self.name, "policy": self.policy, **self.fields, "lookahead": self.lookahead}


def all_settings(
    config: ModelConfig,
    policies: Sequence[str],
    *,
    varied: Mapping[str, Sequence[float]],
    l: int | None = None,  # noqa: E741 - the paper's letter
    lookaheads: Sequence[int] = (),
) -> list[Setting]:
    """Return every policy with every value of its parameter at every look-ahead.

    Args:
        config: the model.
        policies: names in `POLICIES`.
        varied: values of `k`, `threshold`, `delay` and `blank_bias`; missing or empty = the default of the model or
            the policy.
        l: steps read at once, None = the model's.
        lookaheads: right contexts, empty = the model's.

    Raises:
        ConfigError: if a policy, parameter or look-ahead is unknown, a value is out of range, one is given twice, or
            the model cannot follow a policy.
    """
    if unknown := [name for name in policies if name not in POLICIES]:
        raise ConfigError(f"policy {unknown[0]!r}: expected one of {', '.join(POLICIES)}")
    used = {VARIED.get(name) for name in policies} | ({"delay"} if "every-step" in policies else set())
    if idle := [field for field, values in varied.items() if values and field not in used]:
        raise ConfigError(f"{idle[0]} belongs to another policy than {', '.join(policies)}")
    contexts = config.encoder.right_contexts
    if wrong := [steps for steps in lookaheads if steps not in contexts]:
        raise ConfigError(f"lookahead {wrong[0]}: this model has {', '.join(map(str, contexts))}")
    default = config.policy if l is None else replace(config.policy, l=l)
    found: list[Setting] = []
    for lookahead in lookaheads or [config.encoder.default_right_context]:
        for name in policies:
            found += [Setting(name, fields, lookahead) for fields in _fields(name, varied, default)]
    if len({setting.name for setting in found}) < len(found):
        raise ConfigError("a policy, a value or a look-ahead is named twice; name each once")
    for setting in found:
        check_follows(setting.make_policy(config.policy), config)
    return found


def _fields(name: str, varied: Mapping[str, Sequence[float]], default: PolicyConfig) -> list[dict[str, float]]:
    """Return the parameters of each setting of a policy."""
    if name == "offline":
        return [{}]
    own = {field: [getattr(default, field)] for field in ("k", "threshold", "delay", "blank_bias")}
    values = own | {key: list(v) for key, v in varied.items() if v}
    field = VARIED.get(name)
    if name == "every-step":
        biases = values["blank_bias"]
        return [{"delay": delay, "blank_bias": bias, "l": default.l} for delay in values["delay"] for bias in biases]
    return [{field: value, "l": default.l} for value in values[field]] if field else [{"l": default.l}]
