"""Scores of finished instances: of each utterance and, with confidence intervals, of each setting.

Needs the extra `eval`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

from bestow_edge.core.prompts import Pair
from bestow_edge.evaluation.run.settings import Setting
from bestow_edge.evaluation.scores.instances import Instance
from bestow_edge.evaluation.scores.intervals import ratio_interval
from bestow_edge.evaluation.scores.lag import latency_scores, mean_scores, normalized_erasure
from bestow_edge.evaluation.scores.quality import score_texts
from bestow_edge.evaluation.scores.score import Score


@dataclass(frozen=True, slots=True)
class SettingResult:
    """Scores and texts of one setting."""

    setting: Setting
    scores: Mapping[str, Score]
    """Scores of the corpus by name: `bestow_edge.evaluation.scores.score.METRICS`, SimulEval's and `own_scores`."""
    utterances: tuple[Mapping[str, object], ...]
    """Text and scores of each utterance."""
    silent: int
    """Utterances without any written word. Latency scores leave them out."""

    def record(self) -> dict[str, object]:
        """Return its fields for JSON, without the utterances."""
        scores = {name: asdict(score) for name, score in self.scores.items()}
        for score in scores.values():
            if not score["signature"]:
                del score["signature"]
        return {**self.setting.record(), "silent": self.silent, "scores": scores}


def score_setting(setting: Setting, instances: Sequence[Instance], pair: Pair) -> SettingResult:
    """Score the instances of a setting: at least one, all with references."""
    references = [instance.reference or "" for instance in instances]
    quality = score_texts(references, [instance.prediction for instance in instances], language=pair.target)
    times = [latency_scores(instance) | own_scores(instance) for instance in instances]
    scores = dict(quality.corpus)
    for name, value in mean_scores(times).items():
        rows = [single.get(name) for single in times]
        low, high = ratio_interval([row or 0.0 for row in rows], [row is not None for row in rows])
        scores[name] = Score(value=value, low=low, high=high)
    scores["RTF"] = _rtf(instances)
    utterances = tuple(
        {
            "index": instance.index,
            "source": " ".join(instance.source),
            **({"question": instance.extra["question"]} if "question" in instance.extra else {}),
            "reference": instance.reference,
            "prediction": instance.prediction,
            "scores": {**texts, **single},
        }
        for instance, texts, single in zip(instances, quality.utterances, times, strict=True)
    )
    silent = sum(not instance.delays for instance in instances)
    return SettingResult(setting, scores, utterances, silent)


def own_scores(instance: Instance) -> dict[str, float]:
    """Return the scores that SimulEval does not have, from fields that `bestow_edge.evaluation.run.listening` adds.

    - `FirstText`: audio given when the first text appeared, even a part of a word, ms;
    - `SpeechEndToLastWord`: from the end of the speech, by its level, to the last word, ms; negative if it came before;
    - `NE`: normalised erasure;
    - `RTF`: computing time over the length of the audio.

    The first two also come with computing time, as `_CA`.
    """
    pieces, speech_end_ms = instance.extra["pieces"], instance.extra["speech_end_ms"]
    scores = {"RTF": instance.extra["computing_ms"] / instance.source_length}
    if instance.delays:
        scores["FirstText"], scores["FirstText_CA"] = pieces[0][1:]
        scores["SpeechEndToLastWord"] = instance.delays[-1] - speech_end_ms
        scores["SpeechEndToLastWord_CA"] = instance.elapsed[-1] - speech_end_ms
        scores["NE"] = normalized_erasure([text.split(" ") for text in accumulate(piece[0] for piece in pieces)])
    return scores


def _rtf(instances: Sequence[Instance]) -> Score:
    """Return computing time over audio of the whole corpus. It differs from the mean over utterances."""
    computing = [instance.extra["computing_ms"] for instance in instances]
    audio = [instance.source_length for instance in instances]
    low, high = ratio_interval(computing, audio)
    return Score(value=sum(computing) / sum(audio), low=low, high=high)
