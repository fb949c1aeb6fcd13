"""What benchmarks/paper_scale.py prints and draws: targets beside what was measured, streams, rivals, prepending.

Knows the figures, not how they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM

THREE_TEXTS = "three texts"  # the LLM's products for as many rows
LOOKAHEAD = 13  # of the comparison with PyTorch and NeMo
Figures = Mapping[str, Any]  # Any: what JSON holds
WAYS = {"cross": "cross-attention", "prepend": "prepended"}


@dataclass(frozen=True, slots=True)
class Target:
    """One row: what is aimed at, and how to find it in the figures."""

    name: str
    sign: str
    """`>=`, `<=`, `<`, or nothing where there is no aim."""
    aim: float
    unit: str
    find: Callable[[Figures], float]
    """May raise KeyError, IndexError or TypeError where a part was not run or failed."""

    def met(self, value: float) -> bool | None:
        """Say whether a value is what was aimed at; None without an aim."""
        tests = {">=": value >= self.aim, "<=": value <= self.aim, "<": value < self.aim}
        return tests.get(self.sign)

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.2f}{self.unit}" if abs(value) < 10 else f"{value:.1f}{self.unit}"


def stream(figures: Figures, lookahead: int = LOOKAHEAD) -> Figures:
    """Return the stream at a look-ahead."""
    found: Figures = figures["stream"][str(lookahead)]
    return found


def graph_ms(figures: Figures, graph: str, lookahead: int = LOOKAHEAD) -> float:
    """Return the median time of a graph in a stream."""
    return float(next(row["p50_ms"] for row in stream(figures, lookahead)["graphs"] if row["graph"] == graph))


def ready_s(figures: Figures) -> float:
    """Return the median time to get ready, without the first process, which may have read the files from the disk."""
    times = [run["ready_s"] for run in figures["stream"].values()]
    return float(median(times[1:] or times))


def against_torch(figures: Figures) -> float:
    """Return how many times as long the stream took PyTorch."""
    return float(figures["torch"]["computing_s"] / stream(figures)["computing_s"])


def against(figures: Figures, rival: str, graph: str) -> float:
    """Return how many times as long a rival took for what a graph does."""
    return float(figures[rival]["p50_ms"] / graph_ms(figures, graph))


def peak_gb(figures: Figures) -> float:
    """Return the most memory that any stream's process took."""
    return float(max(run["peak_memory_gb"] for run in figures["stream"].values()))


def over_products(figures: Figures, graph: str) -> float:
    """Return a graph's time over that of its matrix products alone."""
    return graph_ms(figures, graph) / float(figures["products"][graph]["p50_ms"])


def three_over_one(figures: Figures) -> float:
    """Return what three texts at once cost the LLM's products alone."""
    return float(figures["products"][THREE_TEXTS]["p50_ms"] / figures["products"][LLM]["p50_ms"])


def long_over_short(figures: Figures) -> float:
    """Return a token's time after the longest audio over that after the shortest."""
    tokens = [row["p50_ms"] for row in figures["long"]]
    return float(tokens[-1] / tokens[0])


TARGETS = (
    Target("whole stream, PyTorch over ours", ">=", 5.5, "x", against_torch),
    Target("real-time factor, look-ahead 13", "<=", 0.11, "", lambda f: float(stream(f)["rtf"])),
    Target("real-time factor, look-ahead 0", "<", 0.6, "", lambda f: float(stream(f, 0)["rtf"])),
    Target("encoder chunk of 1.12 s, NeMo's graph over ours", ">=", 3.3, "x", lambda f: against(f, "nemo", ENCODER)),
    Target("LLM step, llama.cpp Q4_0 over ours", ">=", 1.4, "x", lambda f: against(f, "llama", LLM)),
    Target("LLM step, onnxruntime-genai over ours", "", 0, "x", lambda f: against(f, "genai", LLM)),
    Target("LLM step over reading its bytes once", "<=", 1.25, "x", lambda f: float(stream(f)["llm_reads"])),
    Target("LLM step over its matrix products alone", "", 0, "x", lambda f: over_products(f, LLM)),
    Target("encoder chunk over its matrix products alone", "", 0, "x", lambda f: over_products(f, ENCODER)),
    Target("three prompts at once over one", "<=", 1.3, "x", lambda f: float(f["prompts"]["ratio"]["three prompts"])),
    Target("LLM's matrix products, three texts over one", "", 0, "x", three_over_one),
    Target("token after 10 minutes of audio over after 10 s", "<=", 1.2, "x", long_over_short),
    Target("bits per LLM weight", "<=", 4.3, "", lambda f: float(f["bits_per_weight"])),
    Target("peak memory of a stream's process", "<=", 1.3, " GB", peak_gb),
    Target("load to first READ, warm", "<=", 3, " s", ready_s),
    Target("export, time", "<=", 360, " s", lambda f: float(f["export"]["seconds"])),
    Target("export, peak memory", "<=", 16, " GB", lambda f: float(f["export"]["peak_gb"])),
)


