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
    "recipe", "seeds", "trainable, M", "steps/s", "memory, MB", "WER offline, %", "WER streaming, %", "LAAL, ms",
    "first text, ms", "RTF", "bundle behind the encoder, MB",
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
    if not found:
        return ""
    low, high = min(one["low"] for one in found), max(one["high"] for one in found)
    shown = f"{mean([one['value'] for one in found]):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    each = ", ".join(f"{one['value']:.{digits}f}" for one in found)
    return f"{shown} ({each})" if len(found) > 1 else shown


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
        f"{average('steps_per_s'):.1f}",
        f"{average('memory_mb'):.0f}",
        quality(runs, "wer", offline=True),
        quality(runs, "wer", offline=False),
        quality(runs, "LAAL", offline=False, digits=0),
        quality(runs, "FirstText_CA", offline=False, digits=0),
        quality(runs, "RTF", offline=False, digits=2),
        f"{mean(behind):.1f}",
    ]


def lengths_of(name: str, seeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the cells of a recipe's decoder against the length of speech."""
    measured = next(iter(seeds.values()))["lengths"].values()

    def shown(field: str) -> str:
        return " / ".join(f"{one[field]:.1f}" for one in measured)

    return [name, shown("first_ms"), shown("next_ms"), shown("mb")]


def print_table(rows: Rows) -> None:
    """Print both tables."""
    for title, columns, cells in (("Quality and cost", COLUMNS, row_of), ("Decoder alone", LENGTHS, lengths_of)):
        table = Table(title=title)
        for column in columns:
            table.add_column(column)
        for name, seeds in rows.items():
            table.add_row(*cells(name, seeds))
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
    tables = markdown(COLUMNS, [row_of(*item) for item in rows.items()])
    tables += "\n" + markdown(LENGTHS, [lengths_of(*item) for item in rows.items()])
    told = f"{record['steps']} steps, {record['test']} utterances of the test.\n\n"
    page.write_text(head + BEGIN + told + tables + END + rest.split(END)[1], encoding="utf-8")
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
