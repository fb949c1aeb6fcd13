"""A checkpoint of random weights in the sizes of the paper, 1.75 billion of them, or a tiny one of the same kind.

    python benchmarks/rivals/random_checkpoint.py OUT [--most-tokens N] [--tiny]

The encoder is FastConformer's XL size (24 layers of 1024), the adapter has two layers of 1024, the LLM is TinyLlama's
shape (22 layers of 2048, 32 000 tokens). Matrices are normal with a variance of one over their inputs. Random weights
repeat themselves and never end an answer: a session would hear speech again, or write on behind its end. So token
embeddings are large, which makes the last token matter most and loops rare, and the config ends a segment after N
tokens, as many as wait-k writes while it hears. A stream then runs each chunk once, as with a trained model. The
tokenizer is made up: bytes and pairs of bytes. The weights are bfloat16, the same on every run. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig

from bestow_edge.core.config import FeatureConfig, ModelConfig, SegmentConfig
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import save_checkpoint
from bestow_edge.training.data.tokens import CHAT, SPECIAL_TOKENS

PAIRS = ("en-en", "en-de", "de-de", "de-en")
MEL_BINS = 128
EMBEDDING_STD = 4.0  # what the adapter adds has about 1
VOCAB = {False: 32_000, True: 600}
ENCODER = {
    False: {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 4096},
    True: {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
}
LLM = {
    False: {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    True: {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
ADAPTER = {
    False: CrossAdapterConfig(num_layers=2, width=1024, num_heads=8),
    True: CrossAdapterConfig(width=64, num_heads=2),
}


def whole_config(model_type: str, **values: Any) -> dict[str, Any]:  # Any: fields of many types
    """Return a transformers config as a dict with every field."""
    full: dict[str, Any] = AutoConfig.for_model(model_type, **values).to_dict()
    unkept = ("dtype", "transformers_version")
    return {name: value for name, value in full.items() if name not in unkept} | {"model_type": model_type}


def model_config(*, most_tokens: int, tiny: bool) -> ModelConfig:
    """Return the paper's sizes, or tiny ones."""
    subsampling = {"subsampling_conv_channels": 8} if tiny else {}
    encoder = {"num_mel_bins": MEL_BINS, "sliding_window": 71, **ENCODER[tiny], **subsampling}
    llm = {
        **LLM[tiny],
        "num_key_value_heads": 2 if tiny else 4,
        "vocab_size": VOCAB[tiny],
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return ModelConfig(
        encoder=ChunkedConfig(network=whole_config("nemotron_asr_streaming_encoder", **encoder)),
        connector=ADAPTER[tiny],
        llm=whole_config("llama", **llm),
        features=FeatureConfig(num_mel_bins=MEL_BINS),
        segments=SegmentConfig(max_tokens=most_tokens),
        chat=CHAT,
        pairs=PAIRS,
    )


def random_weights(model: SpeechModel) -> dict[str, torch.Tensor]:
    """Return weights for a model that has none."""
    generator = torch.Generator().manual_seed(0)
    return {name: random_weight(name, tensor, generator) for name, tensor in model.state_dict().items()}


def random_weight(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one weight: ones for norms and variances, zeros for biases and means, normal for the others."""
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    weight = torch.zeros(like.shape, dtype=torch.bfloat16)
    if like.ndim < 2:
        return weight + 1 if name.endswith("running_var") or ("norm" in name and name.endswith("weight")) else weight
    inputs = like.numel() // like.shape[0]
    return weight.normal_(0, EMBEDDING_STD if "embed_tokens" in name else inputs**-0.5, generator=generator)


def made_up_tokenizer(vocab_size: int) -> Tokenizer:
    """Return special tokens, the bytes, and as many pairs of bytes as there is room for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    pairs = [(first, second) for first in alphabet for second in alphabet][: vocab_size - len(vocab)]
    vocab |= {first + second: number for number, (first, second) in enumerate(pairs, len(vocab))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def main() -> None:
    """Make the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to make or to replace")
    parser.add_argument("--most-tokens", type=int, default=0, help="tokens that end a segment; default: the context")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    config = model_config(most_tokens=args.most_tokens, tiny=args.tiny)
    with init_empty_weights(include_buffers=True):
        model = SpeechModel.from_config(config)
    model.load_state_dict(random_weights(model), assign=True)
    save_checkpoint(model, made_up_tokenizer(VOCAB[args.tiny]).to_str(), args.out)
    parts = {
        part: sum(weight.numel() for weight in getattr(model, part).parameters())
        for part in ("encoder", "connector", "llm")
    }
    print(json.dumps({"weights": sum(parts.values()), **parts}))


if __name__ == "__main__":
    main()
