"""Questions of `benchmarks/architectures.py`: a model that answers about speech, beside the cascade.

A trained model goes on learning for a few hundred steps: transcripts, answers about speech, and the same answers about
the written words, which its LLM learns alone. The cascade is the same model twice: its transcript, and then its LLM
asked about that text, as in section 4.3 of the paper.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
SHARES = {"words": 0.3, "questions": 0.3, "texts": 0.4}
BATCH_TOKENS = 4096
MOST_TOKENS = 8  # of an answer; every answer is a word


def write_questions(data: Path, split: str, seed: int, each: int) -> None:
    """Write `questions.SPLIT.jsonl` and, with the words as passages, `questions.SPLIT.tsv`, unless they are there.

    Args:
        data: folder of the manifests.
        split: train or test.
        seed: the same numbers give the same questions.
        each: questions about an utterance.
    """
    if (data / f"questions.{split}.tsv").is_file():
        return
    rng = np.random.default_rng(seed)
    lines, rows = [], ["passage\tquestion\tanswer\tlang\n"]
    for text in (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        words = line["text"].split()
        asked = questions_about(words)
        for number in rng.permutation(len(asked))[:each]:
            question, answer = asked[number]
            spoken = {name: line[name] for name in ("audio_filepath", "duration", "source_lang", "text")}
            lines.append(json.dumps(spoken | {"question": question, "answer": answer}) + "\n")
            rows.append(f"{' '.join(words)}\t{question}\t{answer}\ten\n")
    (data / f"questions.{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (data / f"questions.{split}.tsv").write_text("".join(rows), encoding="utf-8")


def questions_about(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return questions about the words of an utterance, and their answers."""
    found = [("first word?", words[0]), ("last word?", words[-1]), ("how many words?", COUNTS[len(words)])]
    follows = [(f"after {one}?", two) for one, two in pairwise(words) if words.count(one) == 1]
    return found + follows


def asking(recipe: Any, checkpoint: Path, steps: int) -> Any:  # Any: a Recipe, whose import takes a while
    """Return a recipe that goes on from a checkpoint with transcripts and questions."""
    from bestow_edge.training.recipe.data import SourceRecipe

    sources = (
        *recipe.data.sources,
        SourceRecipe(name="questions", manifests=("questions.train.jsonl",), tasks=("answer",)),
        SourceRecipe(name="texts", texts=("questions.train.tsv",), tasks=("answer",), batch_tokens=BATCH_TOKENS),
    )
    (stage,) = recipe.stages
    stage = replace(stage, name="ask", steps=steps, sources=SHARES)
    return replace(
        recipe, model=None, init=str(checkpoint), stages=(stage,), save_steps=steps,
        data=replace(recipe.data, sources=sources),
    )  # fmt: skip


def cascade(checkpoint: Path, manifest: Path, transcripts: Sequence[str]) -> dict[str, float]:
    """Return the accuracy (%) with its 95 % interval of the LLM alone, asked about transcripts.

    Args:
        checkpoint: of the model.
        manifest: of the questions.
        transcripts: that the model wrote, one for each line.
    """
    from llm_alone import llm_alone

    from bestow_edge.core.prompts import WrittenPassage
    from bestow_edge.evaluation.scores.quality import score_texts

    write = llm_alone(checkpoint, MOST_TOKENS)
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    answers = [
        write(WrittenPassage("en", line["question"], text or "?"))
        for line, text in zip(lines, transcripts, strict=True)
    ]
    score = score_texts([line["answer"] for line in lines], answers, language="en").corpus["accuracy"]
    return {"value": score.value, "low": score.low, "high": score.high}
