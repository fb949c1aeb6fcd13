"""Utterances heard block by block: when a word counts as written, and what is measured."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bestow_edge.evaluation.run.listening import WordStream, listen, speech_end_ms
from bestow_edge.runtime import Model, SegmentEvent, TextEvent
from bestow_edge.runtime.audio.files import read_waveform
from bestow_edge.runtime.stream.events import Decision

EXAMPLES = Path(__file__).parents[3] / "examples" / "audio"


class Scripted:
    """A session that says what it is told to, a list of texts and verdicts for each block."""

    def __init__(self, *blocks: list[str]) -> None:
        self.model = SimpleNamespace(sample_rate_hz=16_000)
        self.on_decision: Any = None
        self._blocks = iter(blocks)

    def feed(self, samples: np.ndarray) -> list[Any]:
        return list(self._say(next(self._blocks))) if samples.size else []

    def finish(self) -> list[Any]:
        return list(self._say(next(self._blocks)))

    def _say(self, items: list[str]) -> Iterator[Any]:
        for item in items:
            if item == "<end>":
                yield SegmentEvent("end", 0, 0.0)
            elif item == "<pause>":
                self.on_decision(Decision(0.0, 0, 0, 0, 0, 0.0, "pause"))
            else:
                self.on_decision(Decision(0.0, 0, 0, 0, 0, 0.0, "write"))
                yield TextEvent(item, (), (), 0.0, 0.0, 0.0, 0)


def words_by_block(*blocks: list[str]) -> list[list[str]]:
    stream = WordStream(Scripted(*blocks, []), 16_000)  # type: ignore[arg-type]  # a session as far as it is needed
    block = np.zeros(8, np.float32)
    return [stream.feed(block, ended=number == len(blocks)) for number in range(1, len(blocks) + 1)]


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([["ei"], ["ns"], [" zw"], ["ei"]], [[], [], ["eins"], ["zwei"]]),  # whole when the next one begins
        ([["eins"], ["<pause>"], [], []], [[], ["eins"], [], []]),  # or when the model has nothing to write yet
        ([["eins", "<pause>"], [" zwei"], []], [["eins"], [], ["zwei"]]),
        ([["<pause>", "ei"], ["ns"], []], [[], [], ["eins"]]),
        ([["eins", "<end>"], [" zwei"], []], [["eins"], [], ["zwei"]]),  # or when the segment ends
        ([["eins zwei drei "], []], [["eins", "zwei", "drei"], []]),
        ([["eins", " ", "zwei"], []], [["eins"], ["zwei"]]),
        ([[], []], [[], []]),
    ],
)
def test_a_word_counts_when_it_is_whole(blocks: list[list[str]], words: list[list[str]]) -> None:
    assert words_by_block(*blocks) == words


def test_times_of_a_real_recording(digits: Model) -> None:
    waveform, rate_hz = read_waveform(EXAMPLES / "digits_en.wav")
    ticks = iter(np.arange(10_000) / 1000)
    with digits.session(source="en", target="de", k=3) as session:
        heard = listen(session, waveform, rate_hz, clock=lambda: float(next(ticks)))
    words = heard.text.split()
    assert len(words) == len(heard.delays) == len(heard.elapsed) > 2
    assert heard.length_ms == len(waveform) / 16
    assert list(heard.delays) == sorted(heard.delays)
    assert all(delay % 80 == 0 or delay == heard.length_ms for delay in heard.delays)
    # The clock ticks 1 ms at the start and for each block.
    blocks = np.ceil(np.array(heard.delays) / 80)
    assert np.array(heard.elapsed) - heard.delays == pytest.approx(blocks)
    assert "".join(piece[0] for piece in heard.pieces) == heard.text
    assert heard.pieces[0][1] <= heard.delays[0]
    assert heard.speech_end_ms <= heard.length_ms
    with digits.session(source="en", target="de", k=3) as session:
        assert heard.text == "".join(event.text for event in [*session.feed(waveform), *session.finish()])


def test_the_delay_of_a_word_holds_all_that_the_encoder_waited_for(digits: Model) -> None:
    waveform, rate_hz = read_waveform(EXAMPLES / "digits_en.wav")
    with digits.session(source="en", target="de", k=3, lookahead=13) as session:
        heard = listen(session, waveform, rate_hz)
    early = [delay for delay in heard.delays if delay < heard.length_ms]
    assert early
    assert {delay % (14 * 80) for delay in early} == {0}  # a chunk of 14 steps has to be there, however few are seen


def test_other_rates_and_channels(digits: Model) -> None:
    path = EXAMPLES / "digits_en_48k_stereo.flac"
    waveform, rate_hz = read_waveform(path)
    assert rate_hz == 48_000
    with digits.session(source="en", target="de", k=3) as session:
        heard = listen(session, waveform, rate_hz)
    assert heard.length_ms == len(waveform) / 48
    instance = heard.instance(4, "eins", str(path))
    assert (instance.index, instance.reference, instance.source) == (4, "eins", (str(path),))
    assert instance.prediction == " ".join(heard.text.split())


def test_parts_of_a_file() -> None:
    whole, rate_hz = read_waveform(EXAMPLES / "digits_en.wav")
    part, _ = read_waveform(EXAMPLES / "digits_en.wav", offset_s=0.5, duration_s=0.25)
    assert np.array_equal(part, whole[rate_hz // 2 : rate_hz // 2 + rate_hz // 4])


def test_the_end_of_speech() -> None:
    rng = np.random.default_rng(0)
    noise = 0.001 * rng.standard_normal(16_000).astype(np.float32)
    noise[4000:8000] += 0.2
    assert speech_end_ms(noise, 16_000) == 500
    assert speech_end_ms(np.zeros(100, np.float32), 16_000) == 6.25  # nothing is louder than anything else
