"""Contracts of graphs: tensors, their names, dtypes and axes. Plain Python.

Export names its tensors from these specs, the runtime checks loaded graphs against them, tests and `inspect` print
them. Axes are words where they may change from call to call and numbers where the model fixes them. Each kind of
encoder and connector has its specs in `bestow_edge.core.specs`; names that several kinds or layers share stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

MEL, FRAME_START, FRAME_END, PAST_STEPS = "mel", "frame_start", "frame_end", "past_steps"  # into encoders
TOKEN_IDS, VISIBLE_STEPS, WRITTEN_STEPS = "token_ids", "visible_steps", "written_steps"  # into connectors
SPEECH_EMBEDS, POSITION_ENDS = "speech_embeds", "position_ends"  # out of encoders, for the LLM's sequence
INPUTS_EMBEDS, ALIGNMENT = "inputs_embeds", "alignment"  # out of connectors
PAST_TOKENS, SCORED_TOKENS = "past_tokens", "scored_tokens"
LOGITS, TOKEN_ID, LOG_PROB = "logits", "token_id", "log_prob"  # out of LLMs
LANGUAGE_LOGITS = "languages"  # out of LLMs that detect the language of the speech
NEXT = "next_"  # prefix of a state's name on the way out
CACHE, NEW = "cache_", "new_"  # prefixes of a cache, bound in place, and of its new entries
MEMORY = "memory_"  # prefix of the speech memory
KINDS = ("keys", "values")  # of an attention's cache
BATCH, STEPS, CAPACITY, FRAMES, TOKENS, SLOTS = "batch", "steps", "capacity", "frames", "tokens", "memory"  # axes
SCORED = "scored"  # axis: the new tokens that an LLM scores
POSITIONS = "positions"  # axis: an encoder's own positions, of which a step may have several

Part = Literal["encoder", "connector", "llm"]
Target = Literal["cpu", "cuda", "tensorrt", "rtx"]
"""Device that graphs are made for. On a GPU, tensors between graphs or steps are float16."""
FOR_ENGINES: tuple[Target, ...] = ("tensorrt", "rtx")  # standard operators alone, which both libraries read
FLOAT32_EVERYWHERE = (MEL, LOGITS, LOG_PROB, ALIGNMENT, LANGUAGE_LOGITS)  # tensors that enter or leave the device


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a graph."""

    name: str
    dtype: str
    """numpy name: `float32`, `float16` or `int64`."""
    axes: tuple[str | int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.axes))})"


class DerivedAxis(NamedTuple):
    """An axis of outputs whose size is `source // divisor * factor + extra`."""

    name: str
    source: str
    """Axis of the inputs."""
    divisor: int = 1
    extra: int = 0
    factor: int = 1


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """Ordered tensors of one graph. A state goes in under its name and comes out as `next_` + name."""

    name: str
    part: Part
    """Part of the model that it computes."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...] = ()
    derived: tuple[DerivedAxis, ...] = ()
    """Axes whose sizes follow from others, for a runtime that allocates outputs before a run."""

    @property
    def input_names(self) -> list[str]:
        """Names fed, states last."""
        return [tensor.name for tensor in (*self.inputs, *self.states)]

    @property
    def output_names(self) -> list[str]:
        """Names returned, states last."""
        return [tensor.name for tensor in self.outputs] + [NEXT + tensor.name for tensor in self.states]

    @property
    def fed(self) -> tuple[TensorSpec, ...]:
        """Inputs and states."""
        return self.inputs + self.states

    @property
    def returned(self) -> tuple[TensorSpec, ...]:
        """Outputs and next states, under their names on the way out."""
        return *self.outputs, *(replace(tensor, name=NEXT + tensor.name) for tensor in self.states)

    def output_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the sizes of all named axes from those of the inputs."""
        return {
            **sizes,
            **{axis.name: sizes[axis.source] // axis.divisor * axis.factor + axis.extra for axis in self.derived},
        }


def by_layer(layers: int) -> list[str]:
    """Return `keys_0`, `values_0`, `keys_1` and so on: tensors of their own, since a part of one would be copied."""
    return [f"{kind}_{layer}" for layer in range(layers) for kind in KINDS]


def in_float16(spec: GraphSpec) -> GraphSpec:
    """Return a contract with float16 in place of float32 but for `FLOAT32_EVERYWHERE`."""

    def half(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(tensor, dtype="float16")
            if tensor.dtype == "float32" and tensor.name not in FLOAT32_EVERYWHERE
            else tensor
            for tensor in tensors
        )

    return replace(spec, inputs=half(spec.inputs), outputs=half(spec.outputs), states=half(spec.states))
