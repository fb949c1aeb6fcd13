"""Tiny pretrained models of every kind that `init` reads, to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_llms import make_llm, save
from tiny_qwen3_asr import save_qwen3_asr
from tiny_whisper import save_whisper
from transformers import AutoConfig, ParakeetCTCConfig, ParakeetForCTC

SALM = Path(__file__).parents[1] / "fixtures" / "salm"


@dataclass(frozen=True)
class Source:
    """A kind of model."""

    write: Callable[[Path], object]
    """Writes one into a folder."""
    options: Callable[[Path, Path], tuple[object, ...]]
    """Options of `init` for its folder and for a folder with an undamaged `encoder` and `llm`."""
    weight: str
    """Name of one of its weights."""
    width: tuple[str, ...]
    """Keys in config.json that lead to a width."""
    layers: tuple[str, ...]
    """Keys that lead to a number of layers."""
    tokenizer: str = "tokenizer.json"
    """Path of its tokenizer from the folder; empty without one."""


def write_encoder(folder: Path) -> None:
    """Write a CTC recogniser with a bidirectional encoder."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                             "intermediate_size": 32, "subsampling_conv_channels": 4}  # fmt: skip
    torch.manual_seed(0)
    encoder = AutoConfig.for_model("parakeet_encoder", **sizes).to_dict()
    save(ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder, vocab_size=9, pad_token_id=8)), folder)


def write_salm(folder: Path) -> None:
    """Copy the SALM of the fixtures, its LLM beside it."""
    shutil.copytree(SALM / "salm", folder, dirs_exist_ok=True)
    shutil.copytree(SALM / "salm-llm", folder.parent / "salm-llm", dirs_exist_ok=True)


def _whole(folder: Path, _: Path) -> tuple[object, ...]:
    return ("--from", folder)


SOURCES: dict[str, Source] = {
    "encoder": Source(
        write_encoder,
        lambda folder, parts: ("--encoder", folder, "--llm", parts / "llm"),
        weight="encoder.layers.0.feed_forward1.linear1.weight",
        width=("encoder_config", "hidden_size"),
        layers=("encoder_config", "num_hidden_layers"),
        tokenizer="",
    ),
    "llm": Source(
        make_llm,
        lambda folder, parts: ("--encoder", parts / "encoder", "--llm", folder),
        weight="model.layers.0.mlp.down_proj.weight",
        width=("hidden_size",),
        layers=("num_hidden_layers",),
    ),
    "whisper": Source(
        save_whisper,
        _whole,
        weight="model.decoder.layers.0.fc1.weight",
        width=("d_model",),
        layers=("decoder_layers",),
    ),
    "salm": Source(
        write_salm,
        _whole,
        weight="llm.base_model.model.model.layers.0.mlp.down_proj.weight",
        width=("perception", "encoder", "d_model"),
        layers=("perception", "encoder", "n_layers"),
        tokenizer="../salm-llm/tokenizer.json",
    ),
    "qwen3-asr": Source(
        save_qwen3_asr,
        _whole,
        weight="model.audio_tower.layers.0.fc1.weight",
        width=("text_config", "hidden_size"),
        layers=("audio_config", "encoder_layers"),
    ),
}
