"""Cues: sentences, pauses, limits and times. Other programs' parsers read the files."""

# ruff: noqa: RUF001 - Chinese commas are meant

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.runtime.records.subtitles import Cue, CueLimits, CueMaker, Lines, document, ends_line, shown, wrapped
from bestow_edge.runtime.stream.events import Event, SegmentEvent, TextEvent

srt = pytest.importorskip("srt")
webvtt = pytest.importorskip("webvtt")


def spoken(text: str, *, start_s: float = 0.0, word_s: float = 0.3, segment: int = 0, prompt: int = 0) -> list[Event]:
    """Return events of tokens of up to four letters, a word every `word_s`."""
    events: list[Event] = []
    for number, word in enumerate(text.split()):
        letters, begin_s = f" {word}" if number or start_s else word, start_s + number * word_s
        for at in range(0, len(letters), 4):
            piece = letters[at : at + 4]
            events.append(TextEvent(piece, (0,), (0.0,), begin_s, begin_s + word_s, begin_s, segment, prompt))
    return events


def cues(events: list[Event], limits: CueLimits = CueLimits()) -> list[Cue]:  # noqa: B008 - it never changes
    maker = CueMaker(0, limits)
    return [*(cue for event in events for cue in maker.add([event])), *maker.end()]


def test_a_cue_for_each_sentence_and_pause() -> None:
    events = [
        *spoken("It rains. Does it? Dr. Low said “no.” Then"),
        *spoken("the sun came", start_s=5.0),
        *spoken("and went", start_s=6.0, segment=1),
        SegmentEvent("end", 1, 8.0),
    ]
    texts = [cue.text for cue in cues(events)]
    assert texts == ["It rains.", "Does it?", "Dr. Low said “no.”", "Then", "the sun came", "and went"]
    assert Lines().add(events).split("\n") == texts
    assert document(events, 0, "txt") == "\n".join(texts) + "\n"


@pytest.mark.parametrize(
    ("text", "ends"),
    [("Go.", True), ("no 3.", False), ("in 1999.", True), ("z.B.", False), ("Mr.", False), ("Why?", True),
     ("und", False), ("“Yes!”", True), ("好。", True), ("", False), (".", False)],
)  # fmt: skip
def test_ends_of_sentences(text: str, ends: bool) -> None:
    assert ends_line(text, 0.0) == ends
    assert ends_line(text, 1.1) == bool(text)


def test_a_long_sentence_becomes_cues_that_can_be_read() -> None:
    words = " ".join(f"word{number}" for number in range(80))
    found = cues(spoken(words))
    assert " ".join(cue.text for cue in found) == words
    for cue in found:
        assert cue.end_s - cue.start_s <= 7.0 + 0.3
        assert len(wrapped(cue.text, 42)) <= 2
    short = CueLimits(columns=20, lines=1, seconds=2.0)
    assert all(len(cue.text) <= 20 and cue.end_s - cue.start_s <= 2.1 for cue in cues(spoken(words), short))


def test_lines_are_even() -> None:
    fox = "The quick brown fox jumps over the lazy dog and then goes home"
    assert wrapped(fox, 42) == ["The quick brown fox jumps over", "the lazy dog and then goes home"]
    chinese = "这是一个很长的句子，用来测试换行，没有空格的语言也要换行。"
    assert wrapped(chinese, 42) == ["这是一个很长的句子，用来测试换", "行，没有空格的语言也要换行。"]
    assert wrapped("x" * 100, 42) == ["x" * 34, "x" * 34, "x" * 32]
    assert wrapped("", 42) == []


words = st.lists(st.text("ab.好，?é&<>", min_size=1, max_size=60), max_size=30)
gaps = st.lists(st.floats(-2, 5), min_size=30, max_size=30)


@given(words, gaps)
def test_any_text_is_whole_in_order_and_without_overlap(texts: list[str], steps: list[float]) -> None:
    events: list[Event] = []
    time_s = 3.0
    for text, step_s in zip(texts, steps, strict=False):
        time_s = max(0.0, time_s + step_s)
        events.append(TextEvent(f" {text}", (0,), (0.0,), time_s, time_s + 0.2, time_s, 0))
    found = cues(events)
    assert "".join(cue.text for cue in found).replace(" ", "") == "".join(texts)
    assert all(cue.start_s < cue.end_s for cue in found)
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(found))
    for cue in found:
        assert all(sum(2 if letter in "好，" else 1 for letter in line) <= 42 for line in wrapped(cue.text, 42))
    assert Lines().add(events).split() == " ".join(texts).split()
    read = list(srt.parse(document(events, 0, "srt")))
    assert [(one.index, one.content) for one in read] == [
        (number, "\n".join(wrapped(cue.text, 42))) for number, cue in enumerate(found, 1)
    ]
    for one, cue in zip(read, found, strict=True):
        assert one.start.total_seconds() == pytest.approx(cue.start_s, abs=0.001)
        assert one.end.total_seconds() == pytest.approx(cue.end_s, abs=0.001)


def test_files_of_every_form() -> None:
    events = [*spoken("Salt & pepper <b> cost 5 > 4.", start_s=3723.0), *spoken("other", prompt=1)]
    assert document(events, 0, "srt") == "1\n01:02:03,000 --> 01:02:05,400\nSalt & pepper <b> cost 5 > 4.\n\n"
    assert document(events, 0, "tsv") == "start\tend\ttext\n3723000\t3725400\tSalt & pepper <b> cost 5 > 4.\n"
    (caption,) = webvtt.from_string(document(events, 0, "vtt")).captions
    assert (caption.start, caption.end) == ("01:02:03.000", "01:02:05.400")
    assert caption.raw_text == "Salt &amp; pepper &lt;b&gt; cost 5 &gt; 4."
    assert document(events, 1, "txt") == "other\n"
    assert document([], 0, "vtt") == "WEBVTT\n\n"
    assert document([], 0, "srt") == ""


def test_a_short_cue_stays_a_second_unless_another_begins() -> None:
    alone = cues(spoken("Yes."))
    assert (alone[0].start_s, alone[0].end_s) == (0.0, 1.0)
    followed = cues([*spoken("Yes."), *spoken("Go on.", start_s=0.5)])
    assert (followed[0].end_s, followed[1].start_s) == (0.5, 0.5)


def test_hours() -> None:
    assert shown(Cue(359_999.9996, 360_001.0, "late"), 1, "vtt").startswith("100:00:00.000 --> 100:00:01.000\n")
