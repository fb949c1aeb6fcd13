"""`bestow-edge bench`: speed of a bundle on this machine, measured by `bestow_edge.evaluation.run.speed`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bestow_edge.cli import options
from bestow_edge.cli.show.console import err, new_table, write_json, write_tables

if TYPE_CHECKING:
    from bestow_edge.evaluation.run.speed import Speed


def bench(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Directory of a bundle, hf:OWNER/NAME, people or demo.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="Recording of speech; default: spoken digits.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, metavar="S", help="Seconds of audio; a shorter recording repeats.")
    ] = 20.0,
    lang: Annotated[
        str | None, typer.Option("--lang", metavar="SOURCE-TARGET", help="Language pair; default: the bundle's first.")
    ] = None,
    k: options.K = None,
    l: options.L = None,  # noqa: E741 - the paper's letter
    lookahead: options.Lookahead = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    as_json: options.Json = False,
) -> None:
    """Measure the speed of each graph, and speed, lag and memory of a stream.

    Prints tables and a last line of JSON; with --json only this line.

    Examples:
      bestow-edge bench
      bestow-edge bench my-bundle --audio talk.wav --seconds 60 --lookahead 6
    """
    started = time.perf_counter()
    from bestow_edge.core.prompts import parse_pair
    from bestow_edge.core.request import Request
    from bestow_edge.evaluation.run.listening import sample_speech
    from bestow_edge.evaluation.run.speed import measure
    from bestow_edge.runtime import load

    model = load(
        options.chosen_bundle(bundle, Request(lang=lang, k=k, l=l, lookahead=lookahead)), device=device, threads=threads
    )
    pair = parse_pair(lang or model.config.pairs[0])
    with model.session(source=pair.source, target=pair.target, k=k, l=l, lookahead=lookahead):
        ready_s = time.perf_counter() - started  # the session is open and waits for audio
    waveform = sample_speech(model.sample_rate_hz, seconds, audio)
    with err.status(f"running {seconds:.0f} s of audio"):
        speed = measure(model, waveform, source=pair.source, target=pair.target, k=k, l=l, lookahead=lookahead)
    record = {"bundle": str(model.directory), "pair": str(pair), "ready_s": ready_s, **asdict(speed)}
    if not as_json:
        write_tables(*_tables(str(model.directory), speed, ready_s))
    rounded = json.loads(json.dumps(record), parse_float=lambda number: round(float(number), 4))
    write_json(rounded)


def _tables(name: str, speed: Speed, ready_s: float) -> list[Table]:
    columns = "graph", "runs", "p50 ms", "p95 ms", "max ms", "share"
    graphs = new_table(f"Graphs of {name}", *columns, numbers=columns[1:])
    for row in speed.graphs:
        graphs.add_row(
            row.graph, str(row.runs), *(f"{ms:.1f}" for ms in (row.p50_ms, row.p95_ms, row.max_ms)), f"{row.share:.0%}"
        )
    stream = new_table(f"Stream of {speed.audio_s:.0f} s", "measurement", "value")
    first = "no text" if speed.first_text_s is None else f"{speed.first_text_s:.2f} s"
    stream.add_row("loading until the first audio", f"{ready_s:.2f} s")
    stream.add_row("real-time factor", f"{speed.rtf:.3f} ({speed.computing_s:.2f} s of computing)")
    stream.add_row("first text after", first)
    if speed.laal_ms is not None and speed.lag_ms is not None:
        stream.add_row("lag by the policy (LAAL)", f"{speed.laal_ms:.0f} ms, computing adds {speed.lag_ms:.0f} ms")
    stream.add_row("LLM steps", str(speed.tokens))
    if speed.llm_reads is not None:
        read = f"reading {speed.llm_bytes / 1e6:.0f} MB at {speed.bandwidth_gb_s:.1f} GB/s"
        stream.add_row("LLM step over reading its bytes once", f"{speed.llm_reads:.2f} ({read})")
    if speed.peak_memory_gb is not None:
        stream.add_row("peak memory of the process", f"{speed.peak_memory_gb:.2f} GB")
    return [graphs, stream]
