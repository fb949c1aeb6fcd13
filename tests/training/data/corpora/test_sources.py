"""Batches of sources: from the seed and their number alone, lawful, mixed by weight, and a run trains on them."""

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from sentences import write_lines
from tiny_encoders import num_steps

from bestow_edge.core.errors import ConfigError, ManifestError
from bestow_edge.core.prompts import Question, WrittenText
from bestow_edge.training.data.batches import Batch
from bestow_edge.training.data.corpora.mixture import MixedDataset
from bestow_edge.training.data.corpora.shards import write_shards
from bestow_edge.training.data.examples import IGNORED, NULL_FRAME
from bestow_edge.training.data.tokens import prompt_ids
from bestow_edge.training.learning.trainer import Run, train
from bestow_edge.training.recipe.recipe import Recipe

Make = Callable[..., Recipe]
MANIFEST = {"name": "asr", "manifests": ["train.jsonl"]}
TIMED = {"word_times": "manifest"}
DEV = [{"name": "dev", "manifests": ["dev.jsonl"], **TIMED}]
TEXT = {
    "name": "text",
    "texts": ["texts.tsv.gz"],
    "pairs": ["en-de"],
    "columns": ["de"],
    "batch_tokens": 256,
    "max_tokens": 64,
}
QUESTIONS = {"name": "qa", "manifests": ["qa.jsonl"], "tasks": ["answer"]}


@pytest.fixture
def dataset(source_recipe: Make, sentences: Path, tmp_path: Path) -> Callable[..., MixedDataset]:
    """Return a function that makes the dataset of the first stage of a recipe of sources."""

    def make(folder: Path = sentences, *, steps: int = 12, readers: int = 1, **changes: Any) -> MixedDataset:
        run = Run(source_recipe(readers=readers, **changes), folder, tmp_path / "run")
        like = run.dataset(run.recipe.stages[0], dev=False)
        maker = like.batches[0].maker  # type: ignore[attr-defined]  # of any kind
        return run.corpora.dataset(maker, dev=False, num_batches=steps, seed=7, noises=run.noises)

    return make


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def text_of(dataset: Any, ids: torch.Tensor) -> str:
    text: str = dataset.batches[0].maker.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    return text


def test_a_batch_follows_from_its_number(dataset: Callable[..., MixedDataset]) -> None:
    augment = {"speed": 0.1, "noise": 0.5, "room": 0.3, "gain_db": 6.0, "mask_bins": 5, "mask_frames": 5}
    data = dataset(augment=augment, sources=[MANIFEST, QUESTIONS, TEXT])
    batches = [data[index] for index in range(12)]
    again = pickle.loads(pickle.dumps(data))  # noqa: S301 - as a data loader's process gets it
    for index in (11, 0, 5):
        assert equal(again[index], batches[index])
        assert equal(dataset(augment=augment, sources=[MANIFEST, QUESTIONS, TEXT])[index], batches[index])
    assert not equal(batches[0], batches[1])
    with pytest.raises(IndexError):
        data[12]


def test_a_longer_run_begins_with_the_same_batches(dataset: Callable[..., MixedDataset]) -> None:
    short, long = (dataset(steps=steps, sources=[MANIFEST, TEXT]) for steps in (6, 40))
    assert all(equal(short[index], long[index]) for index in range(6))


