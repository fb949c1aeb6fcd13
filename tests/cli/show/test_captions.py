"""Captions on a terminal, as it looks there: growing lines above the status line, full ones above those."""

import io
import re
from contextlib import redirect_stdout

import pytest
from rich.console import Console

from bestow_edge.cli.show import captions
from bestow_edge.cli.show.captions import Captions, GrowingLine, Status
from bestow_edge.core.prompts import parse_pairs
from bestow_edge.runtime import Event, SegmentEvent, TextEvent

WIDTH = 32
STATUS = Status(-30.0, 0.2, 12.34)
CUT = str(STATUS)[:WIDTH].rstrip()


class Terminal(io.StringIO):
    """Both streams of a command."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Return the lines it shows, those above its upper end included, without empty ones."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.getvalue()):
            if part == "\n":
                row, column = row + 1, 0
                lines += [""] * (row == len(lines))
            elif part == "\r":
                column = 0
            elif part.startswith("\x1b") and part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part.startswith("\x1b") and part.endswith("K"):
                lines[row] = ""
            elif not part.startswith("\x1b"):
                lines[row] = f"{lines[row][:column]:{column}}{part}{lines[row][column + len(part) :]}"
                column += len(part)
        return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal that is `WIDTH` cells wide. Tests redirect stdout to it: pytest would take it from a fixture."""
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    monkeypatch.setattr(captions, "err", Console(file=shown, force_terminal=True, width=WIDTH, highlight=False))
    return shown


def say(text: str, prompt: int = 0) -> Event:
    return TextEvent(text, (1,), (-0.5,), 0.1, 0.4, 1.0, 0, prompt)


def test_one_pair_grows_on_one_line(terminal: Terminal) -> None:
    words = "one two three four five six seven eight nine"
    with redirect_stdout(terminal), Captions(parse_pairs("en-en"), as_json=False) as shown:
        shown.show(STATUS)
        assert terminal.screen() == [CUT]
        for number, word in enumerate(words.split()):
            shown.add([say(" " * bool(number) + word)], 1.0, 1.0)
        shown.show(STATUS)
        assert terminal.screen() == ["one two three four five six", "seven eight nine", CUT]
    assert terminal.screen() == ["one two three four five six", "seven eight nine"]


def test_a_pause_and_a_sentence_begin_a_line(terminal: Terminal) -> None:
    with redirect_stdout(terminal), Captions(parse_pairs("en-en,en-de"), as_json=False) as shown:
        shown.add([say("one two."), say("eins", 1), say(" three")], 1.0, 1.0)
        shown.add([TextEvent(" four", (1,), (-0.5,), 9.0, 9.4, 9.8, 1, 0)], 9.8, 9.8)
        shown.show(STATUS)
        above = ["en-en: one two.", "en-en: three"]
        assert terminal.screen() == [*above, "en-en: four", "en-de: eins", CUT]
    assert terminal.screen() == [*above, "en-en: four", "en-de: eins"]


def test_each_pair_has_a_line_of_its_own(terminal: Terminal) -> None:
    with redirect_stdout(terminal), Captions(parse_pairs("en-en,en-de"), as_json=False) as shown:
        shown.show(STATUS)
        assert terminal.screen() == ["en-en:", "en-de:", CUT]
        shown.add([SegmentEvent("start", 0, 0.1), say("one"), say("eins", 1), say(" two")], 1.0, 1.0)
        shown.show(STATUS)
        assert terminal.screen() == ["en-en: one two", "en-de: eins", CUT]
        shown.add([say(" three four five six"), say(" zwei drei vier", 1)], 1.0, 1.0)
        shown.show(STATUS)
        full = "en-en: one two three four five"
        assert terminal.screen() == [full, "en-en: six", "en-de: eins zwei drei vier", CUT]
    assert terminal.screen() == [full, "en-en: six", "en-de: eins zwei drei vier"]


@pytest.mark.parametrize("langs", ["en-en", "en-en,en-de"])
def test_json_stands_above_the_status_line(terminal: Terminal, langs: str) -> None:
    with redirect_stdout(terminal), Captions(parse_pairs(langs), as_json=True) as shown:
        shown.show(STATUS)
        shown.add([say("one"), SegmentEvent("end", 0, 0.4)], 1.0, 1.5)
        shown.show(STATUS)
        text, segment, status = terminal.screen()
        assert text.startswith('{"event": "text", "lang": "en-en", "text": "one", "start_s": 0.1, ')
        assert text.endswith('"audio_s": 1.0, "wall_s": 1.5}')
        assert segment.startswith('{"event": "segment-end", ')
        assert status == CUT
    assert terminal.screen() == [text, segment]


@pytest.mark.parametrize(
    ("text", "width", "full", "rest"),
    [
        ("one two three", 21, [], "one two three"),
        ("one two three", 20, ["en-de: one two"], "three"),
        ("abcdefghijkl", 12, ["en-de: abcde", "en-de: fghij"], "kl"),
        ("abc", 3, ["en-de: a", "en-de: b", "en-de: c"], ""),
    ],
)
def test_a_growing_line_stays_narrower_than_the_terminal(text: str, width: int, full: list[str], rest: str) -> None:
    line = GrowingLine("en-de: ")
    assert line.add(text, width) == full
    assert str(line) == f"en-de: {rest}"
