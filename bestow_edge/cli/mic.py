"""`bestow-edge mic`: live text from a microphone, until Ctrl-C. Knows the microphone, a session and signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import say
from bestow_edge.cli.show.delay import announce
from bestow_edge.cli.show.language import DetectedLanguage
from bestow_edge.core.errors import AudioDeviceError
from bestow_edge.core.request import Request

if TYPE_CHECKING:
    from bestow_edge.core.prompts import AboutSpeech
    from bestow_edge.runtime import Session
    from bestow_edge.runtime.audio.microphone import Microphone
    from bestow_edge.runtime.records.trace import Tracer


def mic(
    lang: options.Lang = None,
    ask: options.Ask = None,
    bundle: options.Bundle = None,
    mic_device: Annotated[
        str | None, typer.Option("--mic-device", metavar="NAME|INDEX", help="As `bestow-edge devices` lists it.")
    ] = None,
    policy: options.Policy = None,
    k: options.K = None,
    l: options.L = None,  # noqa: E741 - the paper's letter
    threshold: options.Threshold = None,
    lookahead: options.Lookahead = None,
    latency: options.Latency = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Stop after so much audio.")] = None,
    trace: options.Trace = None,
    as_json: options.Json = False,
    device_rate: Annotated[
        int | None, typer.Option(min=1, metavar="HZ", help="Sampling rate of the device; default: its own.")
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Write what is said into a microphone, as it is said.

    Ctrl-C stops listening, writes the rest and ends; a second one ends at once.
    On a terminal a line shows level, lag and whether the machine keeps up, and each pair has a line that grows.
    Elsewhere, with several pairs, what is new of each is a line of its own; put together they are its text.
    Questions are answered at the end, beside a pair also after each pause; with a policy or a latency as a stream.
    With --trace a second one, too, leaves what was heard in the file.
    With --latency the machine is measured first, for two seconds.

    \b
    Examples:
      bestow-edge mic
      bestow-edge mic --lang de-en --mic-device USB
      bestow-edge mic --lang en-en,en-de --policy local-agreement
      bestow-edge mic --lang en-en --ask "What is to be done?"
      bestow-edge mic --latency 2.5s
      bestow-edge mic --seconds 30 --json > events.jsonl
      bestow-edge mic --trace talk.trace
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    request = Request(
        lang=lang, ask=tuple(ask or ()), policy=policy, k=k, l=l, threshold=threshold, lookahead=lookahead,
        latency=latency,
    )  # fmt: skip
    from bestow_edge.runtime import load
    from bestow_edge.runtime.audio.microphone import Microphone
    from bestow_edge.runtime.calibration import calibrate
    from bestow_edge.runtime.records.trace import Tracer

    model = load(bundle, device=device, threads=threads)
    rate_hz = model.sample_rate_hz
    microphone = Microphone(mic_device, sample_rate_hz=rate_hz, device_rate_hz=device_rate, seconds=seconds)
    announce(request, model, calibrate)
    session = model.open(request) if trace is None else Tracer(model.open(request), trace)
    with session, microphone, _stopped_by_ctrl_c(microphone):
        asked = request.asked(model.config)
        source = f"{microphone.device} at {microphone.device_rate_hz} Hz"
        say(f"listening to {source}, {', '.join(map(str, asked))}; Ctrl-C ends")
        _listen(microphone, session, asked, as_json=as_json)
    _say_lost(microphone)


def _listen(microphone: Microphone, session: Session | Tracer, asked: Sequence[AboutSpeech], *, as_json: bool) -> None:
    """Show text until the microphone ends, however it ends; nothing that was heard is lost."""
    from bestow_edge.cli.show.captions import Captions, Status, level_db

    started_s, rate_hz = time.monotonic(), session.sample_rate_hz
    num_samples, detected = 0, DetectedLanguage(session, as_json=as_json)
    with Captions(asked, as_json=as_json) as captions:
        try:
            for block in microphone:
                events = session.feed(block)
                num_samples += len(block)
                detected.show()
                audio_s, wall_s = num_samples / rate_hz, time.monotonic() - started_s
                captions.add(events, audio_s, wall_s)
                captions.show(Status(level_db(block), microphone.waiting_s, audio_s, microphone.num_overflows))
        except AudioDeviceError:
            captions.add(session.finish(), num_samples / rate_hz, time.monotonic() - started_s)
            raise
        events = session.finish()
        detected.show()
        captions.add(events, num_samples / rate_hz, time.monotonic() - started_s)


@contextmanager
def _stopped_by_ctrl_c(microphone: Microphone) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        microphone.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say_lost(microphone: Microphone) -> None:
    if microphone.num_overflows:
        say(f"warning: audio was lost {microphone.num_overflows} times because the machine did not keep up")
    if microphone.num_dropped_blocks:
        say(f"warning: {microphone.num_dropped_blocks} recorded blocks were not used")
