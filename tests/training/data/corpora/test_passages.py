"""Questions about written passages, and texts in the form of transcripts, as batches of texts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sentences import write_lines

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.prompts import WrittenPassage, WrittenText
from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.data.tokens import answer_ids, prompt_ids
from bestow_edge.training.learning.run import Run
from bestow_edge.training.recipe.recipe import Recipe

Make = Callable[..., Recipe]
PASSAGES = [
    {"lang": "en", "passage": "Tom sleeps.", "question": "Who sleeps?", "answer": "Tom"},
    {"lang": "de", "passage": "Tom sleeps.", "question": "Who sleeps?", "answer": "Tom"},
    {"lang": "de", "passage": "Tom sleeps.", "question": " ", "answer": "Tom"},
]


def test_questions_about_written_passages(source_recipe: Make, sentences: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "qa.jsonl", PASSAGES)
    source = {"name": "qa", "texts": [str(tmp_path / "qa.jsonl")], "tasks": ["answer"]}
    run = Run(source_recipe(sources=[source]), sentences, tmp_path / "run", weights=False)
    asked = [WrittenPassage(code, "Who sleeps?", "Tom sleeps.") for code in ("en", "de")]
    assert _prompts(run, "Tom") == {tuple(prompt_ids(run.tokenizer, one, run.config.chat)) for one in asked}


def test_texts_in_prompts_as_they_would_be_transcribed(source_recipe: Make, sentences: Path, tmp_path: Path) -> None:
    rows = [{"en": "Tom, don't SLEEP!", "de": "Schlaf nicht."}, {"en": "It is 9.", "de": "Schlaf nicht."}]
    write_lines(tmp_path / "texts.jsonl", rows)
    write_lines(tmp_path / "qa.jsonl", [PASSAGES[0] | {"answer": "Schlaf nicht."}])
    texts = {"name": "text", "texts": [str(tmp_path / "texts.jsonl")], "pairs": ["en-de"], "as_spoken": True}
    passages = {"name": "qa", "texts": [str(tmp_path / "qa.jsonl")], "tasks": ["answer"], "as_spoken": True}
    for source, asked in (
        (texts, WrittenText("en", "de", "tom don't sleep")),
        (passages, WrittenPassage("en", "Who sleeps?", "tom sleeps")),
    ):
        run = Run(source_recipe(sources=[source]), sentences, tmp_path / "run", weights=False)
        assert _prompts(run, "Schlaf nicht.") == {tuple(prompt_ids(run.tokenizer, asked, run.config.chat))}


def _prompts(run: Run, answer: str) -> set[tuple[int, ...]]:
    """Return the prompts of a batch, all of whose answers are `answer`."""
    batch, found = run.dataset(run.recipe.stages[0], dev=False)[0], set()
    for ids, targets in zip(batch["token_ids"], batch["targets"], strict=True):
        first = int((targets != IGNORED).nonzero()[0])
        answered = targets[targets != IGNORED].tolist()
        assert answered == [*answer_ids(run.tokenizer, answer), run.end_id]
        found.add(tuple(ids[: first + 1].tolist()))
    return found


def test_a_passage_in_an_unknown_language_is_named(source_recipe: Make, sentences: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "qa.jsonl", [PASSAGES[0] | {"lang": "xx"}])
    source = {"name": "qa", "texts": [str(tmp_path / "qa.jsonl")], "tasks": ["answer"]}
    run = Run(source_recipe(sources=[source]), sentences, tmp_path / "run", weights=False)
    with pytest.raises(ManifestError, match=r"qa.jsonl:1: language 'xx': expected one of en, de"):
        run.dataset(run.recipe.stages[0], dev=False)
