"""Comparison of a graph's outputs with expected ones: the only one, for golden outputs, parity and GPUs.

A number that is not finite, another shape and an output that is constant where the expected one is not are errors
without a bound, so that no tolerance lets them pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bestow_edge.core.tensors import LOGITS, POSITION_ENDS, SPEECH_EMBEDS, TOKEN_ID

Array = npt.NDArray[Any]  # Any: floats and int64 tensors pass through here alike
SUPPRESSED = -1e4  # float16's least number is -65504, float32's -3.4e38: a logit below is of a suppressed token


def relative_error(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return the largest difference over the largest value, the worst of all outputs.

    Of a compressor, the error is the share of steps whose label begins or ends a position in one of both alone; its
    embeddings are compared in the rows whose positions are the same.

    The difference of a token id is the distance of its expected logit from the best one. Logits of suppressed tokens
    are compared as such: their values, the least there are, would hide every other difference.

    Args:
        outputs: floats or int64 by name, of any shape.
        expected: the same names, and `logits` where `token_id` is compared.

    Returns:
        A number of at least 0; infinity if an output is missing, has another shape, holds NaN or infinity, or is
        constant where the expected one is not.
    """
    if not outputs or not set(outputs) <= set(expected):
        return math.inf
    borders = _border_error(outputs, expected)
    if POSITION_ENDS not in outputs or not math.isfinite(borders):
        return max(borders, *(_error(name, values, expected) for name, values in outputs.items()))
    same = (outputs[POSITION_ENDS] == expected[POSITION_ENDS]).all(-1)  # (batch,)
    names = [name for name in outputs if name != POSITION_ENDS and (same.any() or name != SPEECH_EMBEDS)]
    rows = {name: same if name == SPEECH_EMBEDS else slice(None) for name in names}
    kept = {name: expected[name][rows[name]] for name in names}
    return max([borders, *(_error(name, outputs[name][rows[name]], kept) for name in names)])


def _border_error(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return the share of steps that end a position in one of both alone; infinity for other shapes, 0 for no ends."""
    if POSITION_ENDS not in outputs:
        return 0.0
    got, want = outputs[POSITION_ENDS], expected[POSITION_ENDS]
    steps = got.shape[-1]
    if got.shape != want.shape or not got.size or min(got.min(), want.min()) < 0 or max(got.max(), want.max()) > steps:
        return math.inf
    place = np.arange(1, steps + 1)
    borders = [(ends[..., None] == place).any(-2) for ends in (got, want)]  # (batch, steps) bool
    return float((borders[0] != borders[1]).mean())


def finite(arrays: Mapping[str, Array]) -> bool:
    """Return whether no array holds NaN or infinity."""
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def _error(name: str, got: Array, expected: Mapping[str, Array]) -> float:
    want = expected[name]
    if got.shape != want.shape or not got.size or not finite({"got": got, "want": want}):
        return math.inf
    if name == TOKEN_ID:
        return _token_error(got, expected.get(LOGITS))
    values, want = got.astype(np.float64), want.astype(np.float64)
    if name == LOGITS:
        kept = want > SUPPRESSED
        if ((values > SUPPRESSED) != kept).any() or not kept.any():
            return math.inf
        values, want = values[kept], want[kept]
    if np.ptp(values) == 0 < np.ptp(want):
        return math.inf
    return _share(np.abs(values - want), want)


def _token_error(ids: Array, logits: Array | None) -> float:
    if logits is None or logits.shape[:-1] != ids.shape or not finite({LOGITS: logits}):
        return math.inf
    if ids.min() < 0 or ids.max() >= logits.shape[-1]:
        return math.inf
    wide = logits.astype(np.float64)
    distance = wide.max(axis=-1) - np.take_along_axis(wide, ids[..., None], axis=-1)[..., 0]
    return _share(distance, wide[wide > SUPPRESSED])


def _share(difference: Array, of: Array) -> float:
    return float(difference.max() / (np.abs(of).max(initial=0.0) + 1e-9))
