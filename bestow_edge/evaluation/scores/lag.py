"""Latency scores of simultaneous speech translation, equal to SimulEval 1.1.4's. Pure Python.

A score takes times of words in milliseconds, from the start of the utterance. With delays (audio given) it is the
non-computation-aware score; with elapsed times (audio and computing) the computation-aware one, whose name ends in
`_CA`. Where SimulEval deviates from a paper, the function follows SimulEval and its docstring says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from statistics import fmean

from bestow_edge.evaluation.scores.instances import Instance

SOURCE_TOKEN_MS = 300.0
"""Length of a spoken word in ATD, as its paper and SimulEval set it."""

Score = Callable[[Sequence[float], float, int], float]


def average_lagging(times: Sequence[float], source_length: float, target_length: int) -> float:
    """AL: mean lag of the words behind an ideal writer, who spreads the reference evenly over the source.

    Source: Ma et al. 2019, "STACL", arXiv 1810.08398, section 4; for speech Ren et al. 2020, "SimulSpeech". Words after
    the first one that is written at the end of the source do not count. As in SimulEval, the score is the time of the
    first word if that comes after the end of the source, as it may with computing time.

    Args:
        times: when each word was written, ms; at least one.
        source_length: length of the audio, ms.
        target_length: words of the reference.
    """
    if times[0] > source_length:
        return times[0]
    pace = source_length / target_length
    last = next((index for index, time in enumerate(times) if time >= source_length), len(times) - 1)
    return fmean(time - index * pace for index, time in enumerate(times[: last + 1]))


def length_adaptive_average_lagging(times: Sequence[float], source_length: float, target_length: int) -> float:
    """LAAL: average lagging with the longer of hypothesis and reference as the target.

    Source: Papi et al. 2022, "Over-Generation Cannot Be Rewarded", arXiv 2206.05807; Polák et al. 2022, arXiv
    2204.06028. Arguments are those of `average_lagging`.
    """
    return average_lagging(times, source_length, max(len(times), target_length))


def average_proportion(times: Sequence[float], source_length: float, target_length: int) -> float:
    """AP: mean share of the source that was given when a word was written.

    Source: Cho and Esipova 2016, arXiv 1606.02012, section 5. As in SimulEval, the sum over the hypothesis is divided
    by the reference's length. Arguments are those of `average_lagging`.
    """
    return sum(times) / (source_length * target_length)


def differentiable_average_lagging(times: Sequence[float], source_length: float, target_length: int) -> float:  # noqa: ARG001 - one signature for all scores
    """DAL: average lagging in which each word takes at least its share of the source's length.

    Source: Cherry and Foster 2019, arXiv 1906.00048; Arivazhagan et al. 2019, arXiv 1906.05218, section 3.3. The pace
    is that of the hypothesis; the reference's length is not used. Arguments are those of `average_lagging`.
    """
    pace = source_length / len(times)
    paced = accumulate(times, lambda before, time: max(time, before + pace))
    return fmean(time - index * pace for index, time in enumerate(paced))


def average_token_delay(delays: Sequence[float], elapsed: Sequence[float] = ()) -> float:
    """ATD: mean time between a written word and the spoken word at the same place, counted from both starts.

    Source: Kano et al. 2023, arXiv 2211.13173, sections 3 and 4. The source heard between two writes is a chunk, cut
    into words of 300 ms; written words have no length. Words written ahead of the
    spoken ones when a chunk begins are subtracted from the word's number, so that long output is not low latency.

    Args:
        delays: audio given when each word was written, ms; at least one. They define the chunks.
        elapsed: the same with computing time; empty for the non-computation-aware score.
    """
    heard = list(dict.fromkeys(delays))  # ends of the source's chunks
    lengths = [end - begin for begin, end in zip([0.0, *heard], heard, strict=False)]
    pieces = [_pieces(length) for length in lengths]
    source_ends = [0.0, *accumulate(piece for chunk in pieces for piece in chunk)]
    source_counts = [0, *accumulate(map(len, pieces))]
    target_counts = [0, *accumulate(len(list(chunk)) for _, chunk in groupby(delays))]
    written = _written_times(delays, elapsed)
    lags, chunk = [], 0
    for number, time in enumerate(written, 1):
        while target_counts[chunk + 1] < number:
            chunk += 1
        ahead = max(0, target_counts[chunk] - source_counts[min(chunk, len(pieces))])
        spoken = min(number - ahead, source_counts[min(chunk + 1, len(pieces))])
        lags.append(time - source_ends[spoken])
    return fmean(lags)


def _pieces(length: float) -> list[float]:
    """Cut a chunk of the source into words."""
    number, rest = divmod(length, SOURCE_TOKEN_MS)
    return [SOURCE_TOKEN_MS] * int(number) + [rest] * (rest != 0)


def _written_times(delays: Sequence[float], elapsed: Sequence[float]) -> list[float]:
    """Return the time of each word in ms. The computing time of a word delays the words after it."""
    computed = (
        [time - delay for time, delay in zip(elapsed, delays, strict=True)] if any(elapsed) else [0.0] * len(delays)
    )
    costs = [now - before for before, now in zip([0.0, *computed], computed, strict=False)]
    times: list[float] = []
    for delay, cost in zip(delays, costs, strict=True):
        times.append(max(delay, times[-1] if times else 0.0) + cost)
    return times


def start_offset(times: Sequence[float], source_length: float, target_length: int) -> float:  # noqa: ARG001 - one signature for all scores
    """StartOffset: when the first word was written. Source: SimulEval. Arguments are those of `average_lagging`."""
    return times[0]


def end_offset(times: Sequence[float], source_length: float, target_length: int) -> float:  # noqa: ARG001 - one signature for all scores
    """EndOffset: last word after the end of the source. Source: SimulEval. Arguments are those of `average_lagging`."""
    return times[-1] - source_length


SCORES: Mapping[str, Score] = {
    "AL": average_lagging,
    "LAAL": length_adaptive_average_lagging,
    "AP": average_proportion,
    "DAL": differentiable_average_lagging,
    "StartOffset": start_offset,
    "EndOffset": end_offset,
}
"""Scores of times, source length and target length, by SimulEval's names. ATD has another signature."""

