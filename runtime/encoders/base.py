"""Which kind of encoder a stream gets. Knows both kinds by their classes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bestow_edge.core.policy import Offline, Policy
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.encoders.chunked import EncoderStream
from bestow_edge.runtime.encoders.windowed import EncoderWindow

if TYPE_CHECKING:
    from bestow_edge.runtime.model import Model


def encoder_for(
    model: Model, policies: Sequence[Policy], lookahead: int, graph: Graph | None = None
) -> EncoderStream | EncoderWindow:
    """Return a stream of the model's kind of encoder.

    Args:
        model: the loaded bundle.
        policies: by which its texts will be written.
        lookahead: right context of a cache-aware encoder, steps.
        graph: the encoder; None takes the model's.
    """
    graph = model.encoder if graph is None else graph
    if (sizes := model.config.bidirectional) is None:
        return EncoderStream(graph, model.config, lookahead)
    if all(isinstance(policy, Offline) for policy in policies):  # nothing is written before the end
        sizes = replace(sizes, block=max(sizes.block, (sizes.window - sizes.right_context) // 2))
    return EncoderWindow(graph, sizes, model.config.features)
