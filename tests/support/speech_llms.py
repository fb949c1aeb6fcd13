"""Tiny models whose speech stands in the LLM's sequence, as checkpoints and as bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bestow_edge.core.config import ModelConfig, PolicyConfig, SegmentConfig
from bestow_edge.core.specs.prepend import CompressorConfig, PrependConfig, QformerConfig
from bestow_edge.core.specs.windowed import WindowedConfig

PAIRS = ("en-en", "en-de")
CONFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_kernel_size": 5,
}
VARIANTS: dict[str, tuple[str, PrependConfig]] = {
    "linear": ("chunked", PrependConfig()),
    "mlp": ("chunked", PrependConfig(stack=2, hidden=32)),
    "conformer": ("windowed", PrependConfig(stack=2, conformer=CONFORMER)),
    "qformer": ("chunked", PrependConfig(qformer=QformerConfig(num_queries=1, num_layers=1, num_heads=2, window=2))),
    "averages": ("chunked", PrependConfig(compressor=CompressorConfig(labels=3), hidden=32)),
    "blanks": (
        "windowed",
        PrependConfig(compressor=CompressorConfig(strategy="blank_removal", labels=2), conformer=CONFORMER),
    ),
    "non-causal": ("chunked", PrependConfig(compressor=CompressorConfig(labels=3), mask="non_causal")),
}
"""Kind of encoder, and connector."""


def speech_config(base: ModelConfig, connector: PrependConfig) -> ModelConfig:
    """Return a model's config with this connector, a prompt with its mark and a context for 10 s of speech."""
    from bestow_edge.training.data.tokens import CHAT, SPECIAL_TOKENS

    encoder = base.encoder.for_unit(connector.unit)
    if isinstance(encoder, WindowedConfig) and connector.sees_all:
        encoder = replace(encoder, right_context=0)
    return replace(
        base,
        encoder=encoder,
        connector=connector.with_mark(len(SPECIAL_TOKENS)),
        chat=replace(CHAT, after=f"{connector.mark}{CHAT.after}"),
        llm=base.llm | {"max_position_embeddings": 400},
        policy=PolicyConfig(name="local-agreement", l=4),
        segments=SegmentConfig(max_s=10.0),
        pairs=PAIRS,
    )


def save_speech_llm(
    base: Callable[[int], ModelConfig], make_model: Callable[..., Any], connector: PrependConfig, directory: Path
) -> Path:
    """Write the checkpoint of a model with random weights and return its directory.

    Its LLM attends widely, so that a little more speech leaves the text as it is and drafts agree.
    """
    import torch

    from bestow_edge.model.checkpoint import save_checkpoint
    from bestow_edge.training.data.tokens import train_tokenizer

    tokenizer = train_tokenizer(["one two three", "eins zwei drei"], PAIRS, 300, mark=connector.mark)
    model = make_model(speech_config(base(tokenizer.get_vocab_size()), connector))
    with torch.no_grad():
        for name, weight in model.llm.named_parameters():
            weight.mul_(0.05 if "q_proj" in name else 1.0)
    save_checkpoint(model, tokenizer.to_str(), directory)
    return directory


def torch_answer(model: Any, prompt: list[int], waveform: np.ndarray, number: int) -> list[tuple[int, float]]:
    """Return greedy tokens about the whole speech with their log-probabilities, by whole sequences in PyTorch."""
    import torch

    from bestow_edge.core.features import log_mel, normalize_frames

    features = model.config.features
    frames = log_mel(waveform, replace(features, normalize="none"))
    mel = torch.from_numpy(normalize_frames(frames, features))[None]
    tokens, answer = list(prompt), []
    with torch.no_grad():
        speech = model.encode(mel, torch.tensor([mel.shape[1]]))
        for _ in range(number):
            ids = torch.tensor([tokens])
            log_probs = model(ids, speech, torch.zeros_like(ids)).logits[0, -1].log_softmax(-1)
            token = int(log_probs.argmax())
            answer.append((token, float(log_probs[token])))
            tokens.append(token)
    return answer
