"""`bestow-edge run`: audio files to text, offline or as a stream. Knows files and the public runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestow_edge.cli import options
from bestow_edge.cli.console import err, say_error, write, write_json
from bestow_edge.cli.latency import choose_for, latency_target
from bestow_edge.cli.replay import traced
from bestow_edge.errors import AudioError, SessionError
from bestow_edge.prompts import Pair, parse_pair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bestow_edge.policy import Policy
    from bestow_edge.runtime import Event, Model, Session
    from bestow_edge.runtime.trace import Tracer

FEED_S = 10.0  # audio between two steps of the progress bar
STEP_S = 0.08  # block of a stream: one encoder step


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is done with every file."""

    model: Model
    pair: Pair
    policy: Policy
    lookahead: int | None
    streaming: bool
    trace: Path | None
    as_json: bool
    prefixed: bool
    """Whether each line begins with its file's name."""


def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="wav, flac, ogg or mp3, any rate.")],
    lang: options.Lang = "en-de",
    bundle: options.Bundle = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write while listening (wait-k), not at the end.")] = False,
    k: options.K = None,
    l: options.L = None,  # noqa: E741 - the paper's letter
    lookahead: options.Lookahead = None,
    latency: options.Latency = None,
    trace: options.Trace = None,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Write the text of audio files, one line each.

    A file that cannot be read is reported, the others are done, and the exit code is 2.

    \b
    Examples:
      bestow-edge run talk.wav
      bestow-edge run talk.wav --stream --k 4
      bestow-edge run talk.wav --stream --latency 2.5s
      bestow-edge run talk.wav --stream --trace talk.trace
      bestow-edge run *.wav --lang en-en --json
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    if not stream and not (k is None and l is None and latency is None):
        message = "--k, --l and --latency need --stream: without it everything is heard before text is written"
        raise typer.BadParameter(message)
    if trace is not None and not (stream and len(files) == 1):
        raise typer.BadParameter("--trace records one file with --stream: give one FILE and --stream")
    target_s = latency_target(latency, k, l, lookahead)
    pair = parse_pair(lang)
    from bestow_edge.runtime import Offline, load

    model = load(bundle, device=device, threads=threads)
    if target_s is not None:
        choice = choose_for(target_s, model, pair, calibrated=False)
        k, l, lookahead = choice.k, choice.l, choice.lookahead  # noqa: E741 - the paper's letter
    with model.session(source=pair.source, target=pair.target, k=k, l=l, lookahead=lookahead) as session:
        policy = (
            session.prompts[0].policy if stream else Offline()
        )  # refuses a wrong pair or look-ahead before any file is read
    job = Job(
        model=model,
        pair=pair,
        policy=policy,
        lookahead=lookahead,
        streaming=stream,
        trace=trace,
        as_json=as_json,
        prefixed=len(files) > 1,
    )
    failed = [path for path in files if not _try_file(path, job)]
    if failed:
        raise typer.Exit(2)


def _try_file(path: Path, job: Job) -> bool:
    """Do one file; return whether it went well."""
    from bestow_edge.runtime import read_audio

    try:
        _file(path, read_audio(path, job.model.sample_rate_hz), job)
    except (AudioError, SessionError) as error:
        say_error(error if str(path) in str(error) else SessionError(f"{path}: {error}"))
        return False
    return True


def _file(path: Path, waveform: npt.NDArray[np.float32], job: Job) -> None:
    prefix = f"{path}: " if job.prefixed else ""
    started_s = time.perf_counter()
    opened = job.model.session(
        source=job.pair.source, target=job.pair.target, policy=job.policy, lookahead=job.lookahead
    )
    with opened if job.trace is None else traced(opened, job.trace) as session:
        if job.streaming and not job.as_json:
            write(prefix, end="")
            try:
                for event in _events(session, waveform, job):
                    write(event.text, end="")
            finally:
                write("")
            return
        events = list(_events(session, waveform, job))
    wall_s = time.perf_counter() - started_s
    text = "".join(event.text for event in events)
    if job.as_json:
        write_json(_record(path, text, len(waveform) / job.model.sample_rate_hz, wall_s, events, job))
    else:
        write(prefix + text)


def _events(session: Session | Tracer, waveform: npt.NDArray[np.float32], job: Job) -> Iterator[Event]:
    """Feed a file block by block; how it is cut never changes the text."""
    from bestow_edge.runtime.audio import blocks

    block_samples = round((STEP_S if job.streaming else FEED_S) * job.model.sample_rate_hz)
    with _bar(len(waveform), shown=not job.streaming or job.as_json) as advance:
        for block in blocks(waveform, block_samples):
            yield from session.feed(block)
            advance(len(block))
        yield from session.finish()


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Any]:  # Any: a function from a number of samples to nothing
    """Show a bar on a terminal; not where text is written beside it."""
    if not (shown and err.is_terminal):
        yield lambda _samples: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("listening", total=total)
        yield lambda samples: progress.advance(task, samples)


def _record(
    path: Path, text: str, duration_s: float, wall_s: float, events: list[Event], job: Job
) -> dict[str, object]:
    from bestow_edge.policy import WaitK

    policy: dict[str, object] = {"name": "offline"}
    if isinstance(job.policy, WaitK):
        policy = {"name": "wait-k", **asdict(job.policy)}
    record: dict[str, object] = {
        "file": str(path),
        "lang": str(job.pair),
        "text": text,
        "duration_s": round(duration_s, 3),
        "wall_s": round(wall_s, 3),
        "rtf": round(wall_s / duration_s, 4),
        "policy": policy | {"lookahead": job.model.config.right_context if job.lookahead is None else job.lookahead},
    }
    if job.streaming:
        record["events"] = [event_record(event) for event in events]
    return record


def event_record(event: Event) -> dict[str, object]:
    """Return an event as JSON shows it; `event` is its kind: text, segment-start or segment-end."""
    from bestow_edge.runtime import SegmentEvent

    if isinstance(event, SegmentEvent):
        return {"event": f"segment-{event.kind}", "segment": event.segment, "time_s": round(event.time_s, 3)}
    return {
        "event": "text",
        "text": event.text,
        "start_s": round(event.start_s, 3),
        "end_s": round(event.end_s, 3),
        "heard_s": round(event.heard_s, 3),
        "log_prob": round(event.log_prob, 4),
        "segment": event.segment,
    }
