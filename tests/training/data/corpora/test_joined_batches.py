"""Recordings joined on the fly as a source: what is drawn, and beside sentences and texts in one run."""

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bestow_edge.core.errors import ConfigError, ManifestError
from bestow_edge.core.prompts import parse_pair
from bestow_edge.training.data.composition import Composed, Composer
from bestow_edge.training.data.corpora.joined_batches import JoinedBatches, joined_example
from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.data.tokens import train_tokenizer
from bestow_edge.training.learning.run import Run
from bestow_edge.training.learning.trainer import train
from bestow_edge.training.recipe.recipe import Recipe

RATE_HZ = 16000
WORDS = ("one", "two", "three")
TEXT = {"texts": ["texts.tsv.gz"], "pairs": ["en-de"], "batch_tokens": 256, "max_tokens": 64}
Make = Callable[..., Recipe]


@pytest.fixture
def words(corpus: Path) -> dict[str, Any]:
    """A source of single words to join."""
    return {"name": "words", "manifests": [str(corpus / "train.jsonl")], "join": {"vocabulary": list(WORDS)}}


def joined(run: Run, stage: int = 0) -> JoinedBatches:
    source = run.dataset(run.recipe.stages[stage], dev=False).batches[0]
    assert isinstance(source, JoinedBatches)
    return source


@pytest.fixture
def composer(tiny_run: Run) -> Composer:
    """What joins the words of the tiny recipe."""
    return joined(tiny_run).composer


def test_utterances_follow_from_the_generator(composer: Composer) -> None:
    drawn = [composer.draw(np.random.default_rng(seed), 3) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0].waveform, drawn[1].waveform)
    assert drawn[0].pieces == drawn[1].pieces
    assert drawn[0].waveform.size != drawn[2].waveform.size or drawn[0].pieces != drawn[2].pieces


def test_pieces_lie_where_the_sound_is(composer: Composer) -> None:
    for seed in range(10):
        composed = composer.draw(np.random.default_rng(seed), 2)
        sound = np.zeros(composed.waveform.size, dtype=bool)
        for piece in composed.pieces:
            assert piece.end_s - piece.start_s == pytest.approx(0.3, abs=0.05)
            assert piece.texts["de"] in {"eins", "zwei", "drei"}
            sound[max(0, round((piece.start_s - 0.03) * RATE_HZ)) : round((piece.end_s + 0.03) * RATE_HZ)] = True
        assert np.abs(composed.waveform[sound]).max() > 0.05
        assert np.abs(composed.waveform[~sound]).max(initial=0) < 0.02


