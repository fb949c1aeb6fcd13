"""From a recipe to an answer: a model trained on questions answers each with its own answer, as a bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentences import write_lines

from bestow_edge.core.policy import Offline
from bestow_edge.core.prompts import Question
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.runtime import TextEvent, load, read_audio
from bestow_edge.training.learning.trainer import train

ANSWERS = {"Which colour?": "red", "Which animal is it?": "cat", "How many words?": "some words"}


@pytest.mark.slow
def test_a_trained_model_answers_what_it_is_asked(
    source_recipe: Callable[..., Any], sentences: Path, tmp_path: Path
) -> None:
    spoken = [json.loads(line) for line in (sentences / "train.jsonl").read_text(encoding="utf-8").splitlines()[:20]]
    audio = [
        {"audio_filepath": str(sentences / line["audio_filepath"]), "duration": line["duration"]} for line in spoken
    ]
    lines = [line | {"question": question, "answer": answer} for line in audio for question, answer in ANSWERS.items()]
    write_lines(tmp_path / "qa.jsonl", lines)
    source = [{"name": "qa", "manifests": [str(tmp_path / "qa.jsonl")], "tasks": ["answer"]}]
    recipe = source_recipe(sources=source, dev_sources=source, stage={"steps": 200, "warmup_steps": 5})
    checkpoint = train(recipe, sentences, tmp_path / "out")
    export_bundle(checkpoint, tmp_path / "bundle", precision="fp32", progress=lambda _: None)
    model = load(tmp_path / "bundle", threads=1)
    assert model.config.questions == ("en",)
    session = model.multi_session([(Question("en", question), Offline()) for question in ANSWERS])
    events = session.feed(read_audio(audio[3]["audio_filepath"], model.sample_rate_hz)) + session.finish()
    texts = [event for event in events if isinstance(event, TextEvent)]
    said = ["".join(event.text for event in texts if event.prompt == row) for row in range(len(ANSWERS))]
    assert said == list(ANSWERS.values())
