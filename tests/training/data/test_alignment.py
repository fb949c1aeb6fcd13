"""Word times found by the encoder itself: the best path is the best, times are those that labels were made from."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_encoders import CHUNKED

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.training.data.alignment import best_path, read_times, word_spans
from bestow_edge.training.learning.run import Run
from bestow_edge.training.learning.trainer import train
from bestow_edge.training.recipe.recipe import Recipe

Make = Callable[..., Recipe]
STEP_S = CHUNKED.frames_per_step * FeatureConfig().frame_s
TIMED = {"name": "timed", "manifests": ["train.jsonl"], "word_times": "manifest", "tasks": ["transcribe"]}
ALIGNED = TIMED | {"name": "aligned", "manifests": ["untimed.jsonl"], "word_times": "aligned"}
HEAR = {"name": "hear", "objective": "ctc", "alignment_weight": 1.0, "sources": {"timed": 1.0}, "steps": 60}
STREAM = {"name": "stream", "streaming": 1.0, "pauses": 0.3, "attention_weight": 0.1, "steps": 2}


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    """Return what a path of CTC says."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


@pytest.mark.parametrize("labels", [[0], [1, 1], [0, 1], [1, 0, 1]])
def test_the_best_path_is_the_best_of_all(labels: list[int]) -> None:
    """Every path of five steps over two labels and the blank is tried."""
    blank = 2
    for seed in range(20):
        log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(blank + 1), 5)).astype(np.float32)
        paths = [path for path in itertools.product(range(3), repeat=5) if collapsed(path, blank) == labels]
        best = max(paths, key=lambda path: sum(log_probs[step, label] for step, label in enumerate(path)))
        found = best_path(log_probs, labels)
        assert found is not None
        runs = [list(run) for label, run in itertools.groupby(range(5), key=lambda step: best[step]) if label != blank]
        assert found.tolist() == [[run[0], run[-1]] for run in runs]


def test_long_transcripts_are_laid_along_too() -> None:
    """A hundred labels of two steps each."""
    labels = [number % 3 for number in range(100)]
    log_probs = np.full((200, 4), -5.0, dtype=np.float32)
    log_probs[np.arange(200), np.repeat(labels, 2)] = 0.0
    found = best_path(log_probs, labels)
    assert found is not None
    assert found.tolist() == [[2 * number, 2 * number + 1] for number in range(100)]


def test_more_labels_than_steps_have_no_path() -> None:
    log_probs = np.log(np.full((3, 3), 1 / 3, dtype=np.float32))
    assert best_path(log_probs, [0, 1, 0]) is not None
    assert best_path(log_probs, [0, 0, 1]) is None  # two alike need a blank between them
    assert best_path(log_probs, [0, 1, 0, 1]) is None


def test_times_are_those_that_steps_were_labelled_by(source_recipe: Make, sentences: Path, tmp_path: Path) -> None:
    """The labels of steps, taken for an encoder that is always right, give the words' times back."""
    recipe = replace(source_recipe(sources=[TIMED], stage={"alignment_weight": 1.0}), labels=265)
    run = Run(recipe, sentences, tmp_path / "run", weights=False)
    maker = run.maker(recipe.stages[0])
    words = [([5, 6, 7, 8, 9], 0.24, 0.80), ([6], 0.80, 1.04), ([7, 8], 1.60, 2.08)]
    steps = maker._step_labels(words, 32)
    sure = np.full((32, 20), -20.0, dtype=np.float32)
    sure[np.arange(32), np.where(steps < 0, 19, steps)] = 0.0
    path = best_path(sure, [label for ids, _, _ in words for label in ids])
    assert path is not None
    spans = word_spans(path, [0] * 5 + [1] + [2] * 2, 3, STEP_S)
    assert np.abs(spans - [[start, end] for _, start, end in words]).max() <= STEP_S


@pytest.fixture
def untimed(sentences: Path) -> list[list[list[float]]]:
    """The sentences without their times, in a manifest beside them; their true times by line."""
    lines = [json.loads(line) for line in (sentences / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    without = [{key: value for key, value in line.items() if key != "word_times"} for line in lines]
    text = "".join(json.dumps(line) + "\n" for line in without)
    (sentences / "untimed.jsonl").write_text(text, encoding="utf-8")
    return [line["word_times"] for line in lines]


def test_a_stage_aligns_with_the_encoder_of_the_stage_before(
    source_recipe: Make, sentences: Path, untimed: list[list[list[float]]], tmp_path: Path
) -> None:
    recipe = source_recipe(sources=[TIMED, ALIGNED], stage=HEAR)
    stream = replace(source_recipe(sources=[TIMED], stage=STREAM).stages[0], sources={"aligned": 1.0})
    recipe = replace(recipe, stages=(*recipe.stages, stream), labels=300)
    train(recipe, sentences, tmp_path / "run")
    file = tmp_path / "run" / "stream" / "word_times" / "0_of_1.jsonl"
    times = read_times([file])
    assert len(times) == len(untimed)
    errors = []
    for number, known in enumerate(untimed, 1):
        spans = times[f"{sentences / 'untimed.jsonl'}:{number}"]
        assert spans.shape == (len(known), 2)
        assert (np.diff(spans.flatten()) >= 0).all()
        errors.append(np.abs(spans - np.array(known)).mean())
    assert np.mean(errors) < 0.5 * np.mean([known[-1][1] for known in untimed])  # sixty steps teach a little
    made = file.stat().st_mtime_ns
    train(recipe, sentences, tmp_path / "run")
    assert file.stat().st_mtime_ns == made
    run = Run(recipe, sentences, tmp_path / "run", weights=False)
    assert not (run.dataset(stream, dev=False)[0]["step_labels"] >= 0).any()
    run.read_aligned(file.parent, 1)
    assert (run.dataset(stream, dev=False)[0]["step_labels"] >= 0).any()


def test_times_that_nothing_has_taught_are_refused(source_recipe: Make) -> None:
    with pytest.raises(ConfigError, match=r"pauses needs word times.*aligned needs a stage before"):
        source_recipe(sources=[ALIGNED], stage=STREAM)
    with pytest.raises(ConfigError, match=r"dev source aligned: word_times aligned is for training"):
        source_recipe(sources=[TIMED], dev_sources=[ALIGNED], stage={})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ('{"where": "a"}', "not the times of words"),
        ('{"where": "a", "word_times": [1]}', "shape"),
    ],
)
def test_damaged_times_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "times.jsonl"
    path.write_text(f'{{"where": "b", "word_times": [[0, 1]]}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"times\.jsonl:2: .*{message}"):
        read_times([path])