def targets(figures: Figures) -> list[dict[str, Any]]:
    """Return each target with what was measured; `measured` is None where that was not."""
    rows = []
    for target in TARGETS:
        try:
            value = target.find(figures)
        except (KeyError, IndexError, TypeError, StopIteration):
            value = None
        met = None if value is None else target.met(value)
        rows.append({"name": target.name, "target": target.aim if target.sign else None, "measured": value, "met": met})
    return rows


def tables(figures: Figures) -> list[Table]:
    """Return all tables that the figures fill."""
    found = [target_table(figures)]
    if "stream" in figures:
        found.append(stream_table(figures))
    if rows := {part: figures[part] for part in ("torch", "genai", "llama", "nemo") if part in figures}:
        found.append(rival_table(rows))
    if "prepend" in figures:
        found.append(prepend_table(figures["prepend"]))
    return found


def new_table(title: str, *columns: str) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def target_table(figures: Figures) -> Table:
    """Return targets beside what was measured."""
    machine = figures["machine"]
    title = f"Targets: {machine['processor']}, {machine['cores']} cores, {figures['threads']} threads"
    table = new_table(title + (", tiny model" if figures["tiny"] else ""), "what", "target", "measured", "met")
    for target, row in zip(TARGETS, targets(figures), strict=True):
        aim = f"{target.sign} {target.aim:g}{target.unit}" if target.sign else "-"
        value = "not measured" if row["measured"] is None else target.shown(row["measured"])
        table.add_row(target.name, aim, value, {True: "yes", False: "no", None: "-"}[row["met"]])
    return table


def stream_table(figures: Figures) -> Table:
    """Return the streams of all look-aheads."""
    columns = ("RTF", "chunks", "encoder ms", "adapter ms", "tokens", "LLM ms", "ready s", "peak GB")
    title = f"Streams of {figures['audio_s']:g} s, K={figures['k']}, L={figures['l']}: medians"
    table = new_table(title, "look-ahead", *columns)
    for lookahead, run in figures["stream"].items():
        if (problem := trouble(run)) is not None:
            table.add_row(lookahead, problem)
            continue
        runs = {row["graph"]: row for row in run["graphs"]}
        ms = {name: f"{runs[name]['p50_ms']:.1f}" if name in runs else "-" for name in (ENCODER, ADAPTER, LLM)}
        chunks = str(runs[ENCODER]["runs"])
        peak = "-" if run["peak_memory_gb"] is None else f"{run['peak_memory_gb']:.2f}"
        parts = (chunks, ms[ENCODER], ms[ADAPTER], str(run["tokens"]), ms[LLM], f"{run['ready_s']:.2f}", peak)
        table.add_row(lookahead, f"{run['rtf']:.3f}", *parts)
    return table


def rival_table(rows: Figures) -> Table:
    """Return what each rival took."""
    table = new_table("Rivals", "rival", "what", "measured")
    for name, row in rows.items():
        if (problem := trouble(row)) is not None:
            table.add_row(name, "-", problem)
        elif name == "torch":
            kinds = f"encoder {row['encoder_dtype']}, LLM {row['llm_dtype']}, {row['llm_cache']} cache"
            whole = f"{row['computing_s']:.2f} s, RTF {row['rtf']:.3f}"
            table.add_row(name, f"stream, {row['chunks']} chunks, {row['tokens']} tokens; {kinds}", whole)
            for trial, ms in row["trials_ms"].items():
                table.add_row("", trial, f"{ms:.1f} ms")
        else:
            table.add_row(name, "encoder chunk" if name == "nemo" else "LLM step", f"{row['p50_ms']:.1f} ms")
    return table


def prepend_table(rows: Figures) -> Table:
    """Return cross-attention beside prepending."""
    columns = ("audio s", "steps", "first token ms", "token ms", "speech MB", "first token grows MB")
    table = new_table(
        "Speech as cross-attention or prepended (P = 1: 100 / 8 = 12.5 positions a second)", "way", *columns
    )
    for way, name in WAYS.items():
        for row in rows[way]:
            if (problem := trouble(row)) is not None:
                table.add_row(name, problem)
                continue
            grown = "-" if row["first_grown_bytes"] is None else f"{row['first_grown_bytes'] / 1e6:.1f}"
            ms = f"{row['first_ms']:.1f}", f"{row['p50_ms']:.1f}"
            table.add_row(
                name, f"{row['seconds']:g}", str(row["steps"]), *ms, f"{row['speech_bytes'] / 1e6:.1f}", grown
            )
    return table


def trouble(row: Figures) -> str | None:
    """Return why something was not measured, None if it was."""
    problem = row.get("error") or row.get("skipped")
    return None if problem is None else str(problem)


def draw(rows: Figures, path: Path) -> None:
    """Draw prepending against cross-attention over the length of the audio; the file's ending is its format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {"first token, ms": ("first_ms", 1), "each further token, ms": ("p50_ms", 1)}
    panels["keys and values of the speech, MB"] = ("speech_bytes", 1e-6)
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2), layout="constrained")
    for axis, (title, (field, factor)) in zip(axes, panels.items(), strict=True):
        for way, name in WAYS.items():
            good = [row for row in rows[way] if trouble(row) is None]
            axis.plot([row["seconds"] for row in good], [row[field] * factor for row in good], marker="o", label=name)
        axis.set(title=title, xlabel="audio, s", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path)
