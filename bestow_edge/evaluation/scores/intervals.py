"""Confidence intervals by resampling utterances (bootstrap). numpy only.

Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation"; Koehn 2004,
"Statistical significance tests for machine translation evaluation".
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RESAMPLES = 1000
SEED = 12345
CONFIDENCE = 0.95
BLOCK_NUMBERS = 1_000_000  # draws converted to float64 at once: 8 MB


def resampled_sums(statistics: npt.ArrayLike) -> Array:
    """Return the sums of statistics over `RESAMPLES` corpora drawn with replacement, the same ones at each call.

    Args:
        statistics: (utterances, statistics), such as word errors and words.

    Returns:
        (resamples, statistics). Each corpus has as many utterances as the original.
    """
    values = np.asarray(statistics, np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"expected statistics (utterances, statistics) of one utterance or more, got {values.shape}")
    counts = _times_drawn(len(values))
    blocks = np.array_split(counts, max(1, counts.size // BLOCK_NUMBERS))
    return np.concatenate([block.astype(np.float64) @ values for block in blocks])


@lru_cache(maxsize=1)  # all scores of all settings have the same number of utterances
def _times_drawn(number: int) -> npt.NDArray[np.uint16]:
    """Return how often each utterance occurs in each drawn corpus: (resamples, number)."""
    rng = np.random.default_rng(SEED)
    drawn = (np.bincount(rng.integers(number, size=number), minlength=number) for _ in range(RESAMPLES))
    return np.stack([times.astype(np.uint16) for times in drawn])


def interval(scores: npt.ArrayLike) -> tuple[float, float]:
    """Return both ends of the 95 % interval of (resamples,) scores. NaN, a draw without a score, is left out."""
    values = np.asarray(scores, np.float64)
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def ratio_interval(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> tuple[float, float]:
    """Return the interval of the ratio of two sums over utterances. With ones below, the ratio is a mean.

    Args:
        numerators: (utterances,), such as word errors.
        denominators: (utterances,), such as words.
    """
    above, below = resampled_sums(np.column_stack([numerators, denominators])).T
    return interval(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))
