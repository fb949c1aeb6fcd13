"""`bestow-edge run`: writes the text of audio files, offline or as a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import err, say_error, write, write_json
from bestow_edge.cli.show.delay import announce
from bestow_edge.cli.show.language import DetectedLanguage
from bestow_edge.cli.show.prompts import labels, languages, policy_record, prompt_record
from bestow_edge.cli.show.texts import StreamedTexts, event_record, texts
from bestow_edge.core.errors import AudioError, SessionError
from bestow_edge.core.prompts import AUTO, Question
from bestow_edge.core.request import Request

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bestow_edge.runtime import Event, Model, Session
    from bestow_edge.runtime.records.trace import Tracer

FEED_S = 10.0  # audio between two steps of the progress bar
STEP_S = 0.08  # audio between two steps of a stream: one encoder step


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Settings for all files."""

    model: Model
    request: Request
    trace: Path | None
    as_json: bool
    prefixed: bool
    """Whether each line begins with its file's name."""


def run(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Audio: wav, flac, ogg or mp3, any sampling rate.")
    ],
    lang: options.Lang = None,
    ask: options.Ask = None,
    bundle: options.Bundle = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write text while listening, not at the end.")] = False,
    policy: options.Policy = None,
    k: options.K = None,
    l: options.L = None,  # noqa: E741 - the paper's letter
    threshold: options.Threshold = None,
    lookahead: options.Lookahead = None,
    latency: options.Latency = None,
    hotwords: options.Hotwords = None,
    hotword_weight: options.HotwordWeight = None,
    beam: Annotated[
        int, typer.Option("--beam", min=1, metavar="N", help="Hypotheses of the search; 1: greedy. Not with --stream.")
    ] = 1,
    trace: options.Trace = None,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Write the text of audio files: a line for each file, language pair and question.

    With --stream, a single text grows on one line while the audio is read.
    Several texts have a labelled line for each new piece; the pieces, joined, are the text.
    Questions are answered after all audio.
    With --stream and --policy, --k, --l, --threshold or --latency, they are answered as a stream.
    A file that cannot be read is reported. The other files are read, and the exit code is 2.

    Examples:
      bestow-edge run talk.wav
      bestow-edge run talk.wav --lang en-en,en-de
      bestow-edge run talk.wav --lang auto --bundle my-whisper
      bestow-edge run talk.wav --lang en --ask "Who is speaking?" --ask "What was decided?"
      bestow-edge run talk.wav --beam 5
      bestow-edge run talk.wav --stream --k 4
      bestow-edge run talk.wav --stream --policy align-att --threshold 6
      bestow-edge run talk.wav --stream --latency 2.5s
      bestow-edge run talk.wav --stream --trace talk.trace
      bestow-edge run talk.wav --hotwords "Nemotron, Heidelberg"
      bestow-edge run *.wav --lang en-en --json
    """
    words = options.chosen_hotwords(hotwords, hotword_weight)
    request = Request(
        lang=lang, ask=tuple(ask or ()), stream=stream, policy=policy, k=k, l=l, threshold=threshold,
        lookahead=lookahead, latency=latency, beam_size=beam, hotwords=words,
    )  # fmt: skip
    if trace is not None and not (stream and len(files) == 1):
        raise typer.BadParameter("--trace records one file with --stream: give one FILE and --stream")
    from bestow_edge.runtime import load

    model = load(bundle, device=device, threads=threads)
    announce(request, model)
    job = Job(model=model, request=request, trace=trace, as_json=as_json, prefixed=len(files) > 1)
    model.open(request)  # refuses a wrong pair, question or look-ahead before any file is read
    failed = [path for path in files if not _try_file(path, job)]
    if failed:
        raise typer.Exit(2)


def _try_file(path: Path, job: Job) -> bool:
    """Write the text of one file; return False after an error, which is printed."""
    from bestow_edge.runtime import read_audio

    try:
        _file(path, read_audio(path, job.model.sample_rate_hz), job)
    except (AudioError, SessionError) as error:
        say_error(error if str(path) in str(error) else SessionError(f"{path}: {error}"))
        return False
    return True


def _file(path: Path, waveform: npt.NDArray[np.float32], job: Job) -> None:
    from bestow_edge.runtime.records.trace import Tracer

    prefix, prompts = f"{path}: " if job.prefixed else "", job.request.asked(job.model.config)
    started_s = time.perf_counter()
    opened = job.model.open(job.request)
    with opened if job.trace is None else Tracer(opened, job.trace) as session:
        batches = _feed(session, waveform, job, prefix)
        if job.request.stream and not job.as_json:
            _write_growing(batches, StreamedTexts(prompts, prefix))
            return
        events = [event for batch in batches for event in batch]
    wall_s = time.perf_counter() - started_s
    if job.as_json:
        record = _record(path, len(waveform) / job.model.sample_rate_hz, wall_s, events, job)
        write_json(record | ({"language": session.language} if prompts[0].source == AUTO else {}))
        return
    for label, text in zip(labels(prompts), texts(events, len(prompts)), strict=True):
        write(prefix + label + text)


def _write_growing(batches: Iterator[list[Event]], streamed: StreamedTexts) -> None:
    streamed.begin()
    try:
        for events in batches:
            streamed.add(events)
    finally:
        streamed.end()


def _feed(session: Session | Tracer, waveform: npt.NDArray[np.float32], job: Job, prefix: str) -> Iterator[list[Event]]:
    """Feed a file block by block and yield the events of each block. The size of blocks never changes the text."""
    from bestow_edge.runtime.audio.files import blocks

    block_samples = round((STEP_S if job.request.stream else FEED_S) * job.model.sample_rate_hz)
    with _bar(len(waveform), shown=not job.request.stream or job.as_json) as advance:
        detected = DetectedLanguage(session, prefix)
        for block in (*blocks(waveform, block_samples), None):
            events = session.finish() if block is None else session.feed(block)
            if not job.as_json:
                detected.show()
            yield events
            advance(0 if block is None else len(block))


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Any]:  # Any: a function from a number of samples to nothing
    """Yield a function that moves a progress bar. The bar is shown on a terminal without growing text."""
    if not (shown and err.is_terminal):
        yield lambda _samples: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("listening", total=total)
        yield lambda samples: progress.advance(task, samples)


def _record(path: Path, duration_s: float, wall_s: float, events: list[Event], job: Job) -> dict[str, object]:
    prompts = job.request.asked(job.model.config)
    record: dict[str, object] = {
        "file": str(path),
        "lang": languages(prompts),
        **_texts_record(texts(events, len(prompts)), job),
        "duration_s": round(duration_s, 3),
        "wall_s": round(wall_s, 3),
        "rtf": round(wall_s / duration_s, 4),
        "policy": _policy_record(job, 0),  # of the texts, which share it
    }
    if job.request.stream:
        record["events"] = [event_record(event, prompts) for event in events]
    return record


def _texts_record(written: Sequence[str], job: Job) -> dict[str, object]:
    """Return the texts of pairs, and the answers to questions with their policies, for JSON."""
    pairs: dict[str, str] = {}
    answers: list[dict[str, object]] = []
    for row, (prompt, text) in enumerate(zip(job.request.asked(job.model.config), written, strict=True)):
        if isinstance(prompt, Question):
            answers.append(prompt_record(prompt) | {"text": text, "policy": _policy_record(job, row)})
        else:
            pairs[str(prompt)] = text
    record: dict[str, object] = {}
    if len(pairs) == 1:
        record["text"] = written[0]
    elif pairs:
        record["texts"] = pairs
    if answers:
        record["answers"] = answers
    return record


def _policy_record(job: Job, row: int) -> dict[str, object]:
    from bestow_edge.runtime.records.trace import describe_prompt

    config = job.model.config
    chosen = job.request.right_context(config)
    lookahead = config.encoder.default_right_context if chosen is None else chosen
    policy = policy_record(describe_prompt(*job.request.prompts(config)[row]), lookahead)
    return policy if job.request.beam_size == 1 else policy | {"beam": job.request.beam_size}