@pytest.mark.parametrize("times", ["none", "manifest", "estimated"])
def test_rows_are_lawful(dataset: Callable[..., MixedDataset], times: str) -> None:
    stage: dict[str, Any] = {"streaming": 0.7, "k_min": 1, "k_max": 2}
    if times != "none":
        stage |= {"pauses": 0.5, "ctc_weight": 0.1, "alignment_weight": 0.1, "count_weight": 0.1}
    dev = [DEV[0] | {"word_times": times}]
    data = dataset(sources=[MANIFEST | {"word_times": times}], dev_sources=dev, stage=stage)
    end = data.batches[0].maker.end_id  # type: ignore[attr-defined]  # of speech
    pauses = 0
    for index in range(12):
        batch = data[index]
        frames = batch["frame_lens"].tolist()
        assert len(frames) * max(frames) / 100 <= 4.0  # batch_s
        for row, count in enumerate(frames):
            steps = num_steps(count)
            targets, visible, words = (batch[name][row] for name in ("targets", "visible_steps", "word_steps"))
            answered = targets != IGNORED
            assert int(visible.max()) <= steps
            assert (visible[answered] > 0).all()
            assert (words[~answered] == IGNORED).all()
            written = answered & (words[:, 0] != NULL_FRAME)
            assert (words[written][:, 0] < words[written][:, 1]).all()
            assert targets[int(answered.nonzero().max())] == end
            pauses += int((targets[answered][:-1] == end).sum())
            transcript, labels = batch["transcript_ids"][row], batch["step_labels"][row]
            assert (transcript >= 0).any()
            if times == "none":
                assert (words[written] == torch.tensor([0, steps])).all()
                assert (labels == IGNORED).all()
                assert (batch["step_counts"][row] == IGNORED).all()
            else:
                assert set(labels[labels >= 0].tolist()) <= set(transcript[transcript >= 0].tolist())
                assert (labels[:steps] != IGNORED).all()
                assert int(batch["step_counts"][row][steps - 1]) > 0
    assert bool(pauses) == (times != "none")