@pytest.mark.parametrize("trim", [0.0, 1.0])
def test_sentences_keep_the_times_of_their_words(
    source_recipe: Make, sentences: Path, tmp_path: Path, trim: float
) -> None:
    source = {"name": "asr", "manifests": ["train.jsonl"], "word_times": "manifest", "join": {"trim": trim}}
    run = Run(source_recipe(sources=[source]), sentences, tmp_path / "run", weights=False)
    batches = joined(run)
    composed = batches.composer.draw(np.random.default_rng(0), 3)
    sound = np.zeros(composed.waveform.size, dtype=bool)
    for piece in composed.pieces:
        assert len(piece.word_times) == len(piece.texts["en"].split())
        assert piece.start_s - 0.05 <= piece.word_times[0][0]
        assert piece.word_times[-1][1] <= piece.end_s + 0.05
        for start_s, end_s in piece.word_times:
            sound[max(0, round((start_s - 0.05) * RATE_HZ)) : round((end_s + 0.05) * RATE_HZ)] = True
    assert np.abs(composed.waveform[~sound]).max(initial=0) < 0.03
    words = [time for piece in composed.pieces for time in piece.word_times]
    for pair, timed in (("en-en", len(words)), ("en-de", 0)):
        mel = np.zeros((composed.waveform.size * 100 // RATE_HZ, 80), np.float32)
        example = joined_example(batches.maker, composed, [parse_pair(pair)], mel, np.random.default_rng(0))
        steps = example.word_steps[example.word_steps[:, 0] > 0]
        assert len({tuple(step) for step in steps}) >= timed - 1  # the first may begin at step 0
        assert np.all(np.diff(steps[:, 0]) >= 0)
        assert example.step_counts.max() == len(words)


def test_few_recordings_stay_decoded(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bestow_edge.training.data.composition.KEPT_S", 1.0)
    items = [item for words in composer.groups.values() for group in words.values() for item in group]
    fresh = Composer(items, composer.join, composer.recordings, composer.bad)
    first, again = (fresh.draw(np.random.default_rng(0), 8).waveform for _ in range(2))
    assert np.array_equal(first, again)
    assert 1.0 <= sum(samples.size for samples in fresh._decoded.values()) / RATE_HZ < 2.0


def test_silence_has_no_pieces_and_lasts(composer: Composer) -> None:
    lengths_s = []
    for seed in range(20):
        composed = composer.draw(np.random.default_rng(seed), 0)
        assert composed.pieces == ()
        assert not composed.waveform.any()
        lengths_s.append(composed.waveform.size / RATE_HZ)
    assert 0.3 <= min(lengths_s) < 3
    assert 5 < max(lengths_s) <= 8


def test_words_outside_the_vocabulary_are_left_out(composer: Composer) -> None:
    assert {item.texts["en"] for item in composer.others} == {"other"}
    words = {piece.texts["en"] for seed in range(30) for piece in composer.draw(np.random.default_rng(seed), 2).pieces}
    assert words == set(WORDS)


def test_a_batch_is_filled_with_utterances_of_like_length(tiny_run: Run) -> None:
    source = joined(tiny_run, 1)
    pickled = pickle.loads(pickle.dumps(source))  # noqa: S301 - as a data loader's process gets it
    for done, most in ((0.0, 2), (0.9, 2)):
        examples = source.examples(0, 0, [3, 4], done)
        assert [example.mel.tobytes() for example in pickled.examples(1, 9, [3, 4], done)] == [
            example.mel.tobytes() for example in examples
        ]
        assert max(example.transcript_ids.size for example in examples) <= most * 4
        lengths_s = [example.mel.shape[0] / 100 for example in examples]
        assert (len(examples) - 1) * max(lengths_s[:-1], default=0) < 4 <= len(examples) * max(lengths_s)


def test_speech_that_no_pair_serves(tiny_run: Run) -> None:
    composed = Composed(np.zeros(16000, np.float32), "fr", ())
    pairs = [parse_pair("en-en"), parse_pair("en-de")]
    with pytest.raises(ManifestError, match="recordings in 'fr' have no text in common for any of the pairs en-en, en"):
        joined_example(
            joined(tiny_run).maker, composed, pairs, np.zeros((100, 80), np.float32), np.random.default_rng(0)
        )


def test_joined_words_sentences_and_texts_in_one_run(
    source_recipe: Make, words: dict[str, Any], sentences: Path, tmp_path: Path
) -> None:
    """Losses on word times count where they are known; batch i follows from the seed and i."""
    sources = [words, {"name": "asr", "manifests": ["train.jsonl"]}, {"name": "text"} | TEXT]
    dev = [words | {"name": "dev-words"}, {"name": "dev", "manifests": ["dev.jsonl"]}]
    stage = {"steps": 6, "alignment_weight": 0.3, "count_weight": 0.3, "attention_weight": 0.1, "ctc_weight": 0.2}
    stage |= {"pauses": 0.5, "streaming": 0.5, "k_min": 1, "pieces": [1, 3]}
    recipe = source_recipe(sources=sources, dev_sources=dev, stage=stage, augment={"speed": 0.1, "noise": 0.3})
    run = Run(recipe, sentences, tmp_path / "run")
    data, again = (run.dataset(recipe.stages[0], dev=False, processes=4) for _ in range(2))
    kinds = set()
    for index in reversed(range(len(data))):
        batch, source = data[index], data.source_of(index)
        kinds.add(source)
        assert all(torch.equal(batch[name], again[index][name]) for name in batch)
        known = bool((batch["step_labels"] != IGNORED).any())
        assert known == (source == 0)
        assert bool((batch["step_counts"] != IGNORED).any()) == known
        assert bool(batch["mel"].shape[1]) == (source < 2)
        assert bool((batch["word_steps"][..., 0] > 0).any()) <= known
    assert kinds == {0, 1, 2}
    assert (train(recipe, sentences, tmp_path / "out") / "model.safetensors").is_file()
    records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(np.isfinite(value) for record in records for value in record.values() if isinstance(value, float))


def test_a_stage_names_its_sources(source_recipe: Make, words: dict[str, Any], sentences: Path, tmp_path: Path) -> None:
    sources = [words, {"name": "asr", "manifests": ["train.jsonl"], "weight": 5.0}, {"name": "text"} | TEXT]

    def shares(**stage: Any) -> list[float]:
        recipe = source_recipe(sources=sources, stage={"steps": 300} | stage)
        run = Run(recipe, sentences, tmp_path / "run", weights=False)
        data = run.dataset(recipe.stages[0], dev=False)
        kinds = {"JoinedBatches": 0, "SpeechBatches": 1, "TextBatches": 2}
        numbers = [kinds[type(data.batches[data.source_of(index)]).__name__] for index in range(300)]
        return [numbers.count(kind) / 300 for kind in range(3)]

    assert shares() == pytest.approx([1 / 7, 5 / 7, 1 / 7], abs=0.08)
    assert shares(sources={"words": 2.0, "text": 1}) == pytest.approx([2 / 3, 0, 1 / 3], abs=0.08)
    assert shares(objective="ctc", ctc_weight=1.0) == pytest.approx([1 / 6, 5 / 6, 0], abs=0.08)  # no use for texts


def test_words_of_a_vocabulary_become_tokens() -> None:
    rare = ["sieben", "zwölf"]
    texts = [f"{first}{second} und noch {third}" for first in "abcdefgh" for second in "ijkl" for third in "mnop"]
    tokenizer = train_tokenizer([*texts, *rare], ["de-de"], 290, rare)
    assert [len(tokenizer.encode(word).ids) for word in rare] == [1, 1]
    assert [len(train_tokenizer([*texts, *rare], ["de-de"], 290).encode(word).ids) > 1 for word in rare] == [True] * 2


def test_a_bad_recording_is_left_out(
    source_recipe: Make, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.loads(line) for line in (corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["audio_filepath"] = str(corpus / line["audio_filepath"])
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    lines[0]["audio_filepath"] = str(tmp_path / "bad.wav")
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    source = {"name": "words", "manifests": ["words.jsonl"], "join": {"vocabulary": list(WORDS)}}
    for max_bad in (1, 0):
        recipe = source_recipe(sources=[source | {"max_bad": max_bad}], dev_sources=[source | {"name": "dev"}])
        run = Run(recipe, tmp_path, tmp_path / "run", weights=False)
        data = run.dataset(recipe.stages[0], dev=False)
        if max_bad:
            with caplog.at_level(logging.WARNING, "bestow_edge"):
                assert all(len(data[index]["frame_lens"]) for index in range(6))
            warned = [record.getMessage() for record in caplog.records]
            assert len(warned) == 1
            assert "bad.wav: cannot be read as audio" in warned[0]
        else:
            with pytest.raises(ManifestError, match="more than max_bad = 0 recordings of source words cannot be read"):
                list(map(data.__getitem__, range(6)))


def test_no_recording_has_words_of_the_vocabulary(
    source_recipe: Make, words: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    recipe = source_recipe(sources=[words | {"join": {"vocabulary": ["vier"]}}], dev_sources=[words])
    with pytest.raises(ManifestError, match=r"source words: each of its 8 recordings has words that are not in join\."):
        Run(recipe, corpus, tmp_path / "run", weights=False).dataset(recipe.stages[0], dev=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"name": "text", "join": {}} | TEXT]}, "source text: join is for recordings"),
        ({"join": {}, "tasks": ["answer"]}, "source asr: task answer does not go with join"),
        ({"join": {}, "word_times": "estimated"}, "source asr: word_times estimated does not go with join"),
        ({"stage": {"sources": {"asd": 1.0}}}, "stage only: no source 'asd'; data.sources has asr"),
        ({"stage": {"sources": {"asr": 0.0}}}, "stage only: source asr has weight 0; expected more than 0"),
        ({"stage": {"count_weight": 0.1}}, "stage only: count_weight needs word times; give source asr word_times"),
        (
            {"sources": [{"name": "text"} | TEXT], "stage": {"objective": "ctc", "ctc_weight": 1.0}},
            "stage only: objective ctc needs speech; its data.sources are all texts",
        ),
    ],
)
def test_contradictory_recipes(source_recipe: Make, changes: dict[str, Any], message: str) -> None:
    data = {name: changes[name] for name in ("sources", "stage") if name in changes}
    of_source = {name: value for name, value in changes.items() if name not in data}
    if of_source:
        data["sources"] = [{"name": "asr", "manifests": ["train.jsonl"]} | of_source]
    with pytest.raises(ConfigError, match=message):
        source_recipe(**data)


def test_what_a_ctc_stage_needs(source_recipe: Make, words: dict[str, Any]) -> None:
    sources = [words, {"name": "asr", "manifests": ["train.jsonl"]}, {"name": "text"} | TEXT]
    labels = {"objective": "ctc", "alignment_weight": 1.0}
    source_recipe(sources=sources, stage=labels | {"sources": {"words": 1.0}})
    source_recipe(sources=sources, stage=labels | {"ctc_weight": 1.0})
    with pytest.raises(ConfigError, match="stage only: alignment_weight needs word times; give source asr word_times"):
        source_recipe(sources=sources, stage=labels)
    with pytest.raises(ConfigError, match="stage only: objective ctc has no use for text, which is texts; remove it"):
        source_recipe(sources=sources, stage=labels | {"sources": {"words": 1.0, "text": 1.0}})
