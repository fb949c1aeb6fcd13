"""Connector kind `cross_adapter` at run time in the form of a Whisper decoder: equal to PyTorch token by token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import simulate

from bestow_edge.core.config import ModelConfig, SegmentConfig
from bestow_edge.core.policy import Offline, Policy, WaitK
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.checkpoint import save_checkpoint
from bestow_edge.runtime.model import load
from bestow_edge.runtime.stream.events import Decision
from bestow_edge.training.data.tokens import train_tokenizer


@pytest.mark.parametrize("policy", [WaitK(2, 3), Offline()], ids=lambda one: type(one).__name__)
def test_an_adapter_like_a_decoder(
    model_config: Callable[..., ModelConfig],
    make_model: Callable[..., Any],
    speech: np.ndarray,
    tmp_path: Path,
    policy: Policy,
) -> None:
    """Positions, embeddings of its own, no residual, and four keys for each step of speech."""

    variant = {
        "activation": "gelu",
        "positions": 90,
        "own_embedding": True,
        "residual": False,
        "null_frame": "alone",
        "speech_parts": 4,
    }
    tokenizer = train_tokenizer(["one two three", "eins zwei drei"], ("de-de",), 300)
    model = make_model(model_config(tokenizer.get_vocab_size(), **variant))
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(model, tokenizer.to_str(), checkpoint)
    export_bundle(checkpoint, tmp_path / "fp32", precision="fp32", progress=lambda _: None)
    bundle, samples = load(tmp_path / "fp32", threads=1), speech[: 3 * 16000]
    assert bundle.manifest.max_text_tokens == 90
    tokens, attempts = simulate(model, bundle, samples, policy, lookahead=6)
    got: list[Decision] = []
    session = bundle.session(source="de", policy=policy, lookahead=6, segments=SegmentConfig(pause_s=0))
    session.on_decision = got.append
    for start in range(0, len(samples), 700):
        session.feed(samples[start : start + 700])
    session.finish()
    assert [(one.visible_steps, one.token_id) for one in got] == attempts
    assert [one.token_id for one in got if one.verdict == "write"] == tokens
    assert len(set(tokens)) > 3
