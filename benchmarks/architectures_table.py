"""Table, figure and page of `benchmarks/architectures.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Figures by recipe and seed."""
COLUMNS = (
    "recipe", "seeds", "trainable, M", "steps/CPU s", "memory, MB", "WER offline, %", "WER streaming, %", "LAAL, ms",
    "first text, ms", "RTF", "bundle behind the encoder, MB",
)  # fmt: skip
ANSWERS = (
    "recipe", "right answers about speech, %", "cascade: transcript, then LLM, %", "LLM alone, written words, %",
    "WER then, %",
)  # fmt: skip
LENGTHS = ("recipe", "first token at 15 / 30 / 60 / 120 s, ms", "each next token, ms", "caches, MB")


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def quality(runs: Sequence[Mapping[str, Any]], metric: str, *, offline: bool, digits: int = 1) -> str:
    """Return the mean over seeds, the widest interval, and each seed's value; empty if there is no such policy."""
    found = [
        scores[metric]
        for run in runs
        for policy, scores in run["scores"].items()
        if (policy == "offline") == offline and metric in scores
    ]
    return interval(found, digits) if found else ""


def row_of(name: str, seeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the cells of a recipe."""
    runs = list(seeds.values())

    def average(field: str) -> float:
        return mean([float(run[field]) for run in runs])

    behind = [sum(size for graph, size in run["mb"].items() if not graph.startswith("encoder")) for run in runs]
    return [
        name,
        str(len(runs)),
        f"{average('trainable') / 1e6:.2f}",
        f"{average('steps_per_cpu_s'):.1f}",
        f"{average('memory_mb'):.0f}",
        quality(runs, "wer", offline=True),
        quality(runs, "wer", offline=False),
        quality(runs, "LAAL", offline=False, digits=0),
        quality(runs, "FirstText_CA", offline=False, digits=0),
        quality(runs, "RTF", offline=False, digits=2),
        f"{mean(behind):.1f}",
    ]


def interval(scores: Sequence[Mapping[str, float]], digits: int = 1) -> str:
    """Return the mean over seeds, the widest interval, and each seed's value."""
    low, high = min(one["low"] for one in scores), max(one["high"] for one in scores)
    shown = f"{mean([one['value'] for one in scores]):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    each = ", ".join(f"{one['value']:.{digits}f}" for one in scores)
    return f"{shown} ({each})" if len(scores) > 1 else shown


def answers_of(name: str, seeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the cells of a recipe's answers; empty cells if it was not asked."""
    runs = [run for run in seeds.values() if "answers" in run]
    if not runs:
        return [name, *[""] * (len(ANSWERS) - 1)]
    kinds = ("speech", "cascade", "written words")
    return [
        name,
        *(interval([run["answers"][kind] for run in runs]) for kind in kinds),
        interval([run["wer_then"] for run in runs]),
    ]


def lengths_of(name: str, seeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the cells of a recipe's decoder against the length of speech."""
    measured = next(iter(seeds.values()))["lengths"].values()

    def shown(field: str) -> str:
        return " / ".join(f"{one[field]:.1f}" for one in measured)

    return [name, shown("first_ms"), shown("next_ms"), shown("mb")]


def tables(rows: Rows) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Return title, columns and cells of each table."""
    shown = [("Quality and cost", COLUMNS, row_of), ("Decoder alone", LENGTHS, lengths_of)]
    if any("answers" in run for seeds in rows.values() for run in seeds.values()):
        shown.insert(1, ("Questions", ANSWERS, answers_of))
    return [(title, columns, [cells(name, seeds) for name, seeds in rows.items()]) for title, columns, cells in shown]


def print_tables(rows: Rows) -> None:
    """Print the tables."""
    for title, columns, lines in tables(rows):
        table = Table(title=title)
        for column in columns:
            table.add_column(column)
        for line in lines:
            table.add_row(*line)
        Console(width=220).print(table)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_page(record: Mapping[str, Any], docs: Path) -> None:
    """Write the figure, and the tables between the marks of the page."""
    rows: Rows = record["rows"]
    page = docs / "architectures.md"
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    shown = "\n".join(markdown(columns, lines) for _, columns, lines in tables(rows))
    setting = f"{record['steps']} steps, {record['test']} utterances of the test.\n\n"
    page.write_text(head + BEGIN + setting + shown + END + rest.split(END)[1], encoding="utf-8")
    draw(rows, docs / "architectures.svg")


def draw(rows: Rows, path: Path) -> None:
    """Draw WER against lag with intervals, and the first token against the length of speech."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "architectures", "svg.fonttype": "none", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for name, seeds in rows.items():
        points = [s for run in seeds.values() for policy, s in run["scores"].items() if policy != "offline"]
        wer, lag = ([one[metric]["value"] for one in points] for metric in ("wer", "LAAL"))
        spans = [
            [o["wer"]["value"] - o["wer"]["low"] for o in points],
            [o["wer"]["high"] - o["wer"]["value"] for o in points],
        ]
        left.errorbar(lag, wer, yerr=spans, fmt="o", capsize=2, label=name)
        lengths = next(iter(seeds.values()))["lengths"]
        right.plot(
            [float(one) for one in lengths], [one["first_ms"] for one in lengths.values()], marker="o", label=name
        )
    left.set(xlabel="LAAL, ms", ylabel="WER, %", title="Streaming")
    right.set(xlabel="speech, s", ylabel="first token, ms", title="Decoder behind all of the speech")
    right.set_yscale("log")
    left.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
