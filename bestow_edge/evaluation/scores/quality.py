"""Quality of texts against references: WER, CER, BLEU, chrF, ROUGE-L and accuracy, all in percent.

It knows texts and languages, not models or times. WER and CER are jiwer's, BLEU and chrF sacrebleu's, the normaliser is
Whisper's. Needs the extra `eval`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from bestow_edge.evaluation.scores.intervals import interval, ratio_interval, resampled_sums
from bestow_edge.evaluation.scores.score import METRICS, Score

Normalize = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores of a corpus and of its utterances."""

    corpus: Mapping[str, Score]
    """By the names in `bestow_edge.evaluation.scores.score.METRICS`."""
    utterances: tuple[Mapping[str, float], ...]
    """The same names for each utterance, in order."""


def score_texts(references: Sequence[str], hypotheses: Sequence[str], *, language: str) -> Quality:
    """Score hypotheses.

    Args:
        references: what should have been written, at least one.
        hypotheses: what was written, as many.
        language: of the texts; "en" is normalised with Whisper's English rules, others with its basic ones.

    Raises:
        ValueError: there are no texts, or not as many of both.
    """
    if not references or len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses; expected one of each or more")
    pairs = list(zip(references, hypotheses, strict=True))
    utterances: list[dict[str, float]] = [{} for _ in pairs]
    corpus: dict[str, Score] = {}
    for name, counts in _all_counts(pairs, normalizer(language)).items():
        above, below = zip(*counts, strict=True)
        value = _ratio(sum(above), sum(below))
        low, high = ratio_interval(above, below) if sum(below) else (value, value)
        corpus[name] = Score(value=100 * value, low=100 * low, high=100 * high)
        for row, count in zip(utterances, counts, strict=True):
            row[name] = 100 * _ratio(*count)
    single = BLEU(effective_order=True), CHRF()
    for row, (reference, said) in zip(utterances, pairs, strict=True):
        row["bleu"], row["chrf"] = (metric.sentence_score(said, [reference]).score for metric in single)
    corpus["bleu"] = _score(BLEU(), pairs, interval(_bleu_draws(pairs)))
    corpus["chrf"] = _score(CHRF(), pairs, interval(chrf(resampled_sums([chrf_counts(*pair) for pair in pairs]))))
    return Quality({name: corpus[name] for name in METRICS}, tuple(utterances))


def normalizer(language: str) -> Normalize:
    """Return Whisper's text normaliser. Source: Radford et al. 2022, arXiv 2212.04356, appendix C.

    The English one writes numbers as figures and takes "o" for zero ("O'Neil" becomes "0 neil").
    """
    found: Normalize = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    return found


def rouge_l(reference: str, hypothesis: str) -> float:
    """Return the F1 of the longest common subsequence of words, between 0 and 1.

    Source: Lin 2004, "ROUGE"; words as in the package rouge_score, without stemming: runs of a-z and 0-9 in lower case.
    """
    wanted, said = (re.findall(r"[a-z0-9]+", text.lower()) for text in (reference, hypothesis))
    if not wanted or not said:
        return 0.0
    common = _common_length(wanted, said)
    return 2 * common / (len(wanted) + len(said))  # = 2PR / (P + R) with P = common / said, R = common / wanted


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for at, other in enumerate(second, 1):
            here = before + 1 if word == other else max(lengths[at], lengths[at - 1])
            before, lengths[at] = lengths[at], here
    return lengths[-1]


def _all_counts(pairs: Sequence[tuple[str, str]], normalize: Normalize) -> dict[str, list[tuple[float, float]]]:
    """Return numerator and denominator for each pair of reference and hypothesis, of every score that is a ratio."""
    plain = normalizer("")
    spoken = [(normalize(reference), normalize(said)) for reference, said in pairs]
    return {
        "wer": [_errors(jiwer.process_words(*pair)) for pair in pairs],
        "wer_normalized": [_errors(jiwer.process_words(*pair)) for pair in spoken],
        "cer": [_errors(jiwer.process_characters(*pair)) for pair in pairs],
        "cer_normalized": [_errors(jiwer.process_characters(*pair)) for pair in spoken],
        "rouge_l": [(rouge_l(*pair), 1) for pair in pairs],
        "accuracy": [(plain(reference).split() == plain(said).split(), 1) for reference, said in pairs],
    }


def _errors(found: jiwer.WordOutput | jiwer.CharacterOutput) -> tuple[float, float]:
    kept = found.substitutions + found.deletions
    return kept + found.insertions, kept + found.hits


def _ratio(above: float, below: float) -> float:
    """Divide; a reference without words counts as one, as in jiwer."""
    return above / max(below, 1)


def _score(metric: Metric, pairs: Sequence[tuple[str, str]], ends: tuple[float, float]) -> Score:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    value = metric.corpus_score(hypotheses, [references]).score
    return Score(value=value, low=ends[0], high=ends[1], signature=metric.get_signature().format())


def _bleu_draws(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return BLEU of resampled corpora."""
    metric = BLEU(effective_order=True)  # counts are the same with and without; sentence_score warns without
    singles = [metric.sentence_score(said, [reference]) for reference, said in pairs]
    counts = [[*single.counts, *single.totals, single.sys_len, single.ref_len] for single in singles]
    orders = len(singles[0].counts)
    return [
        BLEU.compute_bleu(sums[:orders], sums[orders:-2], sums[-2], sums[-1], smooth_method="exp").score
        for sums in resampled_sums(counts).astype(int).tolist()
    ]


def chrf_counts(reference: str, hypothesis: str) -> list[int]:
    """Return the statistics of chrF: for each order its n-grams in the hypothesis, in the reference and in both."""
    counts = []
    for order in range(1, CHRF.CHAR_ORDER + 1):
        wanted, said = (_ngrams("".join(text.split()), order) for text in (reference, hypothesis))
        counts += [said.total() if wanted else 0, wanted.total(), (wanted & said).total()]
    return counts


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[at : at + order] for at in range(len(text) - order + 1))


def chrf(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return chrF2 of summed statistics, as sacrebleu computes it but for many corpora at once.

    Source: Popović 2015, "chrF". Precision and recall are means over the orders that both texts have.

    Args:
        sums: (corpora, 3 * orders) sums of `chrf_counts`.

    Returns:
        (corpora,) percent.
    """
    said, wanted, common = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)  # (corpora, orders) each
    usable = (said > 0) & (wanted > 0)
    number = np.maximum(usable.sum(axis=1), 1)
    precision = (np.divide(common, said, out=np.zeros_like(common), where=usable)).sum(axis=1) / number
    recall = (np.divide(common, wanted, out=np.zeros_like(common), where=usable)).sum(axis=1) / number
    factor = CHRF.BETA**2
    below = factor * precision + recall
    above = (1 + factor) * precision * recall
    scores: npt.NDArray[np.float64] = 100 * np.divide(above, below, out=np.zeros_like(below), where=below > 0)
    return scores
