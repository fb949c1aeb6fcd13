"""Draws docs/terminal.svg: what two commands of README.md print, and at which moment of the audio each line appears.

    python docs/terminal_picture.py

The lines are the output of the real commands on the embedded model. The moments come from a session with the same
settings, whose text must equal that output. SVG is written as text; a viewer without animation shows all lines.
"""

from __future__ import annotations

import contextlib
import html
import io
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bestow_edge as be
from bestow_edge.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "terminal.svg"
AUDIO = "examples/audio/digits_en.wav"
PAIRS, POLICY, LOOKAHEAD = ("en-en", "en-de"), be.WaitK(3, 4), 6
OFFLINE = f"bestow-edge run {AUDIO} --lang en-de"
STREAM = f"bestow-edge run {AUDIO} --lang {','.join(PAIRS)} --stream --k {POLICY.k} --lookahead {LOOKAHEAD}"
BLOCK_S = 0.08

CELL, ROW, LEFT, TOP, EDGE = 8.4, 21, 20, 52, 10  # of a character, a line and the window, pixels
COLUMNS = 106
HOLD_S = 6.0  # the whole text stays this long before the recording starts again
PAPER, PROMPT, INK, DIM = "#1b2430", "#7fd48b", "#e8edf2", "#8a97a6"
FONT = 'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="14"'


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the terminal."""

    text: str
    colour: str
    heard_s: float
    """Seconds of audio that had been heard when it was written."""
    note: str = ""
    """Written at the right edge, not by the command."""


def output(command: str) -> list[str]:
    """Return what a command prints on stdout.

    Raises:
        SystemExit: the command failed.
    """
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(ROOT):
        try:
            main(shlex.split(command)[1:])
        except SystemExit as ended:
            if ended.code:
                raise
    return written.getvalue().splitlines()


def streamed() -> list[tuple[float, str]]:
    """Return the lines of the stream, each with the seconds of audio given before it."""
    model = be.load("demo")
    waveform = be.read_audio(ROOT / AUDIO, model.sample_rate_hz)
    block = round(BLOCK_S * model.sample_rate_hz)
    lines = []
    with model.multi_session([(pair, POLICY) for pair in PAIRS], lookahead=LOOKAHEAD) as session:
        for start in range(0, len(waveform) + block, block):
            ended = start >= len(waveform)
            events = session.finish() if ended else session.feed(waveform[start : start + block])
            heard_s = min(start + block, len(waveform)) / model.sample_rate_hz
            for number, pair in enumerate(PAIRS):
                of_pair = (event for event in events if isinstance(event, be.TextEvent) and event.prompt == number)
                if text := "".join(event.text for event in of_pair):
                    lines.append((heard_s, f"{pair}: {text}"))
    return lines


def recording() -> list[Line]:
    """Return all lines of the picture.

    Raises:
        SystemExit: the session and the command write different text.
    """
    moments = streamed()
    if output(STREAM) != [text for _, text in moments]:
        raise SystemExit(f"a session and the command differ: {STREAM}")
    lines = [Line(f"$ {OFFLINE}", PROMPT, 0), *(Line(text, INK, 0) for text in output(OFFLINE)), Line("", INK, 0)]
    lines += [Line(f"$ {STREAM}", PROMPT, 0)]
    return lines + [Line(text, INK, heard_s, f"after {heard_s:.2f} s of audio") for heard_s, text in moments]


def draw() -> str:
    """Return the picture as SVG."""
    lines = recording()
    width, height = round(2 * LEFT + COLUMNS * CELL), TOP + len(lines) * ROW + 12
    loop_s = lines[-1].heard_s + HOLD_S
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>bestow-edge run, offline and as a stream</title>",
        f"<desc>{html.escape(OFFLINE)}; {html.escape(STREAM)}</desc>",
        f"<style>{''.join(_animation(sorted({line.heard_s for line in lines if line.heard_s}), loop_s))}</style>",
        f'<rect width="{width}" height="{height}" rx="{EDGE}" fill="{PAPER}"/>',
        *(f'<circle cx="{24 + 20 * n}" cy="22" r="6" fill="{DIM}"/>' for n in range(3)),
    ]
    for number, line in enumerate(lines):
        parts += _line(line, TOP + number * ROW + 10, width)
    return "\n".join([*parts, "</svg>", ""])


def _animation(moments: list[float], loop_s: float) -> Iterator[str]:
    """Yield a rule for each moment: what is written then is hidden before, and all of it comes again and again."""
    yield "@media (prefers-reduced-motion: no-preference) {"
    for moment_s in moments:
        name, share = _name(moment_s), 100 * moment_s / loop_s
        yield f"@keyframes {name} {{ 0%, {share:.2f}% {{ opacity: 0 }} {share + 0.01:.2f}%, 100% {{ opacity: 1 }} }}"
        yield f".{name} {{ animation: {name} {loop_s:.2f}s infinite }}"
    yield "}"


def _name(moment_s: float) -> str:
    return f"t{round(1000 * moment_s)}"


def _line(line: Line, baseline: int, width: int) -> Iterator[str]:
    if line.text:
        group = f' class="{_name(line.heard_s)}"' if line.heard_s else ""
        text = html.escape(line.text)
        yield f'<text{group} x="{LEFT}" y="{baseline}" fill="{line.colour}" {FONT} xml:space="preserve">{text}</text>'
        if line.note:
            place = f'x="{width - LEFT}" y="{baseline}" text-anchor="end"'
            yield f'<text{group} {place} fill="{DIM}" {FONT}>{html.escape(line.note)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
