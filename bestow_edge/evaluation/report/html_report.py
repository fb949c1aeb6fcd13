"""The HTML report: curves, tables and texts in one file, without scripts.

Texts from models, manifests and file names are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from bestow_edge.evaluation.scores.results import SettingResult
from bestow_edge.evaluation.scores.score import LOWER_IS_BETTER, METRICS, Score

SHOWN_UTTERANCES = 20
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child, td.text { text-align: left }
small { color: #666 } svg { max-width: 100%; height: auto } .wide { overflow-x: auto }
"""


def page(record: Mapping[str, Any], results: Sequence[SettingResult], metric: str, svg: str) -> str:
    """Return the report.

    Args:
        record: content of `results.json`.
        results: the settings' results with their utterances.
        metric: the score by which utterances are sorted.
        svg: the curves.
    """
    title = f"{record['manifest']['file']}, {record['pair']}"
    picture = svg[svg.index("<svg") :]  # HTML has no XML header
    latencies = list(dict.fromkeys(name for result in results for name in result.scores if name not in METRICS))
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(record),
        picture,
        "<h2>Quality</h2><p><small>With 95 % confidence intervals.</small></p>",
        _scores(results, METRICS),
        "<h2>Latency</h2><p><small>Milliseconds, but AP, RTF and NE. CA: computing time counts.</small></p>",
        _scores(results, [name for name in latencies if not name.endswith("_CA")]),
        _scores(results, [name for name in latencies if name.endswith("_CA")]),
        f"<h2>Texts</h2><p><small>The {SHOWN_UTTERANCES} utterances with the worst {escape(metric)}.</small></p>",
        *(_texts(result, metric) for result in results),
        "<h2>Signatures</h2>",
        *(f"<p><code>{escape(line)}</code></p>" for line in signatures(results)),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def signatures(results: Sequence[SettingResult]) -> list[str]:
    """Return sacrebleu's signatures in the form that papers print."""
    scores = results[0].scores
    return [f"{name}: {score.signature}" for name, score in scores.items() if score.signature]


def _facts(record: Mapping[str, Any]) -> str:
    manifest, bundle, machine = record["manifest"], record["bundle"], record["machine"]
    left_out = f", {manifest['left_out']} other lines left out" if manifest["left_out"] else ""
    lines = [
        f"{manifest['utterances']} utterances, {manifest['audio_s']:.0f} s of audio{left_out}",
        f"bundle {bundle['name']}, checkpoint SHA-256 {bundle['checkpoint_sha256'][:16]}",
        f"{machine['processor']}, {machine['cores']} cores, {record['jobs']} processes of {record['threads']} threads",
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    ]
    return "<p>" + "<br>".join(map(escape, lines)) + "</p>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table. Its cells are HTML, so they are not escaped again."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _scores(results: Sequence[SettingResult], names: Sequence[str]) -> str:
    rows = [
        [escape(result.setting.name), *(_cell(name, result.scores.get(name)) for name in names)] for result in results
    ]
    return _table(["setting", *map(escape, names)], rows)


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return ""
    value, _, interval = score.shown(name).partition(" ")
    return f"{value} <small>{interval}</small>"


def _texts(result: SettingResult, metric: str) -> str:
    def quality(utterance: Mapping[str, Any]) -> float:
        return float(utterance["scores"][metric]) * (-1 if metric in LOWER_IS_BETTER else 1)

    worst = sorted(result.utterances, key=quality)[:SHOWN_UTTERANCES]
    rows = (
        [
            str(utterance["index"]),
            escape(str(utterance["reference"])),
            escape(str(utterance["prediction"])),
            f"{utterance['scores'][metric]:.1f}",  # type: ignore[index]  # a mapping, as score_setting makes it
        ]
        for utterance in worst
    )
    table = _table(["utterance", "reference", "written", escape(metric)], rows)
    return f"<details><summary>{escape(result.setting.name)}</summary>{table}</details>"
