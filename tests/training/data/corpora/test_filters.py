"""What is left out of a source and what is said about it; millions of lines by number."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sentences import WORDS, write_lines
from tiny_encoders import num_steps
from tokenizers import Tokenizer

from bestow_edge.core.errors import ManifestError
from bestow_edge.training.data.corpora import index
from bestow_edge.training.data.corpora.filters import Report, Sieve
from bestow_edge.training.data.corpora.index import Corpus, ctc_steps, drop_by_tokens, read_corpus
from bestow_edge.training.data.tokens import train_tokenizer
from bestow_edge.training.recipe.data import FilterRecipe, SourceRecipe

PAIRS = ("en-en", "en-de")


def drop(corpus: Corpus, report: Report, tokenizer: Tokenizer, **limits: Any) -> tuple[Corpus, Report]:
    encoder = SimpleNamespace(encoder=SimpleNamespace(num_steps=num_steps))
    maker: Any = SimpleNamespace(tokenizer=tokenizer, labels=tokenizer, config=encoder)
    return drop_by_tokens(corpus, report, maker, **limits)


def read(path: Path, *, needs_transcript: bool = False, source: dict[str, Any] | None = None, **limits: Any) -> Any:
    recipe = SourceRecipe(name="a", manifests=("a",), **(source or {}))
    sieve = Sieve(recipe, FilterRecipe(**limits), PAIRS, needs_transcript=needs_transcript)
    return read_corpus([path], sieve)


@pytest.mark.parametrize(
    ("limits", "kept", "reason"),
    [
        ({}, 40, None),
        ({"min_s": 0.5}, 34, "6 shorter than 0.5 s"),
        ({"max_s": 1.0}, 24, "16 longer than 1 s"),
        ({"min_words": 3}, 28, "12 with fewer than 3 words"),
        ({"min_chars_per_s": 15.0}, None, "with fewer than 15 characters a second"),
        ({"max_chars_per_s": 15.0}, None, "with more than 15 characters a second"),
        ({"languages": ("en", "de")}, 40, None),
        ({"dedup": "recording"}, 40, None),
        ({"dedup": "text"}, None, "with a text that occurred before"),
        ({"source": {"tasks": ("answer",)}}, None, "nothing is left"),
        ({"languages": ("de",)}, None, "0 of 40 utterances kept .* dropped: 40 in other languages; nothing is left"),
    ],
)
def test_reasons_are_counted(sentences: Path, limits: dict[str, Any], kept: int | None, reason: str | None) -> None:
    path = sentences / "train.jsonl"
    if reason and "nothing" in reason:
        with pytest.raises(ManifestError, match=reason):
            read(path, **limits)
        return
    corpus, report = read(path, **limits)
    assert len(corpus) == report.kept == (report.kept if kept is None else kept)
    assert report.lines == 40
    assert report.kept_s == pytest.approx(float(corpus.durations_s.sum()), rel=1e-5)
    assert (reason or "dropped: none") in report.sentence()
    assert report.to_dict()["kept"] == len(corpus)


def test_what_tasks_and_losses_need(sentences: Path) -> None:
    corpus, report = read(sentences / "qa.jsonl", source={"tasks": ("answer",)})
    assert len(corpus) == 20
    assert report.dropped == {}
    _, report = read(sentences / "qa.jsonl")
    assert report.dropped == {"without a text for any task": 10}
    _, report = read(sentences / "qa.jsonl", source={"tasks": ("answer",)}, needs_transcript=True)
    assert report.dropped == {"without a transcript, which a loss of a stage needs": 10}
    _, report = read(sentences / "qa.jsonl", source={"tasks": ("answer", "translate"), "pairs": ("en-de",)})
    assert report.dropped == {}
    assert "20 of 20 utterances kept" in report.sentence()


def test_word_times_are_wanted_where_they_are_used(sentences: Path, tmp_path: Path) -> None:
    lines = [{"audio_filepath": str(sentences / "00.wav"), "duration": 0.4, "text": text} for text in ("a", "b")]
    path = write_lines(tmp_path / "a.jsonl", [lines[0], lines[1] | {"word_times": [[0.1, 0.3]]}])
    _, report = read(path, source={"word_times": "manifest"})
    assert report.dropped == {"without word times": 1}


def test_utterances_are_read_by_number(sentences: Path) -> None:
    corpus, _ = read(sentences / "train.jsonl", min_words=3)
    for row in (27, 1, 13):
        item = corpus.utterance(row)
        assert len(item.texts["en"].split()) >= 3
        assert item.duration_s == pytest.approx(float(corpus.durations_s[row]))
        assert corpus.where(row) == f"{sentences / 'train.jsonl'}:{int(item.path.stem) + 1}"
    assert len(list(corpus.texts(most=5))) == 10
    assert set(" ".join(corpus.texts(most=1000)).split()) >= set(WORDS)


def test_ctc_needs_a_step_for_each_label_and_repeat(sentences: Path) -> None:
    assert ctc_steps([]) == 0
    assert ctc_steps([1, 2, 2, 2, 3]) == 7
    corpus, report = read(sentences / "train.jsonl")
    tokenizer = train_tokenizer(["x"], PAIRS, 270)  # a token for each letter
    left, report = drop(corpus, report, tokenizer, ctc_speed=1.1, max_per_s=0)
    assert 0 < report.dropped["too short for their transcript, for CTC"] == 40 - len(left) < 40
    kept = {left.where(row) for row in range(len(left))}
    for row in range(len(corpus)):
        ids = tokenizer.encode(corpus.utterance(row).transcript).ids
        fits = ctc_steps(ids) <= num_steps(int(float(corpus.durations_s[row]) / 1.1 * 100))
        assert (corpus.where(row) in kept) == fits


def test_tokens_a_second(sentences: Path) -> None:
    corpus, report = read(sentences / "train.jsonl")
    tokenizer = train_tokenizer(WORDS * 3, PAIRS, 320)
    assert drop(corpus, report, tokenizer, ctc_speed=0, max_per_s=0) == (
        corpus,
        report,
    )
    left, report = drop(corpus, report, tokenizer, ctc_speed=0, max_per_s=3.9)
    assert report.dropped["with more than 3.9 tokens a second"] == 40 - len(left) > 0
    with pytest.raises(ManifestError, match="nothing is left to train on"):
        drop(left, report, tokenizer, ctc_speed=0, max_per_s=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, "{"], r"bad\.jsonl:41: not valid JSON"),
        (lambda lines: [*lines, '{"duration": 1, "text": "a"}'], r":41: audio_filepath is None; expected text"),
        (lambda lines: [line.replace(".wav", ".mp3") for line in lines], r":1: no such audio file: .*; 40 of 40 rec"),
        (lambda _: [""], "0 of 0 lines kept.*nothing is left"),
    ],
)
def test_bad_manifests(sentences: Path, tmp_path: Path, change: Callable[[list[str]], list[str]], message: str) -> None:
    lines = (sentences / "train.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(change(lines)), encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read(path)


def test_report() -> None:
    report = Report("a", lines=10, seconds=7200)
    report.drop("too long", 360)
    report.drop("too long", 360)
    report.drop("odd")
    assert report.sentence() == "source a: 7 of 10 utterances kept (1.80 of 2.00 h); dropped: 2 too long, 1 odd"
    assert report.to_dict()["dropped"] == {"too long": {"lines": 2, "hours": 0.2}, "odd": {"lines": 1, "hours": 0.0}}


def test_an_index_is_made_once(sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, cache = tmp_path / "train.jsonl", tmp_path / "cache"
    text = (sentences / "train.jsonl").read_text(encoding="utf-8")
    copy.write_text(text.replace('"audio_filepath": "', f'"audio_filepath": "{sentences}/'), encoding="utf-8")
    sieve = Sieve(SourceRecipe(name="a", manifests=("a",)), FilterRecipe(min_words=2), PAIRS, needs_transcript=False)
    tokenizer = train_tokenizer(["x"], PAIRS, 270)

    def everything(sieve: Sieve = sieve, tokenizer: Tokenizer = tokenizer) -> Any:
        corpus, report = read_corpus([copy], sieve, cache)
        left, report = drop(corpus, report, tokenizer, ctc_speed=1.0, max_per_s=0, cache=cache)
        return [left.where(row) for row in range(len(left))], report, report.sentence()

    first = everything()
    kept = len(list(cache.glob("*.npz")))
    assert kept == 2
    with monkeypatch.context() as patch:
        patch.setattr(index, "_index", None)  # not called
        patch.setattr(index, "_fitting", None)
        assert everything() == first
    assert len(list((tmp_path / "cache").glob("*.npz"))) == kept
    everything(tokenizer=train_tokenizer(["y y"], PAIRS, 271))
    assert len(list((tmp_path / "cache").glob("*.npz"))) == kept + 1
    copy.write_text(copy.read_text(encoding="utf-8").rstrip().rpartition("\n")[0] + "\n", encoding="utf-8")
    lines, report, _ = everything()
    assert report.lines == 39
    assert set(lines) <= set(first[0])


def test_a_corpus_takes_little_memory(sentences: Path) -> None:
    corpus, _ = read(sentences / "train.jsonl")
    assert isinstance(corpus, Corpus)
    assert corpus.rows.nbytes == 20 * len(corpus)
