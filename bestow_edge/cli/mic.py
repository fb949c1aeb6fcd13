"""`bestow-edge mic`: live text from a microphone until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.interrupts import stopped_by_signals
from bestow_edge.cli.show.console import libraries_silenced, say, say_warning
from bestow_edge.cli.show.delay import announce
from bestow_edge.cli.show.language import DetectedLanguage
from bestow_edge.core.errors import AudioDeviceError
from bestow_edge.core.request import Request

if TYPE_CHECKING:
    from bestow_edge.core.prompts import AboutSpeech
    from bestow_edge.runtime import Session
    from bestow_edge.runtime.audio.microphone import Microphone
    from bestow_edge.runtime.records.trace import Tracer

MicDevice = Annotated[
    str | None,
    typer.Option(
        "--mic-device",
        metavar="NAME|INDEX",
        help="Microphone: index or part of the name in `bestow-edge devices`; default: the system's.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", min=0, metavar="S", help="Stop after S seconds of audio; default: at Ctrl-C."),
]
DeviceRate = Annotated[
    int | None,
    typer.Option("--device-rate", min=1, metavar="HZ", help="Sampling rate of the microphone; default: its own."),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for a microphone that is not there yet, or that was unplugged.")
]


def mic(
    lang: options.Lang = None,
    ask: options.Ask = None,
    bundle: options.Bundle = None,
    mic_device: MicDevice = None,
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
    seconds: Seconds = None,
    wait: Wait = False,
    trace: options.Trace = None,
    as_json: options.Json = False,
    device_rate: DeviceRate = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Write live text from a microphone.

    Ctrl-C or SIGTERM stops the recording and writes the rest of the text. A second one ends at once.
    A terminal shows a growing line for each text, and a line with level, lag and seconds of audio.
    Elsewhere, several texts have a labelled line for each new piece; the pieces, joined, are the text.
    Questions are answered at the end and, beside a pair, after each pause.
    With --policy, --k, --l, --threshold or --latency, they are answered as a stream.
    With --trace, the file has all audio so far even after a second Ctrl-C.
    With --latency, a measurement of this machine comes first and takes two seconds.

    Examples:
      bestow-edge mic
      bestow-edge mic --lang de-en --mic-device USB
      bestow-edge mic --lang en-en,en-de --policy local-agreement
      bestow-edge mic --lang en-en --ask "What is to be done?"
      bestow-edge mic --seconds 30 --json > events.jsonl
      bestow-edge mic --trace talk.trace
    """
    request = Request(
        lang=lang, ask=tuple(ask or ()), policy=policy, k=k, l=l, threshold=threshold, delay=delay, latency=latency,
        blank_bias=blank_bias, lookahead=lookahead, hotwords=options.chosen_hotwords(hotwords, hotword_weight),
    )  # fmt: skip
    from bestow_edge.runtime import load
    from bestow_edge.runtime.audio.microphone import Microphone
    from bestow_edge.runtime.calibration import calibrate
    from bestow_edge.runtime.records.trace import Tracer

    model = load(options.chosen_bundle(bundle, request), device=device, threads=threads)
    microphone = Microphone(
        mic_device, sample_rate_hz=model.sample_rate_hz, device_rate_hz=device_rate, seconds=seconds, wait=wait
    )
    announce(request, model, calibrate)
    opened = model.open(request)
    tracer = opened if trace is None else Tracer(opened, trace)
    with libraries_silenced(), tracer as session, microphone, stopped_by_signals(microphone):
        _listen(microphone, session, request.asked(model.config), as_json=as_json)
    _warn_of_lost_audio(microphone)


def _listen(
    microphone: Microphone, session: Session | Tracer, prompts: Sequence[AboutSpeech], *, as_json: bool
) -> None:
    """Show text until the microphone stops. If it fails, the text of all audio so far is shown before the error."""
    from bestow_edge.cli.show.captions import Captions, Status, level_db

    source = f"{microphone.device} at {microphone.device_rate_hz} Hz"
    say(f"listening to {source}, {', '.join(map(str, prompts))}; Ctrl-C ends")
    started_s, rate_hz = time.monotonic(), session.sample_rate_hz
    num_samples, detected = 0, DetectedLanguage(session, as_json=as_json)
    with Captions(prompts, as_json=as_json) as captions:
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


def _warn_of_lost_audio(microphone: Microphone) -> None:
    if microphone.num_overflows:
        say_warning(f"audio was lost {microphone.num_overflows} times because the machine did not keep up")
    if microphone.num_dropped_blocks:
        say_warning(f"{microphone.num_dropped_blocks} recorded blocks were not used")
