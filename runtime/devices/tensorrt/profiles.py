"""Optimisation profiles: the sizes of input that an engine is built for. Plain Python, from graph contracts alone.

A profile is a range of sizes with one that kernels are chosen for. The encoder has one for each chunk size; adapter and
LLM have one for the prompt and one for a single token, with text caches and speech memory bounded. Profiles of a graph
don't overlap in what decides between them, so that each size has one and only one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.config import EncoderConfig
from bestow_edge.core.errors import EngineError
from bestow_edge.core.tensors import BATCH, CAPACITY, FRAMES, SLOTS, TOKENS, GraphSpec, TensorSpec
from bestow_edge.runtime.decoders.cached_graph import FIRST_TOKENS
from bestow_edge.runtime.decoders.speech_memory import MAX_SLOTS

USUAL_TOKENS = 256  # slots of a text cache that kernels are chosen for: a prompt and a minute of speech
USUAL_SLOTS = 512  # the same of the speech memory: 41 s
USUAL_PROMPT = 32  # tokens of a prompt
Sizes = Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a user may bound; engines take more memory and time to build the wider it is."""

    rows: int = 5
    """Texts decoded at once: prompts of a session, or hypotheses of a beam."""
    prompt_tokens: int = 128
    """Tokens of the longest prompt, with what a new segment repeats."""


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes of one axis."""

    least: int
    usual: int
    """What kernels are chosen for."""
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
        """Say whether it is made for these sizes of axes."""
        return all(size in self.axes[axis] for axis, size in sizes.items())


def dynamic_inputs(spec: GraphSpec) -> list[TensorSpec]:
    """Return the inputs that have named axes."""
    return [tensor for tensor in (*spec.inputs, *spec.states) if any(isinstance(axis, str) for axis in tensor.axes)]


def profiles(spec: GraphSpec, manifest: BundleManifest, bounds: Bounds) -> tuple[Profile, ...]:
    """Return a graph's profiles, the one used most first.

    Args:
        spec: contract of the graph.
        manifest: of its bundle.
        bounds: what the user bounds.

    Raises:
        EngineError: a bound is out of range.
    """
    if bounds.rows < 1 or bounds.prompt_tokens < 2:
        raise EngineError(f"rows {bounds.rows}, prompt tokens {bounds.prompt_tokens}: expected at least 1 and 2")
    return _speech(manifest.model.encoder) if spec.part == "encoder" else _text(spec, manifest, bounds)


def _speech(encoder: EncoderConfig) -> tuple[Profile, ...]:
    """One for each size of run, tuned for whole ones; a shorter run at the end of the audio fits the next larger."""
    whole, step = encoder.run_frames, encoder.frames_per_step
    least = [step, *(frames + step for frames in whole)]
    return tuple(
        Profile(f"frames_{frames}", {BATCH: Range(1, 1, 1), FRAMES: Range(low, frames, frames)})
        for low, frames in zip(least, whole, strict=False)
    )


def _text(spec: GraphSpec, manifest: BundleManifest, bounds: Bounds) -> tuple[Profile, ...]:
    """One for a token at a time and one for prompts, unless recurrent layers take prompts token by token too."""
    prompt = min(bounds.prompt_tokens, manifest.max_text_tokens)
    shared = {BATCH: Range(1, 1, bounds.rows), SLOTS: Range(1, USUAL_SLOTS, MAX_SLOTS)}
    kinds = {
        "token": {TOKENS: Range(1, 1, 1), CAPACITY: _capacity(manifest.max_text_tokens)},
        # A prompt comes first, when its cache is as small as can be: scratch memory follows from the largest.
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
    """Return the sizes of a cache that grows by doubling until it holds some tokens."""
    most = FIRST_TOKENS
    while most < tokens:
        most *= 2
    return Range(1, min(USUAL_TOKENS, most), most)


def sizes_of(spec: GraphSpec, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the size of each named axis from the shapes of a graph's inputs.

    Raises:
        EngineError: two inputs disagree, or one has another rank or another fixed size.
    """
    sizes: dict[str, int] = {}
    for tensor in (*spec.inputs, *spec.states):
        shape = tuple(shapes[tensor.name])
        pairs = zip(tensor.axes, shape, strict=False)
        known = tuple(sizes.setdefault(axis, size) if isinstance(axis, str) else axis for axis, size in pairs)
        if known != shape or len(shape) != len(tensor.axes):
            raise EngineError(f"{spec.name}: {tensor} got {shape}, where the other inputs say {known}")
    return sizes


def choose(known: Sequence[Profile], sizes: Sizes, graph: str) -> int:
    """Return the index of the profile that is made for some sizes.

    Raises:
        EngineError: there is none; the message says which axis is out of range and what to do.
    """
    for index, profile in enumerate(known):
        if profile.holds(sizes):
            return index
    for axis, size in sizes.items():
        least = min(profile.axes[axis].least for profile in known)
        most = max(profile.axes[axis].most for profile in known)
        if not least <= size <= most:
            word = {BATCH: "rows", TOKENS: "prompt-tokens"}.get(axis)
            what = "export and build again"
            if word:
                what = f"bestow-edge engines build --{word} {size}, and --device tensorrt:0,{word}={size}"
            raise EngineError(f"{graph}: {axis} {size}, its engine was built for {least} to {most}; {what}")
    raise EngineError(f"{graph}: no profile of its engine holds {dict(sizes)}")


def digest(known: Sequence[Profile]) -> str:
    """Return a short hash of all sizes, for an engine's key."""
    text = json.dumps([asdict(profile) for profile in known], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
