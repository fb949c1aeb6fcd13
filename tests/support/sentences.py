"""Fixtures: a corpus of sentences as tones of different lengths, questions and texts, and a recipe of sources."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from bestow_edge.training.recipe.recipe import Recipe

RATE_HZ = 16000
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]
GERMAN = dict(zip(WORDS, ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben"], strict=True))


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def spoken(folder: Path, name: str, words: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """Write a recording of 0.2 s a word with 0.1 s before and behind, and return its line."""
    import soundfile

    time_s = np.arange(int((0.2 * len(words) + 0.2) * RATE_HZ)) / RATE_HZ
    tone = 0.2 * np.sin(2 * np.pi * 300 * time_s) * (time_s > 0.1) * (time_s < time_s[-1] - 0.1)
    soundfile.write(folder / name, tone + 0.0005 * rng.standard_normal(tone.size), RATE_HZ)
    times = [[round(0.1 + 0.2 * index, 2), round(0.3 + 0.2 * index, 2)] for index in range(len(words))]
    return {
        "audio_filepath": name,
        "duration": tone.size / RATE_HZ,
        "text": " ".join(words),
        "source_lang": "en",
        "speaker": f"s{len(words) % 3}",
        "translations": {"de": " ".join(GERMAN[word] for word in words)},
        "word_times": times,
    }


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty sentences of one to seven words, the same with questions, and texts."""
    folder = tmp_path_factory.mktemp("sentences")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(40):
        words = [WORDS[index] for index in rng.integers(7, size=1 + number % 7)]
        lines.append(spoken(folder, f"{number:02d}.wav", words, rng))
    write_lines(folder / "train.jsonl", lines)
    write_lines(folder / "dev.jsonl", lines[:8])
    asked = [line | {"question": "Which word comes first?", "answer": line["text"].split()[0]} for line in lines[:20]]
    for line in asked[:10]:
        del line["text"], line["translations"], line["word_times"]
    write_lines(folder / "qa.jsonl", asked)
    rows = ["en\tde", *(f"{line['text']}\t{line['translations']['de']}" for line in lines), "\tleer"]
    with gzip.open(folder / "texts.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")
    write_lines(folder / "plain.jsonl", [{"text": " ".join(WORDS * (1 + number % 5))} for number in range(20)])
    return folder


@pytest.fixture
def source_recipe(recipe_values: dict[str, Any]) -> Callable[..., Recipe]:
    """Return a function that makes a recipe of sources; what it is given changes the `data:` part and the stages."""

    from bestow_edge.core.decoding import decode
    from bestow_edge.training.recipe.recipe import Recipe

    def make(*, stage: dict[str, Any] | None = None, **data: Any) -> Recipe:
        sources = [{"name": "asr", "manifests": ["train.jsonl"]}]
        dev = [{"name": "dev", "manifests": ["dev.jsonl"]}]
        values = recipe_values | {"data": {"sources": sources, "dev_sources": dev, "filter": {"max_s": 3.0}} | data}
        plain = {"name": "only", "steps": 12, "batch_s": 4.0, "learning_rate": 0.003, "warmup_steps": 1}
        values["stages"] = [plain | (stage or {})]
        values["model"] = recipe_values["model"] | {"vocab_size": 300}
        return decode(Recipe, values, "recipe")

    return make
