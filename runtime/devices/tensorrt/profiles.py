"""Optimisation profiles: the sizes of inputs for which an engine is built, from graph contracts alone.

A profile has a range for each dynamic axis, and a usual size for which TensorRT chooses kernels. The encoder has a
profile for each chunk size; adapter and LLM have one for the prompt and one for a single token, with bounds for text
caches and speech memory. The ranges of frames or tokens do not overlap, so every size has exactly one profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.config import EncoderConfig
from bestow_edge.core.errors import EngineError
from bestow_edge.core.tensors import BATCH, CAPACITY, FRAMES, POSITIONS, SLOTS, TOKENS, GraphSpec, TensorSpec
from bestow_edge.runtime.decoders.cached_graph import FIRST_TOKENS
from bestow_edge.runtime.decoders.speech_memory import MAX_SLOTS
from bestow_edge.runtime.devices.tensorrt.engine_store import short_hash

USUAL_TOKENS = 256  # slots of a text cache: a prompt and a minute of speech
USUAL_SLOTS = 512  # of the speech memory: 41 s
USUAL_PROMPT = 32  # tokens of a prompt
Sizes = Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Bounds that a user may set; wider ones need more memory and longer builds."""

    rows: int = 5
    """Texts decoded at once: prompts of a session, or hypotheses of a beam."""
    prompt_tokens: int = 128
    """Tokens of the longest prompt, with the context that a new segment repeats."""


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes of one axis."""

    least: int
    usual: int
    """TensorRT chooses kernels for it."""
    most: int

    def __contains__(self, size: int) -> bool:
        return self.least <= size <= self.most


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes of all dynamic axes of a graph's inputs."""

    name: str
    axes: dict[str, Range]

    def shapes(self, tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the least, the usual and the largest shape of an input."""

        def shape(kind: str) -> tuple[int, ...]:
            return tuple(axis if isinstance(axis, int) else getattr(self.axes[axis], kind) for axis in tensor.axes)

        return shape("least"), shape("usual"), shape("most")

    def holds(self, sizes: Sizes) -> bool:
        """Return whether it covers these sizes of axes."""
        return all(size in self.axes[axis] for axis, size in sizes.items())


def dynamic_inputs(spec: GraphSpec) -> list[TensorSpec]:
    """Return the inputs that have named axes."""
    return [tensor for tensor in spec.fed if any(isinstance(axis, str) for axis in tensor.axes)]


def profiles(spec: GraphSpec, manifest: BundleManifest, bounds: Bounds) -> tuple[Profile, ...]:
    """Return a graph's profiles, the most used one first; raise an `EngineError` if a bound is out of range."""
    if bounds.rows < 1 or bounds.prompt_tokens < 2:
        raise EngineError(f"rows {bounds.rows}, prompt tokens {bounds.prompt_tokens}: expected at least 1 and 2")
    return _speech(manifest.model.encoder) if spec.part == "encoder" else _text(spec, manifest, bounds)


def _speech(encoder: EncoderConfig) -> tuple[Profile, ...]:
    """One for each size of run, tuned for whole ones; a shorter run at the end of the audio fits the next larger."""
    whole, step = encoder.run_frames, encoder.run_multiple
    least = [step, *(frames + step for frames in whole)]
    return tuple(
        Profile(f"frames_{frames}", {BATCH: Range(1, 1, 1), FRAMES: Range(low, frames, frames)})
        for low, frames in zip(least, whole, strict=False)
    )


def _text(spec: GraphSpec, manifest: BundleManifest, bounds: Bounds) -> tuple[Profile, ...]:
    """One for single tokens and one for prompts; recurrent layers need only the first, they read prompts by tokens."""
    prompt = min(bounds.prompt_tokens, manifest.max_text_tokens)
    encoder = manifest.model.encoder
    positions = round(encoder.run_frames[-1] / encoder.frames_per_step) * encoder.positions_per_step
    shared = {
        BATCH: Range(1, 1, bounds.rows),
        SLOTS: Range(1, USUAL_SLOTS, MAX_SLOTS),
        POSITIONS: Range(1, max(1, positions // 3), positions),
    }
    kinds = {
        "token": {TOKENS: Range(1, 1, 1), CAPACITY: _capacity(manifest.max_text_tokens)},
        # A prompt is the first run, when the cache is smallest: scratch memory follows from the largest cache.
        "prompt": {TOKENS: Range(2, min(USUAL_PROMPT, prompt), prompt), CAPACITY: _capacity(prompt)},
    }
    if spec.states:
        del kinds["prompt"]
    used = {axis for tensor in dynamic_inputs(spec) for axis in tensor.axes if isinstance(axis, str)}
    return tuple(
        Profile(name, {axis: sizes for axis, sizes in (shared | own).items() if axis in used})
        for name, own in kinds.items()
    )


def _capacity(tokens: int) -> Range:
    """Return the sizes of a cache that doubles until it holds some tokens."""
    most = FIRST_TOKENS
    while most < tokens:
        most *= 2
    return Range(1, min(USUAL_TOKENS, most), most)


def choose(known: Sequence[Profile], sizes: Sizes, graph: str) -> int:
    """Return the index of the profile that covers some sizes.

    Raises:
        EngineError: if no profile does; the message names the axis that is out of range and the remedy.
    """
    for index, profile in enumerate(known):
        if profile.holds(sizes):
            return index
    for axis, size in sizes.items():
        least = min(profile.axes[axis].least for profile in known)
        most = max(profile.axes[axis].most for profile in known)
        if not least <= size <= most:
            word = {BATCH: "rows", TOKENS: "prompt-tokens"}.get(axis)
            remedy = "export and build again"
            if word:
                remedy = f"bestow-edge engines build --{word} {size}, and --device tensorrt:0,{word}={size}"
            raise EngineError(f"{graph}: {axis} {size}, its engine was built for {least} to {most}; {remedy}")
    raise EngineError(f"{graph}: no profile of its engine holds {dict(sizes)}")


def digest(known: Sequence[Profile]) -> str:
    """Return a short hash of all sizes, for an engine's key."""
    return short_hash([asdict(profile) for profile in known])
