"""Which precision each part of a model is exported in. Plain Python."""

from __future__ import annotations

from typing import get_args

from bestow_edge.core.bundle import Precision
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.tensors import Part, Target

PARTS: tuple[Part, ...] = get_args(Part)
CHOICES: dict[Part, tuple[Precision, ...]] = {
    "encoder": ("fp32", "fp16", "int8"),  # int4 weights are unpacked for each chunk: slower and worse than int8
    "connector": ("fp32", "fp16", "int8", "int4"),
    "llm": ("fp32", "fp16", "int8", "int4"),
}
ON_GPU: dict[Target, dict[Part, tuple[Precision, ...]]] = {  # the default first; caches are float16 in any case
    "cuda": {"encoder": ("fp16",), "connector": ("fp16",), "llm": ("fp16", "int4")},
    "tensorrt": {"encoder": ("fp16",), "connector": ("fp16", "int4"), "llm": ("fp16", "int4")},
    "rtx": {"encoder": ("fp16",), "connector": ("fp16", "int4"), "llm": ("fp16", "int4")},
}
LARGE_LLM = 300_000_000  # weights from which int4 is the default: its bytes are then what a token costs


def default_precisions(llm_weights: int, target: Target = "cpu") -> dict[Part, Precision]:
    """Return the precision of each part: for CPUs int8, and int4 for the weights of a large LLM; for GPUs fp16."""
    if target != "cpu":
        return {part: choices[0] for part, choices in ON_GPU[target].items()}
    return {"encoder": "int8", "connector": "int8", "llm": "int4" if llm_weights >= LARGE_LLM else "int8"}


def parse_precisions(text: str | None, llm_weights: int, target: Target = "cpu") -> dict[Part, Precision]:
    """Read what a user asks for.

    Args:
        text: one precision for all parts, or a list such as `encoder=int8,llm=int4` whose other parts take their
            default; None takes the defaults.
        llm_weights: weights of the LLM, on which its default depends.
        target: what the graphs are made for.

    Returns:
        Precision by part.

    Raises:
        ConfigError: if a part or a precision is unknown, or a part has no such precision.
    """
    chosen = default_precisions(llm_weights, target)
    choices = CHOICES if target == "cpu" else ON_GPU[target]
    if text is None:
        return chosen
    pairs = [item.partition("=") for item in text.split(",")]
    if len(pairs) == 1 and not pairs[0][1]:
        pairs = [(part, "=", text) for part in PARTS]
    for key, _, name in pairs:
        part = next((part for part in PARTS if part == key), None)
        if part is None or name not in get_args(Precision):
            expected = (
                f"one of {', '.join(get_args(Precision))}, or a list such as encoder=int8,connector=int8,llm=int4"
            )
            raise ConfigError(f"precision {text!r}: expected {expected}")
        if name not in choices[part]:
            where = "" if target == "cpu" else f" for {target}"
            raise ConfigError(f"precision {text!r}: the {part} comes in {', '.join(choices[part])}{where}")
        chosen[part] = next(choice for choice in choices[part] if choice == name)
    return chosen
