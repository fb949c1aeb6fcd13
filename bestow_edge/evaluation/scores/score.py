"""A score with its interval; names and units of all scores. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

METRICS = ("wer", "wer_normalized", "cer", "cer_normalized", "bleu", "chrf", "rouge_l", "accuracy")
"""Names of the scores of quality."""
LOWER_IS_BETTER = frozenset({"wer", "wer_normalized", "cer", "cer_normalized"})
UNITS: Mapping[str, str] = {"AP": "", "AP_CA": "", "RTF": "", "NE": ""} | dict.fromkeys(METRICS, "%")
"""Units of scores. Scores that are not listed are milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A score of a corpus with its 95 % confidence interval."""

    value: float
    """The score, in its unit."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""
    signature: str = ""
    """sacrebleu's signature; for BLEU and chrF."""

    def shown(self, name: str, *, interval: bool = True) -> str:
        """Format the score: percent with one decimal, milliseconds without, others with three.

        Args:
            name: of the score.
            interval: whether to add the interval.
        """
        digits = {"%": 1, "": 3}.get(UNITS.get(name, "ms"), 0)
        value = f"{self.value:.{digits}f}"
        return f"{value} [{self.low:.{digits}f}, {self.high:.{digits}f}]" if interval else value
