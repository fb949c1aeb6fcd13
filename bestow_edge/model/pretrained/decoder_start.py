"""An adapter that begins as the decoder of a Whisper: each of its layers is one of the paper's adapter layers.

Token embeddings are taken by the text of a token, and the output projection maps Whisper's embeddings to those of the
LLM, so that the LLM reads, in its own embeddings, the token that Whisper would write next. If the LLM's embeddings are
Whisper's own, the projection is the identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.json_text import read_json
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.core.specs.windowed import POSITIONS_PER_STEP, WHISPER
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.connectors.cross_adapter import Adapter, HeadedAttention
from bestow_edge.model.pretrained import whisper
from bestow_edge.model.pretrained.weights import load_tensors, read_tensors

DECODER = "model.decoder."
MOST_ROWS = 20_000  # tokens that the output projection is fitted to


def decoder_config(folder: Path) -> CrossAdapterConfig:
    """Return the config of an adapter in the form of a Whisper's decoder.

    Raises:
        ConfigError: if the folder holds no Whisper.
    """
    fields = read_json(folder / "config.json") if folder.is_dir() else {}
    if not whisper.matches(fields):
        raise ConfigError(f"{folder}: --adapter decoder needs the decoder of a Whisper; give one as --encoder")
    width = int(fields["d_model"])
    return CrossAdapterConfig(
        num_layers=fields["decoder_layers"],
        width=width,
        num_heads=fields["decoder_attention_heads"],
        ffn_factor=fields["decoder_ffn_dim"] // width,
        activation="gelu",
        positions=fields["max_target_positions"],
        own_embedding=True,
        residual=False,
        null_frame="alone",
        speech_parts=POSITIONS_PER_STEP[WHISPER],
    )


@torch.no_grad()
def start_as_decoder(model: SpeechModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Give the adapter of a model the weights of a Whisper's decoder.

    Args:
        model: with a connector of `decoder_config`.
        tokenizer: the LLM's.
        folder: of the Whisper, with tokenizer.json and weights.

    Raises:
        CheckpointError: if files are missing or damaged, or weights are missing.
    """
    adapter = cast(Adapter, model.connector)
    names = {name: file for name, file in read_tensors(folder).items() if name.startswith(DECODER)}
    weights = {name.removeprefix(DECODER): tensor.float() for name, tensor in load_tensors(names).items()}
    try:
        for index, layer in enumerate(adapter.layers):
            _take_layer(layer, weights, f"layers.{index}.")
        _take(adapter.norm_out, weights, "layer_norm")
        adapter.places.weight.copy_(weights["embed_positions.weight"])
        table = weights["embed_tokens.weight"]
    except KeyError as error:
        raise CheckpointError(f"{folder}: {DECODER}{error.args[0]} is missing; copy it again") from error
    words = _words(tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json")), table)
    count = min(len(words), adapter.words.num_embeddings)
    adapter.words.weight.zero_()
    adapter.words.weight[:count] = words[:count]
    embeddings: Any = model.llm.get_input_embeddings()  # Any: a Module by its type, an Embedding in every LLM
    known = words[:count][:MOST_ROWS].double()  # Whisper's embeddings are badly conditioned: float32 is 0.1 off
    fitted = torch.linalg.lstsq(known, embeddings.weight[: len(known)].double()).solution  # (width, hidden)
    adapter.text_out.weight.copy_(fitted.T)
    adapter.text_out.bias.zero_()


def _take_layer(layer: Any, weights: dict[str, Tensor], prefix: str) -> None:  # Any: ModuleList forgets its items' type
    for norm, theirs in (
        (layer.norm_self, "self_attn_layer_norm"),
        (layer.norm_cross, "encoder_attn_layer_norm"),
        (layer.norm_ffn, "final_layer_norm"),
        (layer.ffn[0], "fc1"),
        (layer.ffn[2], "fc2"),
    ):
        _take(norm, weights, prefix + theirs)
    _take_attention(layer.self_attention, weights, f"{prefix}self_attn.")
    _take_attention(layer.cross_attention, weights, f"{prefix}encoder_attn.")


def _take_attention(attention: HeadedAttention, weights: dict[str, Tensor], prefix: str) -> None:
    for part, theirs in (
        (attention.query, "q_proj"),
        (attention.key, "k_proj"),
        (attention.value, "v_proj"),
        (attention.out, "out_proj"),
    ):
        _take(part, weights, prefix + theirs)


def _take(module: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Copy weight and bias; Whisper's keys have no bias."""
    untyped: Any = module  # Any: a Linear or a LayerNorm
    untyped.weight.copy_(weights[f"{name}.weight"])
    if name.endswith("k_proj"):
        untyped.bias.zero_()
    else:
        untyped.bias.copy_(weights[f"{name}.bias"])


def _words(tokenizer: Tokenizer, theirs: Tokenizer, table: Tensor) -> Tensor:
    """Return an embedding for each token of the LLM, (tokens, width).

    It is that of the token of the same name, or the mean of the tokens that Whisper makes of its text.
    """
    known = theirs.get_vocab(with_added_tokens=True)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    words = torch.zeros(max(vocabulary.values()) + 1, table.shape[1])
    for name, token in vocabulary.items():
        if (same := known.get(name)) is not None:
            words[token] = table[same]
            continue
        ids = theirs.encode(tokenizer.decode([token], skip_special_tokens=False), add_special_tokens=False).ids
        if ids:
            words[token] = table[ids].mean(0)
    return words
