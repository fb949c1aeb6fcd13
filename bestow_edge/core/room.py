"""How long a segment of speech may be that stands in the LLM's sequence."""

from __future__ import annotations

from bestow_edge.core.config import OVERSHOOT_STEPS, ModelConfig, SegmentConfig
from bestow_edge.core.errors import ConfigError

LONGEST_S, SHORTEST_S = 30.0, 3.0  # of a segment


def segments(config: ModelConfig, prompt_tokens: int) -> SegmentConfig:
    """Return segments that fit a new model: speech takes at most half of the context that the prompt leaves.

    Args:
        config: of the model.
        prompt_tokens: tokens of its longest prompt.

    Raises:
        ConfigError: if that is less than 3 s.
    """
    if not config.connector.llm_positions(1):
        return config.segments
    room = (config.max_text_tokens - prompt_tokens - 1) // 2
    steps = min(round(LONGEST_S / config.step_s), config.encoder.whole_steps)
    while steps and config.connector.llm_positions(steps + OVERSHOOT_STEPS) > room:
        steps -= 1
    if steps * config.step_s < SHORTEST_S:
        got = f"its context of {config.max_text_tokens} tokens and the prompt of {prompt_tokens} leave room for"
        raise ConfigError(f"llm: {got} {steps * config.step_s:.1f} s of speech; choose an LLM with a longer context")
    return SegmentConfig(max_s=round(steps * config.step_s, 3))
