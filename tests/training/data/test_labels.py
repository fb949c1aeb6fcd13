"""What the encoder's output is compared with: labels of a vocabulary of their own, on a well-made first encoder."""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.data.tokens import train_tokenizer
from bestow_edge.training.learning.run import Run
from bestow_edge.training.recipe.recipe import Recipe

Make = Callable[..., Recipe]
MANIFEST = {"name": "asr", "manifests": ["train.jsonl"], "word_times": "manifest", "tasks": ["transcribe"]}
TEXT = {"name": "text", "texts": ["texts.tsv.gz"], "pairs": ["en-de"], "batch_tokens": 256, "max_tokens": 64}


def test_the_encoder_begins_on_speech_that_no_stage_of_texts_hears(
    source_recipe: Make, sentences: Path, tmp_path: Path
) -> None:
    stage = {"objective": "text", "sources": {"text": 1.0}}
    run = Run(source_recipe(sources=[MANIFEST, TEXT], stage=stage), sentences, tmp_path / "run")
    subsampling: Any = run.objective.model.encoder.subsampling
    assert subsampling.layers[-1].pointwise_conv.weight.std() > 0.1  # of transformers' own it is 0.02
    assert not run.objective.model.connector.text_out.weight.any()  # the LLM is to write as the texts taught it


def test_labels_have_a_vocabulary_of_their_own(source_recipe: Make, sentences: Path, tmp_path: Path) -> None:
    stage = {"ctc_weight": 1.0, "alignment_weight": 1.0}
    recipe = replace(source_recipe(sources=[MANIFEST], stage=stage), labels=265)
    run = Run(recipe, sentences, tmp_path / "run")
    assert run.labels.get_vocab_size() <= 265 < run.tokenizer.get_vocab_size()
    assert run.objective.ctc_head.out_features == run.labels.get_vocab_size() + 1
    batch = run.dataset(recipe.stages[0], dev=False)[0]
    for said, steps, targets in zip(batch["transcript_ids"], batch["step_labels"], batch["targets"], strict=True):
        transcript = run.labels.decode(said[said >= 0].tolist()).strip()
        answer = targets[targets != IGNORED][:-1].tolist()
        assert transcript == run.tokenizer.decode(answer).strip()
        order = iter(said[said >= 0].tolist())
        heard = [label for label, _ in groupby(label for label in steps.tolist() if label >= 0)]
        assert heard
        assert all(label in order for label in heard)  # in the order in which they are said


def test_labels_stay_those_of_the_heads_whatever_the_data(source_recipe: Make, sentences: Path, tmp_path: Path) -> None:
    recipe = replace(source_recipe(sources=[MANIFEST], stage={"alignment_weight": 1.0}), labels=300)
    run = Run(recipe, sentences, tmp_path)
    fresh, run.labels = run.labels.to_str(), train_tokenizer(["other words than these data have"], (), 300)
    run.save_stage(recipe.stages[0], dict(run.objective.state_dict()))
    again = Run(recipe, sentences, tmp_path, weights=False)
    assert again.labels.to_str() == run.labels.to_str() != fresh
