"""A corpus of synthetic words and a recipe small enough to train in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bestow_edge.core.decoding import decode
from bestow_edge.training.learning.trainer import Run
from bestow_edge.training.recipe.recipe import Recipe

WORDS = {"one": "eins", "two": "zwei", "three": "drei"}
RATE_HZ = 16000
RECIPE: dict[str, Any] = {
    "seed": 3,
    "precision": "fp32",
    "save_steps": 2,
    "model": {
        "vocab_size": 280,
        "pairs": ["en-en", "en-de"],
        "encoder": {
            "kind": "chunked",
            "network": {
                "model_type": "nemotron_asr_streaming_encoder",
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "subsampling_conv_channels": 4,
                "dropout": 0.1,
            },
        },
        "connector": {"kind": "cross_adapter", "num_layers": 1, "width": 32, "num_heads": 2, "ffn_factor": 1},
        "llm": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        },
        "policy": {"k": 2, "l": 4},
    },
    "data": {
        "sources": [
            {"name": "words", "manifests": ["train.jsonl"], "join": {"vocabulary": list(WORDS), "noise_only": 0.1}}
        ],
        "dev_sources": [{"name": "dev", "manifests": ["dev.jsonl"], "join": {"vocabulary": list(WORDS)}}],
        "augment": {"noise": 0.5, "gain_db": 6.0},
    },
    "stages": [
        {"name": "offline", "steps": 6, "batch_s": 4.0, "learning_rate": 0.003, "warmup_steps": 1, "pieces": [1, 2],
         "alignment_weight": 0.5},
        {"name": "streaming", "steps": 4, "batch_s": 4.0, "learning_rate": 0.002, "warmup_steps": 1, "pieces": [2, 2],
         "streaming": 0.8, "k_min": 1, "k_max": 2, "pauses": 0.9, "ctc_weight": 0.3, "lookaheads": [13, 1]},
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words by two speakers as tones, and one word outside the vocabulary."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = []
    for speaker, pitch in (("a", 200), ("b", 300)):
        for number, word in enumerate([*WORDS, "other"], 1):
            time_s = np.arange(RATE_HZ // 2) / RATE_HZ
            tone = 0.2 * np.sin(2 * np.pi * pitch * number * time_s) * (time_s > 0.1) * (time_s < 0.4)
            name = f"{speaker}_{word}.wav"
            soundfile.write(folder / name, tone + 0.0005 * rng.standard_normal(tone.size), RATE_HZ)
            line: dict[str, Any] = {"audio_filepath": name, "duration": 0.5, "text": word, "lang": "en"}
            lines.append(line | {"speaker": speaker, "translations": {"de": WORDS.get(word, "andere")}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for name in ("train.jsonl", "dev.jsonl"):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """The recipe, read."""
    return decode(Recipe, RECIPE, "recipe")


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of it before its first step."""
    return Run(tiny_recipe, corpus, tmp_path_factory.mktemp("run"))


@pytest.fixture
def recipe_values() -> dict[str, Any]:
    """The recipe as YAML holds it; a test may change its copy."""
    values: dict[str, Any] = json.loads(json.dumps(RECIPE))
    return values


@pytest.fixture(scope="module")
def recipe_module() -> dict[str, Any]:
    """The same copy for all tests of a file."""
    values: dict[str, Any] = json.loads(json.dumps(RECIPE))
    return values
