"""`bestow-edge run`: writes the text of audio files and pipes, offline or as a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestow_edge.cli import options
from bestow_edge.cli.inputs import Input, find_inputs
from bestow_edge.cli.interrupts import stopped_by_signals
from bestow_edge.cli.outputs import Output, choose_output
from bestow_edge.cli.show.console import err, say, say_error, to_json, write, write_json
from bestow_edge.cli.show.delay import announce
from bestow_edge.cli.show.language import DetectedLanguage
from bestow_edge.cli.show.prompts import labels, languages, policy_record, prompt_record
from bestow_edge.cli.show.texts import StreamedCues, StreamedTexts, cue_records, event_record, texts
from bestow_edge.core.errors import AudioError, ConfigError, SessionError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.formats import TextFormat
from bestow_edge.core.prompts import AUTO, Question
from bestow_edge.core.request import Request

if TYPE_CHECKING:
    from bestow_edge.runtime import Event, Model, Session
    from bestow_edge.runtime.audio.files import Audio, PipedAudio
    from bestow_edge.runtime.records.trace import Tracer

FEED_S = 10.0  # audio between two steps of the progress bar
STEP_S = 0.08  # audio between two steps of a stream: one encoder step


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Settings for all files."""

    model: Model
    request: Request
    trace: Path | None
    output: Output
    raw_rate_hz: int | None
    prefixed: bool
    """Whether each line begins with its file's name."""


@dataclass(slots=True)
class Heard:
    """What was fed of a recording."""

    duration_s: float = 0.0
    wall_s: float = 0.0


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="Audio of any sampling rate: wav, flac, ogg, mp3; with the extra media or ffmpeg also mp4, m4a, aac, "
        "mkv, webm. A folder, a pattern, a named pipe, or - for standard input.",
    ),
]
Stream = Annotated[bool, typer.Option("--stream", help="Write text while listening, not at the end.")]
Form = Annotated[
    TextFormat | None, typer.Option("--format", help="Form of the text; default: the suffix of --output, or txt.")
]
OutputPath = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE|FOLDER", help="Write files; a folder gets one for each text."),
]
Raw = Annotated[
    int | None,
    typer.Option("--raw", metavar="HZ", help="The audio has no header: 16-bit little-endian mono samples of HZ."),
]
Beam = Annotated[
    int, typer.Option("--beam", min=1, metavar="N", help="Hypotheses of the search; 1: greedy. Not with --stream.")
]


