"""Which precision each part of a model is exported in. Plain Python."""

from __future__ import annotations

from typing import get_args

from bestow_edge.bundle import Precision
from bestow_edge.errors import ConfigError
from bestow_edge.graphs import ADAPTER, ENCODER, LLM, WINDOW

PARTS = {"encoder": (ENCODER, WINDOW), "adapter": (ADAPTER,), "llm": (LLM,)}
CHOICES: dict[str, tuple[Precision, ...]] = {
    "encoder": ("fp32", "fp16", "int8"),  # int4 weights are unpacked for each chunk: slower and worse than int8
    "adapter": ("fp32", "fp16", "int8", "int4"),
    "llm": ("fp32", "fp16", "int8", "int4"),
}
LARGE_LLM = 300_000_000  # weights from which int4 is the default: its bytes are then what a token costs


def default_precisions(llm_weights: int) -> dict[str, Precision]:
    """Return the precision of each part for CPUs: int8, and int4 for the weights of a large LLM."""
    return {"encoder": "int8", "adapter": "int8", "llm": "int4" if llm_weights >= LARGE_LLM else "int8"}


def parse_precisions(text: str | None, llm_weights: int) -> dict[str, Precision]:
    """Read what a user asks for.

    Args:
        text: one precision for all parts, or a list such as `encoder=int8,llm=int4` whose other parts take their
            default; None takes the defaults.
        llm_weights: weights of the LLM, on which its default depends.

    Returns:
        Precision by part.

    Raises:
        ConfigError: a part or a precision is unknown, or a part has no such precision.
    """
    chosen = default_precisions(llm_weights)
    if text is None:
        return chosen
    pairs = [item.partition("=") for item in text.split(",")]
    if len(pairs) == 1 and not pairs[0][1]:
        pairs = [(part, "=", text) for part in PARTS]
    for part, _, name in pairs:
        if part not in PARTS or name not in get_args(Precision):
            expected = f"one of {', '.join(get_args(Precision))}, or a list such as encoder=int8,adapter=int8,llm=int4"
            raise ConfigError(f"precision {text!r}: expected {expected}")
        if name not in CHOICES[part]:
            raise ConfigError(f"precision {text!r}: the {part} comes in {', '.join(CHOICES[part])}")
        chosen[part] = next(choice for choice in CHOICES[part] if choice == name)
    return chosen


def part_of(graph: str) -> str:
    """Return the part of the model a graph computes."""
    return next(part for part, graphs in PARTS.items() if graph in graphs)
