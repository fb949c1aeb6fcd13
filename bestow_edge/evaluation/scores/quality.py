"""Quality of texts against references: WER, CER, BLEU, chrF, ROUGE-L and accuracy, all in percent.

WER and CER are jiwer's, BLEU and chrF sacrebleu's, the normaliser is Whisper's. Needs the extra `eval`.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jiwer
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from bestow_edge.evaluation.scores.intervals import interval, ratio_interval, resampled_sums
from bestow_edge.evaluation.scores.score import METRICS, Score

Normalize = Callable[[str], str]
logger = logging.getLogger(__name__)
_WITHOUT_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # kana and Han


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores of a corpus and of its utterances."""

    corpus: Mapping[str, Score]
    """Scores of the corpus, by the names in `bestow_edge.evaluation.scores.score.METRICS`."""
    utterances: tuple[Mapping[str, float], ...]
    """Scores of each utterance by the same names."""


def score_texts(references: Sequence[str], hypotheses: Sequence[str], *, language: str) -> Quality:
    """Score hypotheses.

    Args:
        references: the right texts, at least one.
        hypotheses: the texts that were written, one for each reference.
        language: of the texts. "en" is normalised by Whisper's English rules, others by its basic rules.

    Raises:
        ValueError: if there are no texts, or more of one kind than of the other.
    """
    if not references or len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses; expected one of each or more")
    pairs = [(composed(one), composed(other)) for one, other in zip(references, hypotheses, strict=True)]
    given = zip(references, hypotheses, strict=True)
    if changed := sum(pair != before for pair, before in zip(pairs, given, strict=True)):
        logger.warning(
            "%d of %d texts are not in Unicode's normal form NFC; they are scored in it", changed, len(pairs)
        )
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
    for row, (reference, hypothesis) in zip(utterances, pairs, strict=True):
        row["bleu"], row["chrf"] = (metric.sentence_score(hypothesis, [reference]).score for metric in single)
    corpus["bleu"], corpus["chrf"] = _score(BLEU(), pairs), _score(CHRF(), pairs)
    return Quality({name: corpus[name] for name in METRICS}, tuple(utterances))


def normalizer(language: str) -> Normalize:
    """Return Whisper's text normaliser. Source: Radford et al. 2022, arXiv 2212.04356, appendix C.

    The English rules write numbers as figures and take "o" for zero ("O'Neil" becomes "0 neil").
    """
    found: Normalize = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    return found


def rouge_l(reference: str, hypothesis: str) -> float:
    """Return the F1 of the longest common subsequence of words, between 0 and 1.

    Source: Lin 2004, "ROUGE"; words are runs of letters with their marks and digits of any script, case folded, without
    stemming. The package rouge_score knows a-z alone and cuts words at every other letter.
    """
    expected, written = (_words(text) for text in (reference, hypothesis))
    if not expected or not written:
        return 0.0
    common = _common_length(expected, written)
    return 2 * common / (len(expected) + len(written))  # 2PR / (P + R), P = common / written, R = common / expected


def _words(text: str) -> list[str]:
    """Return the words of a text in any script, without punctuation; Chinese and Japanese characters are words."""
    spaced = _WITHOUT_SPACES.sub(r" \g<0> ", composed(text).casefold())
    return "".join(mark if unicodedata.category(mark)[0] in "LMN" else " " for mark in spaced).split()


def composed(text: str) -> str:
    """Return a text in Unicode's normal form NFC, in which equal words are equal."""
    return unicodedata.normalize("NFC", text)


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
    """Return the scores that are ratios: numerator and denominator for each pair of reference and hypothesis."""
    normalized = [(normalize(reference), normalize(hypothesis)) for reference, hypothesis in pairs]
    return {
        "wer": [_errors(jiwer.process_words(*pair)) for pair in pairs],
        "wer_normalized": [_errors(jiwer.process_words(*pair)) for pair in normalized],
        "cer": [_errors(jiwer.process_characters(*pair)) for pair in pairs],
        "cer_normalized": [_errors(jiwer.process_characters(*pair)) for pair in normalized],
        "rouge_l": [(rouge_l(*pair), 1) for pair in pairs],
        "accuracy": [(_words(one) == _words(other), 1) for one, other in pairs],
    }


def _errors(found: jiwer.WordOutput | jiwer.CharacterOutput) -> tuple[float, float]:
    kept = found.substitutions + found.deletions
    return kept + found.insertions, kept + found.hits


def _ratio(above: float, below: float) -> float:
    """Return the quotient. A reference without words counts as one word, as in jiwer."""
    return above / max(below, 1)


def _score(metric: Metric, pairs: Sequence[tuple[str, str]]) -> Score:
    """Return the score of the corpus with its interval, from sacrebleu's counts of each utterance.

    sacrebleu's own bootstrap (`n_bootstrap`) returns the mean of the draws and half the interval's width, not both
    ends, and changes the signature. So its steps are called one by one: counts, sums, score.
    """
    references, hypotheses = map(list, zip(*pairs, strict=True))
    counts = metric._extract_corpus_statistics(hypotheses, [references])
    value = metric._aggregate_and_compute(counts).score
    low, high = interval([metric._compute_score_from_stats(drawn).score for drawn in resampled_sums(counts).tolist()])
    return Score(value=value, low=low, high=high, signature=metric.get_signature().format())