NAMES = ("AL", "LAAL", "AP", "DAL", "ATD", "StartOffset", "EndOffset")
COMPUTATION_AWARE = "_CA"


def latency_scores(instance: Instance) -> dict[str, float]:
    """Return every score of one utterance by SimulEval's names: `LAAL`, `LAAL_CA` and so on.

    AP is a proportion, the others are milliseconds. Without words there are no scores; without elapsed times there are
    no scores in `_CA`.
    """
    scores: dict[str, float] = {}
    if not instance.delays:
        return scores
    for suffix, times in (("", instance.delays), (COMPUTATION_AWARE, instance.elapsed)):
        for name in NAMES if times else ():
            if name == "ATD":
                scores[name + suffix] = average_token_delay(instance.delays, instance.elapsed if suffix else ())
            else:
                scores[name + suffix] = SCORES[name](times, instance.source_length, instance.reference_words)
    return scores


def mean_scores(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over the utterances that have it, as SimulEval does."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for single in scores:
        for name, value in single.items():
            values[name].append(value)
    return {name: fmean(found) for name, found in values.items()}


def normalized_erasure(outputs: Sequence[Sequence[str]]) -> float:
    """NE: number of erased words over the words of the final text; 0 for append-only text.

    Source: Arivazhagan et al. 2020, "Re-translation versus Streaming", arXiv 2004.03643, section 2.2.

    Args:
        outputs: words shown after each update; the last update is the final text.
    """
    if not outputs or not outputs[-1]:
        return 0.0
    erased = 0
    for before, after in pairwise(outputs):
        common = next((at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
        erased += len(before) - (min(len(before), len(after)) if common is None else common)
    return erased / len(outputs[-1])