def run(
    files: Files,
    lang: options.Lang = None,
    ask: options.Ask = None,
    bundle: options.Bundle = None,
    stream: Stream = False,
    form: Form = None,
    output: OutputPath = None,
    raw: Raw = None,
    policy: options.Policy = None,
    k: options.K = None,
    l: options.L = None,  # noqa: E741 - the paper's letter
    threshold: options.Threshold = None,
    delay: options.Delay = None,
    blank_bias: options.BlankBias = None,
    lookahead: options.Lookahead = None,
    latency: options.Latency = None,
    hotwords: options.Hotwords = None,
    hotword_weight: options.HotwordWeight = None,
    beam: Beam = 1,
    trace: options.Trace = None,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Write the text of audio: a line for each sentence, or for what is spoken between two pauses.

    With --stream, text is written while the audio is read, also from a pipe whose audio still comes.
    Several pairs and questions have labelled lines. With --stream each new piece is a line; joined, they are the text.
    Questions are answered after all audio, or as a stream with --stream and --policy, --k, --l, --threshold, --latency.
    Ctrl-C or SIGTERM ends a pipe, and the rest of its text is written. A second one ends at once.
    A file that cannot be read is reported. The other files are read, and the exit code is 2.

    Examples:
      bestow-edge run talk.wav
      bestow-edge run talk.mp4 --output talk.srt
      bestow-edge run recordings/ --format vtt --output subtitles/
      bestow-edge run talk.wav --lang en-en,en-de
      bestow-edge run talk.wav --lang en --ask "Who is speaking?" --ask "What was decided?"
      bestow-edge run talk.wav --stream --policy align-att --threshold 6
      bestow-edge run talk.wav --stream --latency 2.5s --trace talk.trace
      bestow-edge run talk.wav --hotwords "Nemotron, Heidelberg"
      bestow-edge run *.wav --lang en-en --json
      ffmpeg -v error -i talk.mp4 -f wav - | bestow-edge run - --stream
    """
    words = options.chosen_hotwords(hotwords, hotword_weight)
    request = Request(
        lang=lang, ask=tuple(ask or ()), stream=stream, policy=policy, k=k, l=l, threshold=threshold, delay=delay,
        blank_bias=blank_bias, lookahead=lookahead, latency=latency, beam_size=beam, hotwords=words,
    )  # fmt: skip
    inputs = find_inputs(files)
    if trace is not None and not (stream and len(inputs) == 1):
        raise typer.BadParameter("--trace records one file with --stream: give one FILE and --stream")
    from bestow_edge.runtime import load

    model = load(options.chosen_bundle(bundle, request), device=device, threads=threads)
    announce(request, model)
    chosen = choose_output(output, form, as_json=as_json, inputs=inputs, num_texts=len(request.asked(model.config)))
    job = Job(model=model, request=request, trace=trace, output=chosen, raw_rate_hz=raw, prefixed=len(inputs) > 1)
    _run_all(inputs, job)


def _run_all(inputs: Sequence[Input], job: Job) -> None:
    """Write the texts of all inputs; a wrong pair, question or look-ahead is refused before any file is read."""
    job.model.open(job.request)
    _check_times(job)
    failed = [item for item in inputs if not _try_input(item, job)]
    if failed:
        raise typer.Exit(2)


def _check_times(job: Job) -> None:
    """Refuse subtitles of a model that does not show when a word was spoken."""
    from bestow_edge.core.connectors import CONNECTORS

    kind = job.model.config.connector.kind
    if job.output.timed and not job.request.stream and not CONNECTORS[kind].aligned:
        raise ConfigError(
            f"--format {job.output.form}: a model with connector {kind} does not show when a word was spoken; "
            "add --stream for the times at which it was written, or take --format txt"
        )


def _try_input(item: Input, job: Job) -> bool:
    """Write the text of one recording; return False after an error, which is printed."""
    try:
        with item.open(job.model.sample_rate_hz, job.raw_rate_hz) as audio, _ended_by_signals(audio):
            _write(item, audio, job)
    except (AudioError, SessionError, OSError) as error:
        say_error(error if str(item) in str(error) else SessionError(f"{item}: {error}"))
        return False
    return True


def _write(item: Input, audio: Audio | PipedAudio, job: Job) -> None:
    from bestow_edge.runtime.records.trace import Tracer

    prefix, prompts = f"{item}: " if job.prefixed else "", job.request.asked(job.model.config)
    opened, heard = job.model.open(job.request), Heard()
    with opened if job.trace is None else Tracer(opened, job.trace) as session:
        batches = _feed(session, audio, heard, job, prefix)
        if job.output.path is None and (job.output.timed or (job.request.stream and job.output.form == "txt")):
            _write_growing(
                batches, StreamedCues(job.output.form) if job.output.timed else StreamedTexts(prompts, prefix)
            )
            return
        events = [event for batch in batches for event in batch]
    record: dict[str, object] = {}
    if job.output.form == "json":
        record = _record(item, heard, events, job)
        record |= {"language": session.language} if prompts[0].source == AUTO else {}
    if job.output.path is not None:
        _write_files(item, events, record, job)
    elif record:
        write_json(record)
    else:
        _write_lines(events, [prefix + label for label in labels(prompts)])


def _ended_by_signals(audio: Audio | PipedAudio) -> AbstractContextManager[None]:
    from bestow_edge.runtime.audio.files import PipedAudio

    return stopped_by_signals(audio) if isinstance(audio, PipedAudio) else nullcontext()


def _write_growing(batches: Iterator[list[Event]], streamed: StreamedTexts | StreamedCues) -> None:
    first = next(batches)  # nothing is written of a file that cannot be read
    streamed.begin()
    try:
        for events in chain([first], batches):
            streamed.add(events)
    finally:
        streamed.end()


def _write_lines(events: Sequence[Event], prefixes: Sequence[str]) -> None:
    from bestow_edge.runtime.records.subtitles import Lines

    for prompt, prefix in enumerate(prefixes):
        for line in Lines(prompt).add(events).split("\n"):
            write(prefix + line)


def _write_files(item: Input, events: Sequence[Event], record: dict[str, object], job: Job) -> None:
    """Write the file of each text, complete or not at all."""
    from bestow_edge.runtime.records.subtitles import document

    for prompt, path in enumerate(job.output.paths(item, job.request.asked(job.model.config))):
        path.parent.mkdir(parents=True, exist_ok=True)
        form = job.output.form
        write_atomically(path, to_json(record) if form == "json" else document(events, prompt, form))
        say(f"{item}: written to {path}")


def _feed(
    session: Session | Tracer, audio: Audio | PipedAudio, heard: Heard, job: Job, prefix: str
) -> Iterator[list[Event]]:
    """Feed a recording step by step and yield the events of each. The size of steps never changes the text."""
    from bestow_edge.runtime.audio.files import steps

    started_s, rate_hz = time.perf_counter(), job.model.sample_rate_hz
    step_samples = round((STEP_S if job.request.stream else FEED_S) * rate_hz)
    growing = job.request.stream and job.output.form == "txt" and job.output.path is None
    with _bar(audio.length_s, shown=not growing) as advance:
        detected = DetectedLanguage(session, prefix)
        for block in chain(steps(audio, step_samples), [None]):
            events = session.finish() if block is None else session.feed(block)
            if job.output.form != "json":
                detected.show()
            seconds = 0.0 if block is None else len(block) / rate_hz
            heard.duration_s, heard.wall_s = heard.duration_s + seconds, time.perf_counter() - started_s
            yield events
            advance(seconds)


@contextmanager
def _bar(total_s: float | None, *, shown: bool) -> Iterator[Any]:  # Any: a function from seconds to nothing
    """Yield a function that moves a progress bar. The bar is shown on a terminal without growing text."""
    if not (shown and err.is_terminal):
        yield lambda _seconds: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("listening", total=total_s)
        yield lambda seconds: progress.advance(task, seconds)


def _record(item: Input, heard: Heard, events: list[Event], job: Job) -> dict[str, object]:
    prompts = job.request.asked(job.model.config)
    record: dict[str, object] = {
        "file": str(item.path),
        "lang": languages(prompts),
        **_texts_record(events, job),
        "duration_s": round(heard.duration_s, 3),
        "wall_s": round(heard.wall_s, 3),
        "rtf": round(heard.wall_s / heard.duration_s, 4) if heard.duration_s else None,
        "policy": _policy_record(job, 0),  # of the texts, which share it
    }
    if job.request.stream:
        record["events"] = [event_record(event, prompts) for event in events]
    return record


def _texts_record(events: Sequence[Event], job: Job) -> dict[str, object]:
    """Return the texts of pairs, and the answers to questions with their policies, for JSON."""
    prompts, pairs, cues = job.request.asked(job.model.config), {}, {}
    answers: list[dict[str, object]] = []
    for row, (prompt, text) in enumerate(zip(prompts, texts(events, len(prompts)), strict=True)):
        if isinstance(prompt, Question):
            answers.append(prompt_record(prompt) | {"text": text, "policy": _policy_record(job, row)})
        else:
            pairs[str(prompt)], cues[str(prompt)] = text, cue_records(events, row)
    record: dict[str, object] = {}
    if len(pairs) == 1:
        record |= {"text": next(iter(pairs.values())), "cues": next(iter(cues.values()))}
    elif pairs:
        record |= {"texts": pairs, "cues": cues}
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
