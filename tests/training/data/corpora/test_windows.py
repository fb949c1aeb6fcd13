"""Windows and prefixes of utterances: whole words at their times; recipes that cannot have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sentences import RATE_HZ, WORDS, write_lines

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.utterances import Utterance
from bestow_edge.training.data.corpora.windows import cut_window
from bestow_edge.training.data.examples import FRAMES_PER_S, IGNORED, heard_tokens
from bestow_edge.training.learning.run import Run
from bestow_edge.training.recipe.recipe import Recipe

Make = Callable[..., Recipe]
LIMITS_S = (1.0, 2.0)
LONG = [WORDS[number % 7] for number in range(30)]
TIMES = tuple((0.1 + 0.2 * number, 0.28 + 0.2 * number) for number in range(30))


def utterance(**changes: Any) -> Utterance:
    values: dict[str, Any] = {
        "path": Path("a.wav"),
        "duration_s": 6.3,
        "offset_s": 2.0,
        "source_lang": "en",
        "texts": {"en": " ".join(LONG), "de": "alles"},
        "speaker": "s",
        "corpus": "c",
        "word_times": TIMES,
    }
    return Utterance(**values | changes)


def test_a_window_has_the_words_that_lie_in_it() -> None:
    starts = set()
    for seed in range(200):
        window = cut_window(utterance(), np.random.default_rng(seed), LIMITS_S)
        begin_s, end_s = window.offset_s - 2.0, window.offset_s - 2.0 + window.duration_s
        assert 0 <= begin_s < end_s <= 6.3
        assert window.duration_s <= LIMITS_S[1]
        whole = [number for number, (start, end) in enumerate(TIMES) if start >= begin_s and end <= end_s - 0.1]
        words = window.texts["en"].split()
        first = next(number for number in range(30) if abs(TIMES[number][0] - begin_s - window.word_times[0][0]) < 0.06)
        assert set(whole) <= set(range(first, first + len(words)))
        assert words == LONG[first : first + len(words)]
        assert list(window.texts) == ["en"]  # nobody knows which words of a translation belong to it
        for number, (start, end) in enumerate(window.word_times, first):
            assert (start, end) == pytest.approx(np.clip(np.array(TIMES[number]) - begin_s, 0, window.duration_s))
        starts.add(round(begin_s, 1))
    assert len(starts) > 20


@pytest.mark.parametrize(
    "changes", [{"word_times": ()}, {"duration_s": 1.9}, {"texts": {"de": "alles"}}, {"texts": {"en": "one"}}]
)
def test_what_cannot_be_cut_stays_whole(changes: dict[str, Any]) -> None:
    item = utterance(**changes)
    assert cut_window(item, np.random.default_rng(0), LIMITS_S) is item


def test_a_window_without_a_whole_word_is_the_whole() -> None:
    item = utterance(texts={"en": "one"}, word_times=((0.0, 6.3),))
    assert cut_window(item, np.random.default_rng(0), LIMITS_S) is item


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Twelve recordings of thirty words in a row."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(int(6.3 * RATE_HZ)), RATE_HZ)
        line = {"audio_filepath": f"{number}.wav", "duration": 6.3, "text": " ".join(LONG), "source_lang": "en"}
        lines.append(line | {"word_times": [list(span) for span in TIMES]})
    write_lines(tmp_path / "train.jsonl", lines)
    return tmp_path


def test_batches_are_of_windows(source_recipe: Make, speech: Path) -> None:
    source = {"name": "asr", "manifests": ["train.jsonl"], "word_times": "manifest", "tasks": ["transcribe"]}
    recipe = source_recipe(
        sources=[source | {"window_s": [1.0, 2.0]}],
        dev_sources=[source | {"name": "dev"}],
        filter={"max_s": 7.0},
        stage={"batch_s": 8.0, "alignment_weight": 0.1},
    )
    run = Run(recipe, speech, speech / "run")
    data = run.dataset(recipe.stages[0], dev=False)
    texts = set()
    for index in range(6):
        batch = data[index]
        frames = batch["frame_lens"]
        assert len(frames) == 4  # of 2 s at most in 8 s; whole ones would be batches of one
        assert int(frames.max()) <= 2.0 * FRAMES_PER_S + 1
        assert (batch["step_labels"] >= 0).any(dim=1).all()
        for targets in batch["targets"]:
            answer = targets[(targets != IGNORED) & (targets != run.end_id)].tolist()
            texts.add(run.tokenizer.decode(answer).strip())
    assert all(text in " ".join(LONG) for text in texts)
    assert len(texts) > 15  # another part each time
    again = run.dataset(recipe.stages[0], dev=False)[3]
    assert all((again[name] == data[3][name]).all() for name in again)


def test_prefixes_end_with_the_last_word_heard(source_recipe: Make, speech: Path) -> None:
    source = {"name": "asr", "manifests": ["train.jsonl"], "word_times": "manifest", "tasks": ["transcribe"]}
    filters = {"max_s": 7.0}
    stage = {"batch_s": 8.0, "alignment_weight": 0.1, "prefixes": 1.0}
    recipe = source_recipe(sources=[source], dev_sources=[source | {"name": "dev"}], filter=filters, stage=stage)
    run = Run(recipe, speech, speech / "run")
    data = run.dataset(recipe.stages[0], dev=False)
    lengths = set()
    for index in range(8):
        batch = data[index]
        targets = batch["targets"][0]
        answer = targets[targets != IGNORED].tolist()
        heard_s = int(batch["frame_lens"][0]) / FRAMES_PER_S
        words = [word for word, (_, end_s) in zip(LONG, TIMES, strict=True) if end_s <= heard_s - 0.1]
        written = run.tokenizer.decode(answer[:-1]).split()
        assert written == LONG[: len(written)]
        assert abs(len(written) - len(words)) <= 1  # a frame is 10 ms
        assert answer[-1] == run.end_id
        labels = batch["transcript_ids"][0]
        assert run.tokenizer.decode(labels[labels >= 0].tolist()) == run.tokenizer.decode(answer[:-1])
        lengths.add(len(words))
    assert len(lengths) > 3
    again = run.dataset(recipe.stages[0], dev=False)[5]
    assert all((again[name] == data[5][name]).all() for name in again)


def test_a_translation_of_a_prefix_waits_for_more() -> None:
    times_s = np.arange(1.0, 6.0)
    unknown = np.full((5, 2), np.nan)
    spans_s = np.stack([times_s - 0.5, times_s], axis=1)
    assert heard_tokens(times_s, spans_s, 3.2) == 3
    assert heard_tokens(times_s, unknown, 3.2) == 2
    assert heard_tokens(times_s, spans_s, 9.0) == 5
    assert heard_tokens(np.full(5, np.nan), unknown, 9.0) == 0
    assert heard_tokens(times_s[:0], unknown[:0], 1.0) == 0


def test_prefixes_need_word_times(source_recipe: Make) -> None:
    with pytest.raises(ConfigError, match="stage only: prefixes needs word times; give source asr word_times"):
        source_recipe(stage={"prefixes": 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_s": [2.0]}, r"window_s is two numbers, 0 < shortest < longest, got \[2.0\]"),
        ({"window_s": [3.0, 2.0]}, "window_s is two numbers"),
        ({"word_times": "estimated"}, "window_s needs recordings that are not joined, word_times manifest or aligned"),
        ({"join": {}}, "window_s needs recordings that are not joined"),
        ({"tasks": ["transcribe", "translate"]}, r"window_s is for tasks: \[transcribe\]"),
    ],
)
def test_contradictory_recipes(source_recipe: Make, changes: dict[str, Any], message: str) -> None:
    source = {"name": "asr", "manifests": ["train.jsonl"], "word_times": "manifest", "tasks": ["transcribe"]}
    with pytest.raises(ConfigError, match=message):
        source_recipe(sources=[source | {"window_s": [1.0, 2.0]} | changes])
