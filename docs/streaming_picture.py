"""Draws docs/streaming.svg: the encoder steps that each answer token sees, and the moment when it can be written.

    python docs/streaming_picture.py

The steps come from `bestow_edge.core.policy`, as in training and the live loop. SVG is written as text. The picture
shows neither audio nor models nor pauses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.policy import Offline, Policy, WaitK, visible_steps
from bestow_edge.core.specs.chunked import ChunkedConfig

STEP_S = ChunkedConfig.frames_per_step * FeatureConfig().frame_s
NUM_STEPS = 42  # encoder steps of the utterance: three chunks of look-ahead 13
NUM_TOKENS = 8

CELL, ROW = 13, 15  # width of a step and height of a token, pixels
LEFT, RIGHT, TOP, HEAD, GAP = 64, 84, 58, 26, 16  # margins, room above and below a panel, pixels
SEEN, HEARD, AHEAD, BORDER, INK = "#2f6fb5", "#b9d3ee", "#eeeeee", "#c0392b", "#222222"
STYLE = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One way to stream."""

    title: str
    policy: Policy
    lookahead: int
    """Right context, steps; a chunk has one step more."""


PANELS = (
    Panel("wait-k: K = 3, L = 4, look-ahead 13", WaitK(3, 4), 13),
    Panel("wait-k: K = 3, L = 4, look-ahead 1", WaitK(3, 4), 1),
    Panel("offline, look-ahead 13", Offline(), 13),
)


def heard_steps(seen: int, lookahead: int) -> int:
    """Return the steps that have been heard when a token that sees `seen` of them is written: whole chunks."""
    chunk_steps = lookahead + 1
    return min(-(-seen // chunk_steps) * chunk_steps, NUM_STEPS)


def draw() -> str:
    """Return the picture as SVG."""
    width = LEFT + NUM_STEPS * CELL + RIGHT
    panel_height = HEAD + NUM_TOKENS * ROW + GAP
    height = TOP + len(PANELS) * panel_height + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>Encoder steps that each answer token sees</title>",
        "<desc>For each answer token: steps it sees, steps heard but not shown to it, steps not heard yet</desc>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(),
    ]
    for number, panel in enumerate(PANELS):
        lines += _panel(panel, TOP + number * panel_height)
    lines += _axis(TOP + len(PANELS) * panel_height)
    return "\n".join([*lines, "</svg>", ""])


def _legend() -> Iterator[str]:
    entries = (("seen by the token", SEEN), ("heard, not shown to it", HEARD), ("not heard yet", AHEAD))
    for number, (label, colour) in enumerate(entries):
        left = LEFT + 170 * number
        yield _box(left, 12, CELL, ROW - 2, colour)
        yield _text(left + CELL + 6, 23, label)
    yield _line(LEFT + 510, 10, ROW + 2)
    yield _text(LEFT + 518, 23, "chunk ends")
    yield _text(
        LEFT, 44, "columns: encoder steps of 80 ms; rows: answer tokens; right: heard when the token is written"
    )


def _panel(panel: Panel, top: int) -> Iterator[str]:
    yield _text(LEFT, top + 17, panel.title, weight="bold")
    top += HEAD
    seen = visible_steps(panel.policy, prompt_tokens=1, text_tokens=NUM_TOKENS, source_steps=NUM_STEPS).tolist()
    for token, steps in enumerate(seen):
        upper, heard = top + token * ROW, heard_steps(steps, panel.lookahead)
        yield _text(LEFT - 8, upper + 12, f"token {token}", anchor="end")
        for start, end, colour in ((0, steps, SEEN), (steps, heard, HEARD), (heard, NUM_STEPS, AHEAD)):
            if end > start:
                yield _box(LEFT + start * CELL, upper, (end - start) * CELL, ROW - 2, colour)
        yield _text(LEFT + NUM_STEPS * CELL + 8, upper + 12, f"{heard * STEP_S:.2f} s")
    grid = " ".join(f"M{LEFT + step * CELL} {top}v{NUM_TOKENS * ROW}" for step in range(1, NUM_STEPS))
    yield f'<path d="{grid}" stroke="#ffffff"/>'
    for step in range(panel.lookahead + 1, NUM_STEPS + 1, panel.lookahead + 1):
        yield _line(LEFT + step * CELL, top - 3, NUM_TOKENS * ROW + 4)


def _axis(top: int) -> Iterator[str]:
    for step in range(0, NUM_STEPS, 14):
        yield _text(LEFT + step * CELL, top + 4, f"{step} steps = {step * STEP_S:.2f} s" if step else "0", "middle")
    yield _text(LEFT + NUM_STEPS * CELL + RIGHT - 8, top + 4, f"{NUM_STEPS * STEP_S:.2f} s: the audio ends", "end")


def _box(left: float, top: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="{colour}"/>'


def _line(left: float, top: float, height: float) -> str:
    return f'<rect x="{left - 0.75}" y="{top}" width="1.5" height="{height}" fill="{BORDER}"/>'


def _text(left: float, base: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{left}" y="{base}" text-anchor="{anchor}" font-weight="{weight}" fill="{INK}" {STYLE}>{text}</text>'
    )


if __name__ == "__main__":
    Path(__file__).with_name("streaming.svg").write_text(draw(), encoding="utf-8")
