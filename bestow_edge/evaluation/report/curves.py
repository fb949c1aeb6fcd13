"""Latency-quality curves as PNG and SVG. Needs matplotlib (extra `eval`)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bestow_edge.evaluation.scores.results import SettingResult
from bestow_edge.evaluation.scores.score import LOWER_IS_BETTER

TITLES = {
    "wer": "WER, %",
    "wer_normalized": "WER, normalised, %",
    "cer": "CER, %",
    "cer_normalized": "CER, normalised, %",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L, %",
    "accuracy": "utterances right, %",
}
PANELS = {"LAAL": "audio alone", "LAAL_CA": "with computing time"}
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "bestow-edge", "font.size": 9}  # Any: hundreds of literal keys
# SVG text stays text and ids are constant, so a picture changes only where its numbers change.
MARKERS = "osv^Dp*hX"


def draw(results: Sequence[SettingResult], metric: str, title: str) -> Figure:
    """Draw quality over LAAL, without and with computing time: a line for each policy and look-ahead.

    Bands are 95 % confidence intervals of the quality. An offline setting is a horizontal line, the quality reached by
    hearing the whole utterance first.

    Args:
        results: at least one.
        metric: one of `bestow_edge.evaluation.scores.score.METRICS`.
        title: above the picture.
    """
    curves: dict[str, list[SettingResult]] = {}
    for result in results:
        curves.setdefault(result.setting.curve, []).append(result)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        figure.suptitle(title)
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (latency, name) in zip(panels, PANELS.items(), strict=True):
            for number, (curve, points) in enumerate(curves.items()):
                _draw_curve(axes, points, metric, latency, curve, number)
            axes.set_xlabel(f"LAAL, s ({name})")
            axes.grid(alpha=0.3)
        better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        panels[0].set_ylabel(f"{TITLES[metric]} ({better})")
        panels[0].legend(fontsize=7)
    return figure


def _draw_curve(axes: Axes, points: Sequence[SettingResult], metric: str, latency: str, name: str, number: int) -> None:
    color = f"C{number}"
    if points[0].setting.policy == "offline":
        axes.axhline(points[0].scores[metric].value, color=color, linestyle=":", label=name)
        return
    timed = [point for point in points if latency in point.scores]
    quality = [point.scores[metric] for point in timed]
    times_s = [point.scores[latency].value / 1000 for point in timed]
    low, high = [score.low for score in quality], [score.high for score in quality]
    values = [score.value for score in quality]
    if len(timed) > 1:
        axes.fill_between(times_s, low, high, color=color, alpha=0.08, linewidth=0)
    else:
        axes.vlines(times_s, low, high, color=color, linewidth=0.5)
    marker = MARKERS[number % len(MARKERS)]
    axes.plot(times_s, values, color=color, marker=marker, markersize=3, linewidth=1, label=name)
    for point, x, y in zip(timed, times_s, values, strict=True):
        if point in (timed[0], timed[-1]):
            axes.annotate(point.setting.point, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)


def rendered(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """Return the content of the picture's file. Equal results give equal bytes."""
    buffer = BytesIO()
    metadata: dict[str, str | None] = {"Software": "bestow-edge"}
    if kind == "svg":
        metadata = {"Date": None, "Creator": "bestow-edge"}
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
