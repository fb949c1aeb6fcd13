"""Checks of transformers configs, which may be damaged or hostile, before anything is built or allocated of them.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from bestow_edge.core.errors import ConfigError

_DEEPEST, _MOST_VALUES = 30, 2_000_000  # vocabularies are part of some configs
_MOST_PARTS = 1000  # layers or experts; the largest published LLMs have 126 and 512
_PARTS = ("layers", "experts", "blocks")  # ends of names
_WIDTH, _LENGTH = 2**20, 2**31 - 1
_MOST = {
    "conv_kernel_size": 10_000, "d_model": _WIDTH, "decoder_attention_heads": _MOST_PARTS, "decoder_ffn_dim": _WIDTH,
    "decoder_layers": _MOST_PARTS, "downsample_hidden_size": _WIDTH, "encoder_attention_heads": _MOST_PARTS,
    "encoder_ffn_dim": _WIDTH, "encoder_layers": _MOST_PARTS, "feature_size": _WIDTH, "head_dim": _WIDTH,
    "hidden_size": _WIDTH, "hop_length": _WIDTH, "intermediate_size": _WIDTH, "max_position_embeddings": _LENGTH,
    "max_source_positions": _LENGTH, "max_target_positions": _LENGTH, "n_fft": _WIDTH, "n_window": _LENGTH,
    "n_window_infer": _LENGTH, "num_attention_heads": _MOST_PARTS, "num_hidden_layers": _MOST_PARTS,
    "num_key_value_heads": _MOST_PARTS, "num_mel_bins": 10_000, "output_dim": _WIDTH, "sampling_rate": _LENGTH,
    "subsampling_factor": 1000, "subsampling_conv_channels": _WIDTH, "subsampling_conv_kernel_size": 1000,
    "subsampling_conv_stride": 1000, "vocab_size": 2**24, "win_length": _WIDTH,
}  # fmt: skip
"""Sizes, and the most that any of them may be; the least is 1."""
_WHOLE = ("conv_kernel_size", "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "n_window",
    "n_window_infer", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "num_mel_bins",
    "subsampling_conv_channels", "subsampling_factor", "vocab_size")  # fmt: skip
_OPTIONAL = ("head_dim", "num_key_value_heads", "intermediate_size")  # null = it follows from others
_IMPLEMENTATIONS = (None, "eager", "sdpa", "batched_mm", "grouped_mm")  # those of torch


def check_network(network: Mapping[str, Any], part: str) -> None:
    """Check the transformers config of a part of a model.

    Args:
        network: decoded JSON.
        part: `encoder`, `llm` or the like, for messages.

    Raises:
        ConfigError: if it lacks a field that every one has, a size is no whole number or out of range, heads do not
            divide the width, or it names code.
    """
    if "model_type" not in network or "hidden_size" not in network:
        raise ConfigError(f"{part}: transformers config without model_type or hidden_size")
    if not isinstance(network["model_type"], str):
        raise ConfigError(f"{part}: model_type is {network['model_type']!r:.60}; expected a name")
    check_fields(network, part)
    for name in _WHOLE:
        value = network.get(name, 1)
        if (value is None and name in _OPTIONAL) or (isinstance(value, int) and not isinstance(value, bool)):
            continue
        raise ConfigError(f"{part}: {name} is {value!r:.60}; expected a whole number")
    width, heads = network["hidden_size"], network.get("num_attention_heads", 1)
    if width % heads and network.get("head_dim") is None:
        raise ConfigError(f"{part}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    if heads % (network.get("num_key_value_heads") or 1) and "num_attention_heads" in network:
        got = f"num_attention_heads {heads} is not a multiple of num_key_value_heads {network['num_key_value_heads']}"
        raise ConfigError(f"{part}: {got}")


def check_fields(fields: Mapping[str, Any], where: str) -> None:  # Any: decoded JSON or YAML
    """Refuse fields that no model has: sizes out of range, thousands of layers, deep nesting, no numbers, code.

    Args:
        fields: decoded JSON or YAML.
        where: the file or the part, for messages.

    Raises:
        ConfigError: if there is one.
    """
    level: list[tuple[str, object]] = [("", fields)]
    for _ in range(_DEEPEST):
        if not level:
            return
        for name, value in level:
            _check_value(name, value, where)
        level = list(islice(_inner(level), _MOST_VALUES + 1))
        if len(level) > _MOST_VALUES:
            raise ConfigError(f"{where}: more than {_MOST_VALUES} values; expected the config of a model")
    raise ConfigError(f"{where}: nested deeper than {_DEEPEST} levels; expected the config of a model")


def check_code(name: str, value: object, where: str) -> None:
    """Refuse a field of a transformers config that names code: transformers would download and run such a kernel.

    Raises:
        ConfigError: if it does.
    """
    if name.endswith(("attn_implementation", "experts_implementation")) and value not in _IMPLEMENTATIONS:
        raise ConfigError(f"{where}: {name} is {value!r:.60}, which may name code; remove the field")


def _inner(level: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    for name, value in level:
        if isinstance(value, Mapping):
            yield from ((str(key), inner) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            yield from ((name, inner) for inner in value)


def _check_value(name: str, value: object, where: str) -> None:
    check_code(name, value, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if abs(value) >= 2**63 if isinstance(value, int) else math.isnan(value):  # infinity is the default of some fields
        raise ConfigError(f"{where}: {name} is {value!s:.30}; expected a number of at most 64 bits")
    if name == "subsampling_conv_channels" and value == -1:
        return  # NeMo: as wide as the encoder
    if name in _MOST and not 1 <= value < math.inf:
        raise ConfigError(f"{where}: {name} is {value}; expected at least 1")
    if value > (most := _MOST_PARTS if name.endswith(_PARTS) else _MOST.get(name, math.inf)):
        raise ConfigError(f"{where}: {name} is {value}; expected at most {most}")
