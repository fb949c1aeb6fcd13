"""Traces: one stream of audio with its decisions and events, in one file. `replay` runs it again.

A trace is a zip file without pickled objects:

    header.json     format, versions, bundle, prompts, policies, look-ahead, segment settings, hotwords
    samples.f32     the audio as it was fed, float32, little-endian
    feeds.npy       samples, start and duration of each `feed`, and of `finish` where the stream was finished
    decisions.npy   every `Decision`
    events.json     the events

Samples are written to disk at once, so a trace of hours needs little memory.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from bestow_edge import __version__
from bestow_edge.core.archives import DAMAGE, check_size, read_array
from bestow_edge.core.bundle import MANIFEST_FILE
from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError, TraceError
from bestow_edge.core.files import sha256, temporary_path
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.json_text import parse_json, parse_object
from bestow_edge.core.policy import POLICIES, Policy
from bestow_edge.core.prompts import AboutSpeech, Question, parse_pair
from bestow_edge.core.ranges import check_ranges
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import Decision, Event, SegmentEvent, TextEvent
from bestow_edge.runtime.stream.session import Session

FORMAT = "bestow-edge-trace"
FORMAT_VERSION = 1
HEADER, SAMPLES, FEEDS, DECISIONS, EVENTS = "header.json", "samples.f32", "feeds.npy", "decisions.npy", "events.json"
SAMPLE = np.dtype("<f4")
FEED = np.dtype([("samples", "<i8"), ("start_s", "<f8"), ("wall_s", "<f8")])
DECISION = np.dtype(
    [
        ("time_s", "<f8"),
        ("prompt", "<i8"),
        ("segment", "<i8"),
        ("visible_steps", "<i8"),
        ("token_id", "<i8"),
        ("log_prob", "<f8"),
        ("verdict", "<U6"),
    ]
)
MOST_BYTES = 200_000_000_000  # a month of audio at 16 kHz
MOST_TEXT_BYTES = 2_000_000_000  # of the members that are read whole


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedPrompt:
    """A prompt and its policy, as plain values."""

    pair: str
    """Language pair; of a question the language of the speech."""
    policy: str
    """Name in `POLICIES`, or the class of a custom policy."""
    fields: dict[str, Any]  # Any: each policy has its own
    """The policy's fields; empty for a custom policy."""
    question: str = ""
    """The question; empty for a language pair."""

    @property
    def asked(self) -> AboutSpeech:
        """The language pair or the question.

        Raises:
            PromptError: if a language is unknown.
        """
        return Question(self.pair, self.question) if self.question else parse_pair(self.pair, auto=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceHeader:
    """Content of `header.json`."""

    version: str
    """Of bestow-edge."""
    checkpoint_sha256: str
    """Of the weights the bundle was made from."""
    bundle_sha256: str
    """Of the bundle's manifest, which holds the hashes of its files."""
    sample_rate_hz: int
    """Rate of the samples."""
    prompts: tuple[TracedPrompt, ...]
    """Prompts and their policies."""
    lookahead: int
    """Right context of the encoder, steps."""
    segments: SegmentConfig
    """When segments ended."""
    beam_size: int
    """As for `Model.session`."""
    hotwords: tuple[Hotword, ...] = ()
    """As for `Model.session`."""
    finished: bool
    """Whether the session was finished; otherwise it was interrupted and its last text is missing."""


class Tracer:
    """Runs a session and writes its audio, decisions, events and times to a file.

    with Tracer(model.session(source="en"), "talk.trace") as session: session.feed(block); session.finish()

    The complete file appears at the end of the block, also after an error; without audio there is no file.
    """

    def __init__(self, session: Session, path: str | PathLike[str]) -> None:
        """Begin a trace of a fresh session in a new file.

        Raises:
            TraceError: if the file exists, or its directory does not.
        """
        self.session, self.path = session, Path(path)
        if self.path.exists():
            raise TraceError(f"{self.path} exists; a trace replaces no file, choose another name")
        if not self.path.parent.is_dir():
            raise TraceError(f"{self.path}: no such directory, {self.path.parent}; make it first")
        self._partial = temporary_path(self.path.absolute())
        self._archive = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._samples: IO[bytes] | None = self._archive.open(SAMPLES, "w", force_zip64=True)
        self._feeds: list[tuple[int, float, float]] = []
        self._events: list[Event] = []
        self._decisions: list[Decision] = []
        self._num_decisions = 0  # decisions of the calls that returned
        self._finished = False
        self._began_s = time.perf_counter()
        session.on_decision = self._decisions.append

    def __enter__(self) -> Tracer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self.session.__exit__(kind, error, trace)

    def feed(self, samples: npt.NDArray[np.float32]) -> list[Event]:
        """Call `Session.feed`; the trace leaves out a block that raised an error or was interrupted."""
        started_s = time.perf_counter()
        events = self.session.feed(samples)
        self._note(samples, started_s, events)
        return events

    def finish(self) -> list[Event]:
        """Call `Session.finish`."""
        started_s = time.perf_counter()
        events = self.session.finish()
        self._note(np.empty(0, dtype=np.float32), started_s, events)
        self._finished = True
        return events

    @property
    def sample_rate_hz(self) -> int:
        """Rate that `feed` expects."""
        return self.session.sample_rate_hz

    @property
    def language(self) -> str | None:
        """See `Session.language`."""
        return self.session.language

    def close(self) -> None:
        """Complete the file; a second call does nothing."""
        if self._samples is None:
            return
        self.session.on_decision = None
        try:
            self._samples.close()
            self._samples = None
            with self._archive:
                self._write_rest()
            if self._feeds:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _note(self, samples: npt.NDArray[np.float32], started_s: float, events: list[Event]) -> None:
        if self._samples is None:
            raise TraceError(f"{self.path}: the trace was closed before the session; feed it inside the with block")
        wall_s = time.perf_counter() - started_s
        self._samples.write(samples.astype(SAMPLE).tobytes())
        self._feeds.append((samples.size, started_s - self._began_s, wall_s))
        self._events += events
        self._num_decisions = len(self._decisions)

    def _write_rest(self) -> None:
        document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self._header())}
        self._archive.writestr(HEADER, json.dumps(document, indent=2))
        self._archive.writestr(EVENTS, json.dumps([_event_record(event) for event in self._events]))
        decisions = [astuple(decision) for decision in self._decisions[: self._num_decisions]]
        for name, rows in ((FEEDS, np.array(self._feeds, FEED)), (DECISIONS, np.array(decisions, DECISION))):
            with self._archive.open(name, "w") as file:
                np.lib.format.write_array(file, rows, allow_pickle=False)

    def _header(self) -> TraceHeader:
        session = self.session
        return TraceHeader(
            version=__version__,
            checkpoint_sha256=session.model.manifest.checkpoint_sha256,
            bundle_sha256=_bundle_sha256(session.model),
            sample_rate_hz=session.model.sample_rate_hz,
            prompts=tuple(describe_prompt(prompt.asked, prompt.policy) for prompt in session.prompts),
            lookahead=session.lookahead,
            segments=session.segments,
            beam_size=session.beam_size,
            hotwords=session.hotwords,
            finished=self._finished,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A trace from a file; the audio stays in the file."""

    path: Path
    header: TraceHeader
    feeds: npt.NDArray[np.void]
    """(feeds,) samples, start_s since the trace began and wall_s of each; after `finish` it is the last one."""
    decisions: npt.NDArray[np.void]
    """(decisions,) with the fields of `Decision`."""
    events: tuple[Event, ...]

    @property
    def duration_s(self) -> float:
        """Length of the audio, seconds."""
        return int(self.feeds["samples"].sum()) / self.header.sample_rate_hz

    @property
    def policies(self) -> list[Policy]:
        """Policies of the prompts.

        Raises:
            TraceError: if a policy is not in `POLICIES`.
        """
        return [self._policy(prompt) for prompt in self.header.prompts]

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the blocks of audio, (samples,) float32 each."""
        sizes = self.feeds["samples"][: len(self.feeds) - self.header.finished]
        with zipfile.ZipFile(self.path) as archive, archive.open(SAMPLES) as file:
            for size in sizes.tolist():
                yield np.frombuffer(file.read(size * SAMPLE.itemsize), SAMPLE).astype(np.float32)

    def same_bundle(self, model: Model) -> bool:
        """Return whether a bundle is the recorded one."""
        return self.header.bundle_sha256 == _bundle_sha256(model)

    def check_bundle(self, model: Model) -> None:
        """Check that a bundle is the recorded one.

        Raises:
            TraceError: if the bundle is another one.
        """
        remedy = "name the recorded one with --bundle, or compare the two with --any-bundle"
        for part, recorded, got in (
            ("checkpoint", self.header.checkpoint_sha256, model.manifest.checkpoint_sha256),
            ("bundle (of the same checkpoint)", self.header.bundle_sha256, _bundle_sha256(model)),
        ):
            if recorded != got:
                found = f"{model.directory} has {got[:12]}"
                raise TraceError(f"{self.path}: recorded with {part} {recorded[:12]}, {found}; {remedy}")

    def _policy(self, prompt: TracedPrompt) -> Policy:
        if prompt.policy not in POLICIES:
            known = ", ".join(POLICIES)
            raise TraceError(f"{self.path}: recorded with policy {prompt.policy}; replay it with one of {known}")
        try:
            return decode(POLICIES[prompt.policy], prompt.fields, prompt.policy)
        except ValueError as error:
            raise TraceError(f"{self.path}: {error}; it was altered, record it again") from error


def read_trace(path: str | PathLike[str]) -> Trace:
    """Read a trace and check that it is complete.

    Raises:
        TraceError: if the file is missing, truncated, altered, no trace, or of another format version.
    """
    file = Path(path)
    if not file.is_file():
        raise TraceError(f"{file}: no such file; expected a trace, as --trace records it")
    try:
        with zipfile.ZipFile(file) as archive:
            check_size(archive, MOST_BYTES)
            _check_members(archive)
            header = _read_header(file, archive)
            if altered := archive.testzip():
                raise ConfigError(f"{altered}: the checksum differs")
            trace = Trace(
                path=file,
                header=header,
                feeds=_read_array(archive, FEEDS, FEED),
                decisions=_read_array(archive, DECISIONS, DECISION),
                events=_read_events(archive),
            )
            _check_feeds(trace, archive.getinfo(SAMPLES).file_size)
    except TraceError:
        raise
    except DAMAGE as error:
        raise TraceError(f"{file}: not a trace, or truncated or altered ({error}); copy or record it again") from error
    return trace


def describe_prompt(asked: AboutSpeech, policy: Policy) -> TracedPrompt:
    """Return a prompt and its policy as plain values."""
    pair, question = (asked.source, asked.text) if isinstance(asked, Question) else (str(asked), "")
    for name, kind in POLICIES.items():
        if type(policy) is kind:
            fields = asdict(policy)  # type: ignore[call-overload]  # see POLICIES
            return TracedPrompt(pair=pair, policy=name, fields=fields, question=question)
    return TracedPrompt(pair=pair, policy=type(policy).__qualname__, fields={}, question=question)


def _bundle_sha256(model: Model) -> str:
    return sha256(model.directory / MANIFEST_FILE)


def _event_record(event: Event) -> dict[str, object]:
    kind: Literal["text", "segment"] = "text" if isinstance(event, TextEvent) else "segment"
    return {"event": kind, **asdict(event)}


def _check_members(archive: zipfile.ZipFile) -> None:
    for member in archive.infolist():
        if member.filename != SAMPLES and member.file_size > MOST_TEXT_BYTES:
            got = f"{member.filename} unfolds to {member.file_size} bytes"
            raise ConfigError(f"{got}, expected at most {MOST_TEXT_BYTES}")


def _read_events(archive: zipfile.ZipFile) -> tuple[Event, ...]:
    records = parse_json(archive.read(EVENTS), EVENTS)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ConfigError(f"{EVENTS}: expected a list of JSON objects")
    return tuple(_read_event(record) for record in records)


def _read_event(record: dict[str, Any]) -> Event:  # Any: JSON
    if record.pop("event") == "text":
        return decode(TextEvent, record, EVENTS)
    return decode(SegmentEvent, record, EVENTS)


def _read_header(path: Path, archive: zipfile.ZipFile) -> TraceHeader:
    document = parse_object(archive.read(HEADER), HEADER) if HEADER in archive.namelist() else {}
    if document.pop("format", None) != FORMAT:
        raise TraceError(f"{path}: not a trace; expected a file as --trace records it")
    if (version := document.pop("format_version", None)) != FORMAT_VERSION:
        raise TraceError(f"{path}: trace format {version}, expected {FORMAT_VERSION}; replay it with its own release")
    return decode(TraceHeader, document, HEADER)


def _read_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    rows: npt.NDArray[np.void] = read_array(archive, name)
    if rows.dtype != dtype or rows.ndim != 1:
        raise ConfigError(f"{name} is {rows.dtype} {rows.shape}")
    return rows


def _check_feeds(trace: Trace, num_bytes: int) -> None:
    sizes = trace.feeds["samples"]
    check_ranges(HEADER, trace.header, sample_rate_hz=(1, 1_000_000), lookahead=(0, 100_000), beam_size=(1, 10_000))
    if sizes.size and int(sizes.max()) * SAMPLE.itemsize > num_bytes:
        raise ConfigError(f"{FEEDS} has a block of {int(sizes.max())} samples")  # the sum below may overflow
    if not sizes.size or sizes.min() < 0 or int(sizes.sum()) * SAMPLE.itemsize != num_bytes:
        raise ConfigError(f"{SAMPLES} has {num_bytes} bytes, {FEEDS} {int(sizes.sum())} samples")
