"""Sources of graphs: contract, weights, the module to trace, and inputs for the comparison with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from bestow_edge.core.bundle import Precision
from bestow_edge.core.config import FeatureConfig, ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.encoders import ENCODERS
from bestow_edge.core.kinds import module_of
from bestow_edge.core.tensors import BATCH, FRAME_END, FRAMES, MEL, GraphSpec, TensorSpec
from bestow_edge.model.base import SpeechModel
from bestow_edge.runtime.devices.base import Array

SHORT_STEPS = 5  # of a window at the start of a stream
ROWS = 8  # as many as a step has frames
Feeds = dict[str, Array]
Case = dict[str, int]
"""Sizes of the named axes of a graph's inputs."""
Lawful = Callable[[Feeds, Case, np.random.Generator], None]
"""Makes random inputs lawful, in place: counts that fit the sizes, tokens of the vocabulary."""
Build = Callable[[SpeechModel], AbstractContextManager[nn.Module]]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphSource:
    """Everything that export needs for one graph."""

    spec: GraphSpec
    weights: tuple[str, ...]
    """Prefixes of the names of the weights it needs."""
    build: Build
    """Yields the module it is traced from: inputs and states in, outputs and next states out, in the contract's order.
    The module may be used inside the block alone."""
    sizes: tuple[Case, ...]
    """Sizes to compare it with PyTorch at."""
    make_lawful: Lawful
    largest_block: int | None = 128
    """In int8, most rows of weights with one scale; as many activations of one position share one too. So no text of a
    batch changes another, and an outlier makes one block coarse. None: one scale for all activations of a product."""
    largest_int4_block: int = 128
    """The same in int4."""
    int8_tables: int | None = None
    """`largest_block` of the LLM's graph if that is in int8: tables of embeddings are stored like its output."""

    def cases(self, spec: GraphSpec | None = None) -> Iterator[tuple[str, Feeds]]:
        """Yield lawful random inputs of each size, with a short description; the same numbers at each call.

        Args:
            spec: contract in the dtypes of a target; None for the source's own.
        """
        spec, rng = spec or self.spec, np.random.default_rng(0)
        used = {axis for tensor in spec.inputs for axis in tensor.axes}
        for case in self.sizes:
            feeds = {tensor.name: _random(tensor, case, rng) for tensor in spec.fed}
            self.make_lawful(feeds, case, rng)
            yield " ".join(f"{name}={count}" for name, count in case.items() if name in used), feeds


def graph_sources(config: ModelConfig, *, several: bool = False) -> dict[str, GraphSource]:
    """Return the sources of all graphs of a model by name, in the order the graphs run.

    With `several`, the LLM scores several tokens in one run; for kinds of connector that can.
    """
    connector = CONNECTORS[config.connector.kind]
    spec = ENCODERS[config.encoder.kind].spec(config, connector.speech(config))
    network = config.encoder.network["model_type"]
    encoder: GraphSource = module_of("bestow_edge.export.graphs", network).source(config, spec)
    module = module_of("bestow_edge.export.graphs", config.connector.kind)
    behind: tuple[GraphSource, ...] = module.sources(config, several=True) if several else module.sources(config)
    return {source.spec.name: source for source in (encoder, *behind)}


def with_tables(sources: Mapping[str, GraphSource], llm: Precision) -> dict[str, GraphSource]:
    """Return sources that store tables of embeddings in the blocks of the LLM's output, if the LLM is in int8."""
    block = next((source.largest_block for source in sources.values() if source.spec.part == "llm"), None)
    tables = block if llm == "int8" else None
    return {name: replace(source, int8_tables=tables) for name, source in sources.items()}


def speech_weights(config: ModelConfig) -> tuple[str, ...]:
    """Return the prefixes of the names of the connector's weights that run once for each encoder step."""
    prefixes: tuple[str, ...] = module_of("bestow_edge.export.graphs", config.connector.kind).SPEECH_WEIGHTS
    return prefixes


def speech_side(model: SpeechModel) -> nn.Module:
    """Return the module that ends the encoder's graph, with no other weights than those it needs.

    It takes (batch, steps, width) float, all of them valid, and returns a tuple, the tensors of `ConnectorKind.speech`.
    """
    side: nn.Module = module_of("bestow_edge.export.graphs", model.config.connector.kind).speech_side(model)
    return side


def traced_from(module: Callable[[SpeechModel], nn.Module]) -> Build:
    """Return a `GraphSource.build` for a module that needs nothing but the model."""

    @contextmanager
    def build(model: SpeechModel) -> Iterator[nn.Module]:
        yield module(model).eval()

    return build


def window_source(
    config: ModelConfig, spec: GraphSpec, module: Callable[[SpeechModel], nn.Module], *, largest_block: int | None
) -> GraphSource:
    """Return the source of an encoder over whole windows: compared at a short one, the largest, and several rows."""
    multiple, longest = config.encoder.run_multiple, config.encoder.run_frames[-1]
    short = min(SHORT_STEPS * multiple, longest - multiple)

    def make_lawful(feeds: Feeds, case: Case, _rng: np.random.Generator) -> None:
        speech_like(feeds, config.features)
        feeds[FRAME_END] += case[FRAMES] - np.arange(case[BATCH])

    rows = {BATCH: ROWS, FRAMES: 3 * multiple}  # of different numbers of frames
    return GraphSource(
        spec=spec,
        weights=("encoder.", *speech_weights(config)),
        build=traced_from(module),
        sizes=(*({BATCH: 1, FRAMES: frames} for frames in (short, longest)), rows),
        make_lawful=make_lawful,
        largest_block=largest_block,
    )


def speech_like(feeds: Feeds, features: FeatureConfig) -> None:
    """Give random mel frames the mean and the spread of log-mel speech, unless the front-end normalises them."""
    if features.normalize == "none":
        feeds[MEL] = (feeds[MEL] * 4 - 12).astype(np.float32)


def _random(tensor: TensorSpec, case: Case, rng: np.random.Generator) -> Array:
    shape = [case[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
    if tensor.dtype == "int64":
        return np.zeros(shape, dtype=np.int64)
    return (np.rint(rng.standard_normal(shape) * 16) / 16).astype(tensor.dtype)  # few digits: golden inputs stay small
