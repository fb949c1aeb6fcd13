"""Curves: every setting is in the picture, and the same results are the same bytes."""

from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sacrebleu")
pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

from bestow_edge.evaluation.report.curves import draw, rendered
from bestow_edge.evaluation.run.settings import Setting
from bestow_edge.evaluation.scores.results import SettingResult
from bestow_edge.evaluation.scores.score import Score


def result(setting: Setting, quality: float, laal_ms: float | None) -> SettingResult:
    scores = {"wer": Score(value=quality, low=quality - 1, high=quality + 1)}
    if laal_ms is not None:
        scores["LAAL"] = scores["LAAL_CA"] = Score(value=laal_ms, low=laal_ms, high=laal_ms)
    return SettingResult(setting, scores, (), 0)


def wait_k(k: int, lookahead: int = 13) -> Setting:
    return Setting("wait-k", {"k": k, "l": 4}, lookahead)


RESULTS = [
    result(wait_k(3), 10, 1500),
    result(wait_k(6), 8, 2500),
    result(wait_k(3, 0), 12, 1100),  # a curve of one point
    result(wait_k(6, 0), 100, None),  # nothing was written
    result(Setting("offline", {}, 13), 5, 6000),
]


def test_the_picture() -> None:
    svg = rendered(draw(RESULTS, "wer", "digits, en-en"), "svg")
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]  # noqa: S314 - our own
    for text in ("digits, en-en", "WER, % (lower is better)", "LAAL, s (audio alone)", "LAAL, s (with computing time)"):
        assert text in texts
    for label in ("wait-k, look-ahead 13", "wait-k, look-ahead 0", "offline, look-ahead 13"):
        assert texts.count(label) == 1
    assert texts.count("K=3") == 4  # the ends of each curve, in both panels
    assert texts.count("K=6") == 2


def test_the_same_results_are_the_same_bytes() -> None:
    for kind in ("svg", "png"):
        first, second = (rendered(draw(RESULTS, "wer", "digits"), kind) for _ in range(2))
        assert first == second
