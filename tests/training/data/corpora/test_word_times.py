"""When words are heard: estimated times, tokens of words, translations by the share of letters."""

import numpy as np
import pytest

from bestow_edge.training.data.corpora.word_times import estimated_times, heard_translation, tokens_with_times
from bestow_edge.training.data.tokens import train_tokenizer
from bestow_edge.training.data.visibility import heard_steps

TOKENIZER = train_tokenizer(["ein haus am see", "the quick brown fox"], ["en-en"], 300)
TIMES = np.array([[0.0, 0.4], [0.5, 1.0], [1.2, 2.0]])


def test_words_are_spread_over_the_sound() -> None:
    waveform = np.zeros(16000, dtype=np.float32)
    waveform[4000:12000] = 0.5
    times = estimated_times("aa bbbb aa", waveform, 16000)
    np.testing.assert_allclose(times, [[0.25, 0.375], [0.375, 0.625], [0.625, 0.75]], atol=0.021)
    assert estimated_times("", waveform, 16000).shape == (0, 2)


@pytest.mark.parametrize("text", ["ein haus am", "  ein  größeres 日本語 "])
def test_tokens_have_the_time_of_their_word(text: str) -> None:
    ids, spans, words = tokens_with_times(TOKENIZER, text, TIMES)
    assert ids == TOKENIZER.encode(text, add_special_tokens=False).ids
    assert spans.shape == (len(ids), 2)
    assert words == sorted(words)
    assert set(words) == {0, 1, 2}
    assert (spans == TIMES[words]).all()


def test_a_translation_is_heard_by_its_share() -> None:
    ids, ends = heard_translation(TOKENIZER, "abcd efgh", "aa bbbbbb", np.array([[1.0, 2.0], [2.0, 5.0]]))
    assert len(ids) == len(ends)
    assert ends[-1] == pytest.approx(5.0)
    assert ends[0] == pytest.approx(3.0)  # half of the letters: all of the first word, a third of the second
    ids, ends = heard_translation(TOKENIZER, "abcd", "", np.zeros((0, 2)))
    assert np.isnan(ends).all()
    assert len(ends) == len(ids)


def test_unknown_times_are_never_waited_for() -> None:
    assert heard_steps(np.array([np.nan, 0.16]), 0.08, 50).tolist() == [0, 3]