@pytest.mark.parametrize("times", ["none", "estimated"])
def test_recordings_without_speech_have_an_empty_answer(
    dataset: Callable[..., MixedDataset], tmp_path: Path, times: str
) -> None:
    lines = []
    for name, samples in (("noise", 0.1 * np.random.default_rng(0).standard_normal(16000)), ("zero", np.zeros(16000))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
        lines.append({"audio_filepath": f"{name}.wav", "duration": 1.0, "text": "", "source_lang": "en"})
    write_lines(tmp_path / "silent.jsonl", lines)
    stage = {"ctc_weight": 0.1} | ({"pauses": 0.5, "streaming": 0.5} if times == "estimated" else {})
    source = {"name": "asr", "manifests": [str(tmp_path / "silent.jsonl")], "word_times": times}
    batch = dataset(sources=[source], dev_sources=[source | {"name": "dev"}], stage=stage)[0]
    assert batch["transcript_ids"].shape == (2, 0)
    assert ((batch["targets"] != IGNORED).sum(1) == 1).all()
    assert (batch["step_labels"] == (-1 if times == "estimated" else IGNORED)).all()


def test_wait_k_alone_masks_sentences_without_word_times(dataset: Callable[..., MixedDataset]) -> None:
    data = dataset(stage={"streaming": 1.0, "k_min": 2, "k_max": 2})
    batch = data[0]
    for row, count in enumerate(batch["frame_lens"].tolist()):
        answered = (batch["targets"][row] != IGNORED).nonzero()[:, 0]
        expected = [min((2 + index) * 4, num_steps(count)) for index in range(len(answered))]
        assert batch["visible_steps"][row][answered].tolist() == expected


def test_prompts_say_what_is_asked(dataset: Callable[..., MixedDataset], sentences: Path) -> None:
    pairs, answers = {"en-en": 0, "en-de": 0}, 0
    data = dataset(sources=[MANIFEST | {"tasks": ["transcribe", "translate", "answer"], "manifests": ["qa.jsonl"]}])
    maker = data.batches[0].maker  # type: ignore[attr-defined]  # of speech
    question = prompt_ids(maker.tokenizer, Question("en", "Which word comes first?"), maker.config.chat)
    lines = [json.loads(line) for line in (sentences / "qa.jsonl").read_text(encoding="utf-8").splitlines()]
    known = {line["answer"] for line in lines}
    for index in range(12):
        batch = data[index]
        for tokens, targets in zip(batch["token_ids"], batch["targets"], strict=True):
            begin = int((targets != IGNORED).nonzero().min())
            prompt = tokens[: begin + 1].tolist()
            answer = text_of(data, targets[(targets != IGNORED) & (targets != maker.end_id)]).strip()
            pair = next((name for name, ids in maker.prompts.items() if ids == prompt), None)
            if pair:
                pairs[pair] += 1
                assert (answer.split()[0] in {"one", "two", "three", "four", "five", "six", "seven"}) == (
                    pair == "en-en"
                )
            else:
                assert prompt == question
                assert answer in known
                answers += 1
    assert min(answers, *pairs.values()) > 0


def test_text_batches_have_the_agreed_form(dataset: Callable[..., MixedDataset]) -> None:
    data = dataset(sources=[TEXT | {"columns": ["de"]}], steps=6)
    maker, kinds = data.batches[0].maker, set()  # type: ignore[attr-defined]  # of texts
    for index in range(6):
        batch = data[index]
        rows, tokens = batch["token_ids"].shape
        assert batch["mel"].shape == (rows, 0, 80)
        assert batch["frame_lens"].tolist() == [0] * rows
        assert not batch["visible_steps"].any()
        assert batch["step_labels"].shape == batch["step_counts"].shape == batch["transcript_ids"].shape == (rows, 0)
        assert rows * tokens <= 256
        for ids, targets in zip(batch["token_ids"], batch["targets"], strict=True):
            answered = (targets != IGNORED).nonzero()[:, 0]
            assert ids[answered[0] + 1 : answered[-1] + 1].tolist() == targets[answered][:-1].tolist()
            assert targets[answered[-1]] == maker.end_id
            prompt = text_of(data, ids[: answered[0] + 1])
            kinds.add("plain" if answered[0] == 0 else "pair")
            if answered[0]:
                english = prompt.partition(": ")[2].removesuffix("<|assistant|>").strip()
                asked = prompt_ids(maker.tokenizer, WrittenText("en", "de", english), maker.config.chat)
                assert ids[: answered[0] + 1].tolist() == asked
    assert kinds == {"plain", "pair"}


def test_long_plain_texts_give_a_part_of_themselves(dataset: Callable[..., MixedDataset]) -> None:
    plain = {"name": "text", "texts": ["plain.jsonl"], "columns": ["text"], "max_tokens": 8, "batch_tokens": 64}
    data = dataset(sources=[plain], steps=8)
    rows = [row for index in range(8) for row in data[index]["token_ids"]]
    assert max(len(row) for row in rows) == 8
    starts = {int(row[1]) for row in rows if len(row) == 8}
    assert len(starts) > 2  # not always the first words


def test_sources_are_mixed_by_weight(dataset: Callable[..., MixedDataset]) -> None:
    data = dataset(sources=[MANIFEST | {"weight": 3.0}, TEXT], steps=400)
    picked = [data.source_of(index) for index in range(400)]
    assert 0.68 < picked.count(0) / 400 < 0.82
    assert [data[index]["mel"].shape[1] > 0 for index in range(20)] == [source == 0 for source in picked[:20]]


def test_all_readers_of_a_turn_take_from_one_source(dataset: Callable[..., MixedDataset]) -> None:
    data = dataset(sources=[MANIFEST, TEXT], steps=40, readers=4)
    picked = [data.source_of(index) for index in range(40)]
    assert len(set(picked)) == 2
    assert all(len(set(picked[turn : turn + 4])) == 1 for turn in range(0, 40, 4))
    plan, rows = data.batches[0].plan, []
    for index in [index for index in range(40) if picked[index] == 0][: plan.num_batches()]:
        rows += plan.batch(index % 4, int(data._earlier[index // 4])).tolist()
    assert len(rows) == len(set(rows)) > 10  # no two of them the same utterance within an epoch


@pytest.mark.parametrize("at_once", [0, 2])
def test_shards_give_the_same_utterances(
    dataset: Callable[..., MixedDataset], sentences: Path, tmp_path: Path, at_once: int
) -> None:
    write_shards([sentences / "train.jsonl"], tmp_path / "shards", size_bytes=200_000, seed=0)
    source = {"name": "asr", "shards": [str(tmp_path / "shards")], "shards_at_once": at_once}
    if at_once:
        source["shard_cache"] = str(tmp_path / "cache")
    loose, packed = dataset(), dataset(sources=[source], readers=2)

    def texts(data: MixedDataset, processes: int) -> list[bytes]:
        plan = data.batches[0].plan
        size = plan.num_batches() // processes
        rows = [
            data.batches[0].examples(group, number, [1, number], 1.0)
            for group in range(processes)
            for number in range(size)
        ]
        return sorted(example.mel.tobytes() for batch in rows for example in batch)

    got, expected = texts(packed, 2), texts(loose, 1)
    assert set(got) <= set(expected)
    assert len(set(got)) >= (36 if not at_once else 30)  # an epoch's last batches may be cut off
    assert equal(packed[5], dataset(sources=[source], readers=2)[5])
    assert not at_once or any((tmp_path / "cache").glob("*.tar"))


def test_bad_recordings_are_skipped_up_to_a_limit(
    dataset: Callable[..., MixedDataset], sentences: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.loads(line) for line in (sentences / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        line["audio_filepath"] = str(sentences / line["audio_filepath"])
        if number in {4, 30}:
            line["audio_filepath"] = str(tmp_path / f"bad{number}.wav")
            Path(line["audio_filepath"]).write_bytes(b"no audio")
    path = str(write_lines(tmp_path / "bad.jsonl", lines))
    good, data = dataset(steps=30), dataset(steps=30, sources=[MANIFEST | {"manifests": [path]}])
    with caplog.at_level(logging.WARNING, "bestow_edge"):
        rows = [(len(good[index]["frame_lens"]), len(data[index]["frame_lens"])) for index in range(30)]
    assert any(with_bad == without - 1 for without, with_bad in rows)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2  # once for each, however often it comes
    assert any("bad.jsonl:5: " in message and "bad4.wav: cannot be read as audio" in message for message in warned)
    assert warned[0].endswith("; skipped, 1 of at most 100")
    strict = dataset(steps=30, sources=[MANIFEST | {"manifests": [path], "max_bad": 1}])
    with pytest.raises(ManifestError, match=r"bad\.jsonl:\d+: .*more than max_bad = 1 recordings of source asr cannot"):
        list(map(strict.__getitem__, range(30)))


def test_noises_and_augmentation_are_used(dataset: Callable[..., MixedDataset], sentences: Path) -> None:
    plain, noisy = dataset(), dataset(augment={"noise": 1.0, "noise_files": str(sentences)})
    assert not torch.equal(plain[0]["mel"], noisy[0]["mel"])
    assert torch.equal(plain[0]["frame_lens"], noisy[0]["frame_lens"])
    fast = dataset(augment={"speed": 0.2})
    assert not torch.equal(plain[0]["frame_lens"], fast[0]["frame_lens"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "data: sources is empty; give at least one"),
        ({"dev_sources": []}, "data: dev_sources is empty; give at least one"),
        ({"sources": [MANIFEST, MANIFEST]}, "two sources are named asr; give each its own name"),
        ({"sources": [{"name": "a"}]}, "source a: give manifests and shards, or texts; a batch is all speech or all"),
        (
            {"sources": [MANIFEST | {"texts": ["a"], "columns": ["a"]}]},
            "source asr: give manifests and shards, or texts",
        ),
        ({"sources": [MANIFEST | {"columns": ["a"]}]}, "columns are for texts"),
        ({"sources": [MANIFEST | {"as_spoken": True}]}, "columns are for texts, and so is as_spoken"),
        ({"sources": [{"name": "a", "texts": ["a"]}]}, "source a: texts need pairs to translate"),
        ({"sources": [{"name": "a", "texts": ["a"], "pairs": ["en-en"]}]}, r"one language; use columns: \[en\]"),
        ({"sources": [MANIFEST | {"weight": 0}]}, "source asr: expected weight above 0"),
        (
            {"sources": [MANIFEST | {"pairs": ["en-fr"]}]},
            r"source asr: pair en-fr is not one of the model's \(en-en, en-de\)",
        ),
        ({"sources": [MANIFEST | {"tasks": ["sing"]}]}, r"tasks\[0\]: expected one of transcribe, translate, answer"),
        ({"sources": [MANIFEST | {"shards_at_once": 2}]}, "shards_at_once and shard_cache are for shards alone"),
        ({"sources": [TEXT | {"max_tokens": 1}]}, "need 2 <= max_tokens <= batch_tokens, got 1 and 256"),
        ({"filter": {"min_s": 3.0, "max_s": 2.0}}, "filter: need 0 <= min_s < max_s, got 3.0 and 2.0"),
        ({"filter": {"max_s": 3.0, "min_words": -1}}, "filter: min_words and the numbers"),
        ({"filter": {"max_s": 9.0}}, "stage only: batch_s is 4, but data.filter.max_s lets utterances of 9 s in"),
        ({"buckets": 0}, "buckets and readers must be at least 1"),
        ({"stage": {"pauses": 0.1}}, "stage only: pauses needs word times; give source asr word_times: manifest"),
        ({"stage": {"attention_weight": 0.1}}, "stage only: attention_weight needs word times"),
    ],
)
def test_contradictory_recipes(source_recipe: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source_recipe(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("en\tde\none\n", r"a\.tsv:2: 1 columns; expected 2 as in the header"),
        ("en\tfr\none\tun\n", r"a\.tsv:2: no column de; found en, fr"),
        ("", r"a\.tsv: no lines; expected a header and rows"),
        ("en\tde\na\t \n", "source text: 0 of 2 lines kept; dropped: 2 that are empty; nothing is left"),
    ],
)
def test_bad_texts(dataset: Callable[..., MixedDataset], tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        dataset(sources=[TEXT | {"texts": [str(tmp_path / "a.tsv")]}])


def test_texts_come_from_speech_manifests_too(dataset: Callable[..., MixedDataset]) -> None:
    data = dataset(sources=[TEXT | {"texts": ["train.jsonl"], "columns": ["en", "text"]}], steps=2)
    assert data[0]["mel"].shape[1] == 0
    with pytest.raises(ManifestError, match=r"a\.txt: suffix \.txt; expected a table"):
        dataset(sources=[TEXT | {"texts": ["a.txt"]}])


def test_a_run_trains_on_sources(
    source_recipe: Make, sentences: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timed = MANIFEST | TIMED
    stage = {
        "steps": 3,
        "pauses": 0.3,
        "streaming": 0.5,
        "ctc_weight": 0.3,
        "attention_weight": 0.1,
        "alignment_weight": 0.1,
    }
    recipe = source_recipe(sources=[timed], dev_sources=DEV, stage=stage, filter={"max_s": 3.0, "min_words": 2})
    with caplog.at_level(logging.INFO, "bestow_edge"):
        checkpoint = train(recipe, sentences, tmp_path / "out")
    assert (checkpoint / "model.safetensors").is_file()
    reports = [record.getMessage() for record in caplog.records if "utterances kept" in record.getMessage()]
    assert len(reports) == 2  # once for each source
    assert reports[0].startswith("source asr: 34 of 40 utterances kept")
    assert "6 with fewer than 2 words" in reports[0]
    losses = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(np.isfinite(value) for record in losses for value in record.values() if isinstance(value, float))


def test_the_config_says_which_speech_questions_were_about(
    source_recipe: Make, sentences: Path, tmp_path: Path
) -> None:
    asked = source_recipe(sources=[MANIFEST, QUESTIONS])
    run = Run(asked, sentences, tmp_path / "run", weights=False)
    assert run.config.questions == ("en",)
    assert Run(source_recipe(), sentences, tmp_path / "run", weights=False).config.questions == ()
    unasked = QUESTIONS | {"manifests": ["qa.jsonl", "train.jsonl"], "tasks": ["transcribe"]}
    assert Run(source_recipe(sources=[unasked]), sentences, tmp_path / "run", weights=False).config.questions == ()
    lines = [json.loads(line) for line in (sentences / "qa.jsonl").read_text(encoding="utf-8").splitlines()]
    write_lines(tmp_path / "qa.jsonl", [line | {"audio_filepath": str(sentences / line["audio_filepath"])} | (
        {"source_lang": "de"} if number % 2 else {}) for number, line in enumerate(lines)])  # fmt: skip
    both = QUESTIONS | {"manifests": [str(tmp_path / "qa.jsonl")]}
    assert Run(source_recipe(sources=[both]), sentences, tmp_path / "run", weights=False).config.questions == (
        "de",
        "en",
    )
