"""The description of an evaluation, and the files of its results.

DIR/SETTING/utterances.jsonl   text and scores of each utterance
DIR/curve.svg, DIR/curve.png   quality over latency
DIR/report.html                all results, for people
DIR/results.json               all results, for programs; written last
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bestow_edge.core.bundle import MANIFEST_FILE, read_manifest
from bestow_edge.core.files import sha256
from bestow_edge.evaluation.report import curves, html_report
from bestow_edge.evaluation.report.hardware import describe_machine, versions
from bestow_edge.evaluation.run.directory import FORMAT, FORMAT_VERSION, RESULTS_FILE, Store, samples_sha256
from bestow_edge.evaluation.run.listening import BLOCK_MS
from bestow_edge.evaluation.run.runner import Runner
from bestow_edge.evaluation.run.samples import Samples
from bestow_edge.evaluation.scores import intervals
from bestow_edge.evaluation.scores.results import SettingResult


def describe(manifest: Path, samples: Samples, runner: Runner) -> dict[str, Any]:
    """Return the fields that must be equal for an earlier run to be continued, as JSON."""
    bundle = read_manifest(runner.bundle)
    hotwords = {word.text: word.weight for word in runner.hotwords}
    return {
        "pair": runner.name,
        "manifest": {
            "file": manifest.name,
            "sha256": samples_sha256(samples),
            "utterances": len(samples.items),
            "left_out": samples.left_out,
            "audio_s": round(sum(item.length_s for item in samples.items), 3),
        },
        "bundle": {
            "name": runner.bundle.resolve().name,
            "sha256": sha256(runner.bundle / MANIFEST_FILE),
            "checkpoint_sha256": bundle.checkpoint_sha256,
            "precision": {name: entry.precision for name, entry in bundle.graphs.items()},
        },
        "block_ms": BLOCK_MS,
        "device": runner.device,
        "threads": runner.threads,
        "jobs": runner.jobs,
        **({"hotwords": hotwords} if hotwords else {}),
    }


def write(store: Store, evaluated: dict[str, Any], results: Sequence[SettingResult], metric: str) -> dict[str, Any]:
    """Write every file of results and return the content of `results.json`.

    Args:
        store: the directory.
        evaluated: as returned by `describe`.
        results: of all settings.
        metric: quality score of the curves, one of `bestow_edge.evaluation.scores.score.METRICS`.
    """
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **evaluated,
        "metric": metric,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions(),
        "confidence": {"level": intervals.CONFIDENCE, "resamples": intervals.RESAMPLES, "seed": intervals.SEED},
        "settings": [result.record() for result in results],
    }
    for result in results:
        lines = (json.dumps(utterance, ensure_ascii=False) + "\n" for utterance in result.utterances)
        store.write("utterances.jsonl", "".join(lines), result.setting)
    figure = curves.draw(results, metric, f"{evaluated['manifest']['file']}, {evaluated['pair']}")
    svg = curves.rendered(figure, "svg")
    store.write("curve.svg", svg)
    store.write("curve.png", curves.rendered(figure, "png"))
    store.write("report.html", html_report.page(record, results, metric, svg.decode()))
    store.write(RESULTS_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record
