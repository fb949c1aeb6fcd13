"""Quality scores: those of jiwer and sacrebleu, ROUGE-L by hand, intervals that are the same every time."""

import math
import unicodedata

import numpy as np
import pytest

jiwer = pytest.importorskip("jiwer")
sacrebleu = pytest.importorskip("sacrebleu")
pytest.importorskip("whisper_normalizer")

from bestow_edge.evaluation.scores.intervals import interval, ratio_interval, resampled_sums  # noqa: E402 - after the extra is known to be there
from bestow_edge.evaluation.scores.quality import normalizer, rouge_l, score_texts  # noqa: E402
from bestow_edge.evaluation.scores.score import METRICS  # noqa: E402

REFERENCES = ["Guten Morgen, Herr Müller!", "eins zwei drei vier", "Das ist ein Haus.", "null"]
HYPOTHESES = ["guten Morgen Herr Müller", "eins zwei zwei vier fünf", "Das ist ein Haus.", ""]


def spoken(number: int) -> tuple[list[str], list[str]]:
    """Return texts of six words, and hypotheses in which a fifth of the words are wrong."""
    rng = np.random.default_rng(1)
    words = rng.choice(["eins", "zwei", "drei", "vier"], (number, 6))
    heard = np.where(rng.random(words.shape) < 0.2, "null", words)
    return [" ".join(row) for row in words], [" ".join(row) for row in heard]


def test_the_corpus_scores_are_those_of_the_libraries() -> None:
    found = score_texts(REFERENCES, HYPOTHESES, language="de").corpus
    assert tuple(found) == METRICS
    assert found["wer"].value == pytest.approx(100 * jiwer.wer(REFERENCES, HYPOTHESES))
    assert found["cer"].value == pytest.approx(100 * jiwer.cer(REFERENCES, HYPOTHESES))
    assert found["bleu"].value == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert found["chrf"].value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert found["bleu"].signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found["accuracy"].value == 50  # case and punctuation don't count
    plain = normalizer("de")
    assert found["wer_normalized"].value == pytest.approx(
        100 * jiwer.wer([plain(text) for text in REFERENCES], [plain(text) for text in HYPOTHESES])
    )
    assert found["wer_normalized"].value < found["wer"].value


def test_the_scores_of_single_utterances() -> None:
    found = score_texts(REFERENCES, HYPOTHESES, language="de").utterances
    assert [row["wer"] for row in found] == pytest.approx([75, 50, 0, 100])
    assert [row["accuracy"] for row in found] == [100, 0, 100, 0]
    assert found[2]["bleu"] == pytest.approx(100)
    assert found[3]["chrf"] == 0
    assert all(set(row) == set(METRICS) for row in found)


def test_english_is_normalised_by_the_english_rules() -> None:
    assert normalizer("en")("Mr. Park, the colour is twenty-one, um, OK?") == "mister park the color is 21 ok"
    found = score_texts(["I'm twenty one"], ["i am 21"], language="en").corpus
    assert found["wer_normalized"].value == 0
    assert found["wer"].value > 0


def test_a_reference_that_the_normaliser_empties_counts_what_was_written() -> None:
    found = score_texts(["um", "a b"], ["a b c", "a b"], language="en")
    assert found.utterances[0]["wer_normalized"] == 300
    assert found.corpus["wer_normalized"].value == pytest.approx(150)
    only = score_texts(["um"], ["a"], language="en").corpus["wer_normalized"]
    assert (only.value, only.low, only.high) == (100, 100, 100)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("A-B, c!", "a b C", 1.0),
        ("the cat sat", "the cat", 0.8),
        ("a", "", 0.0),
        ("?", "a", 0.0),
    ],
)
def test_rouge_l(reference: str, hypothesis: str, score: float) -> None:
    assert rouge_l(reference, hypothesis) == pytest.approx(score)


def test_intervals_hold_the_score_and_are_the_same_every_time() -> None:
    references, hypotheses = spoken(60)
    first, second = (score_texts(references, hypotheses, language="de").corpus for _ in range(2))
    assert first == second
    for name, score in first.items():
        assert score.low < score.value < score.high, name


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_intervals_are_as_wide_as_those_sacrebleu_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "1")
    references, hypotheses = spoken(200)
    ours = score_texts(references, hypotheses, language="de").corpus[name]
    metric = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[name]()
    theirs = metric.corpus_score(hypotheses, [references], n_bootstrap=1000)
    assert ours.value == theirs.score
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert (ours.high + ours.low) / 2 == pytest.approx(theirs._mean, rel=0.02)


def test_intervals_of_a_mean_are_those_of_the_theory() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = ratio_interval(values, np.ones_like(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.15)


def test_draws_without_a_score_are_left_out() -> None:
    assert ratio_interval([1.0, 0.0], [1, 0]) == pytest.approx((1.0, 1.0))
    assert all(map(math.isnan, ratio_interval([0.0], [0])))
    assert all(map(math.isnan, interval([math.nan])))


@pytest.mark.parametrize(("references", "hypotheses"), [([], []), (["a"], []), (["a"], ["b", "c"])])
def test_as_many_of_both(references: list[str], hypotheses: list[str]) -> None:
    with pytest.raises(ValueError, match="expected one of each or more"):
        score_texts(references, hypotheses, language="en")


def test_statistics_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected statistics"):
        resampled_sums([1.0])


def test_words_of_all_languages() -> None:
    assert (rouge_l("Hütte", "Hätte"), rouge_l("für", "für"), rouge_l("año", "a o")) == (0, 1, 0)
    assert rouge_l("добрый день", "добрый вечер") == 0.5
    assert rouge_l("今天很好", "今天不好") == 0.75
    found = score_texts(["Hütte", "день!"], ["Hätte", "День"], language="de")
    assert [row["accuracy"] for row in found.utterances] == [0, 100]


def test_both_sides_are_composed(caplog: pytest.LogCaptureFixture) -> None:
    text = "neun eins fünf sieben null"
    for texts in ((text, unicodedata.normalize("NFD", text)), (unicodedata.normalize("NFD", text), text)):
        caplog.clear()
        found = score_texts([texts[0]], [texts[1]], language="de").corpus
        assert {name: round(found[name].value) for name in METRICS} == {
            name: 0 if name.startswith(("wer", "cer")) else 100 for name in METRICS
        }
        assert "1 of 1 texts are not in Unicode's normal form NFC; they are scored in it" in caplog.text
    caplog.clear()
    score_texts([text], [text], language="de")
    assert not caplog.text
