"""NeMo's encoder and preprocessor sections as ours: transformers' encoder config, front-end, attention contexts.

Every field of the two sections is used, known to change nothing when the encoder runs, or refused: a value that this
project cannot compute is an error, never a guess. Field names and defaults are those of NeMo 1.20 to 3.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.chunked import NEMOTRON, ChunkedConfig
from bestow_edge.core.specs.windowed import PARAKEET
from bestow_edge.model.pretrained.configs import decoded

Section = Mapping[str, Any]  # Any: decoded YAML

_ENCODER_DEFAULTS: dict[str, Any] = {
    "feat_out": -1, "subsampling": "striding", "subsampling_factor": 4, "subsampling_conv_channels": -1,
    "causal_downsampling": False, "reduction": None, "ff_expansion_factor": 4, "self_attention_model": "rel_pos",
    "n_heads": 4, "att_context_size": None, "att_context_style": "regular", "xscaling": True, "pos_emb_max_len": 5000,
    "conv_kernel_size": 31, "conv_norm_type": "batch_norm", "conv_context_size": None, "use_bias": True, "dropout": 0.1,
    "dropout_pre_encoder": 0.1, "dropout_emb": 0.1, "dropout_att": 0.0, "stochastic_depth_drop_prob": 0.0,
    "global_tokens": 0,
}  # fmt: skip
_ENCODER_NEEDED = ("feat_in", "n_layers", "d_model")
_ENCODER_WITHOUT_EFFECT = {
    "_target_", "att_context_probs", "global_attn_separate", "global_tokens_spacing", "reduction_factor",
    "reduction_position", "stochastic_depth_mode", "stochastic_depth_start_layer", "subsampling_conv_chunking_factor",
    "sync_max_audio_length", "untie_biases", "use_pytorch_sdpa", "use_pytorch_sdpa_backends",
}  # fmt: skip
_ENCODER_FIXED = {
    "subsampling": "dw_striding", "subsampling_factor": ChunkedConfig.frames_per_step,
    "self_attention_model": "rel_pos", "reduction": None, "global_tokens": 0,
}  # fmt: skip

_FEATURE_DEFAULTS: dict[str, Any] = {
    "sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "n_window_size": None, "n_window_stride": None,
    "window": "hann", "normalize": "per_feature", "n_fft": None, "preemph": 0.97, "features": 64, "lowfreq": 0,
    "highfreq": None, "log": True, "log_zero_guard_type": "add", "log_zero_guard_value": 2.0**-24, "frame_splicing": 1,
    "exact_pad": False, "mag_power": 2.0, "mel_norm": "slaney", "stft_exact_pad": False, "stft_conv": False,
    "use_torchaudio": False,
}  # fmt: skip
_FEATURES_WITHOUT_EFFECT = {
    "_target_", "dither", "max_duration", "nb_augmentation_prob", "nb_max_freq", "pad_to", "pad_value", "rng",
}  # fmt: skip
_FEATURES_FIXED = {
    "window": "hann", "lowfreq": 0, "log": True, "log_zero_guard_type": "add", "frame_splicing": 1, "exact_pad": False,
    "mag_power": 2.0, "mel_norm": "slaney", "stft_exact_pad": False, "stft_conv": False, "use_torchaudio": False,
}  # fmt: skip
_GUARDS = {"tiny": float(np.finfo(np.float32).tiny), "eps": float(np.finfo(np.float32).eps)}


def feature_config(config: Section, where: str) -> FeatureConfig:
    """Return the front-end that a `.nemo` file's `preprocessor` section describes.

    Args:
        config: the whole config.
        where: the file, for messages.

    Raises:
        ConfigError: if a field is unknown or has a value that the front-end cannot compute.
    """
    where = f"{where}: preprocessor"
    section = _section(config, "preprocessor", "AudioToMelSpectrogramPreprocessor", where)
    values = _complete(section, _FEATURE_DEFAULTS, (), _FEATURES_WITHOUT_EFFECT, where)
    _check_fixed(values, _FEATURES_FIXED, where)
    rate = _int(values, "sample_rate", where)
    if values["highfreq"] not in (None, rate / 2):
        raise ConfigError(f"{where}: highfreq {values['highfreq']}; only half the sample rate is supported")
    window = values["n_window_size"] or _samples(values, "window_size", rate, where)
    if type(window) is not int or not 1 <= window <= 2**16:
        raise ConfigError(f"{where}: a window of {window!r:.60} samples; expected 1 to 65536")
    guard = values["log_zero_guard_value"]
    guard = _GUARDS.get(guard) if isinstance(guard, str) else guard
    if isinstance(guard, bool) or not isinstance(guard, (int, float)):
        raise ConfigError(f"{where}: log_zero_guard_value is {values['log_zero_guard_value']!r}, expected a number")
    fields = {
        "sample_rate_hz": rate,
        "num_mel_bins": _int(values, "features", where),
        "n_fft": values["n_fft"] or 2 ** math.ceil(math.log2(window)),
        "window_samples": window,
        "hop_samples": values["n_window_stride"] or _samples(values, "window_stride", rate, where),
        "preemphasis": values["preemph"] or 0.0,
        "log_guard": guard,
        "normalize": _normalize(values["normalize"], where),
    }
    return decoded(FeatureConfig, fields, "features", where)


def _samples(values: Section, name: str, rate: int, where: str) -> int:
    seconds = values[name]
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ConfigError(f"{where}: {name} is {seconds!r:.60}, expected seconds")
    return int(seconds * rate)  # NeMo cuts too


def _normalize(value: Any, where: str) -> Any:  # Any: decoded YAML; one of FeatureConfig's choices
    if value == "per_feature":
        return "per_feature"
    if value == "all_features" or isinstance(value, Mapping):
        raise ConfigError(f"{where}: normalize {value!r}; only per_feature and none (NA) are supported")
    return "none"  # NeMo: everything else switches it off


def encoder_config(config: Section, where: str) -> dict[str, Any]:
    """Return the fields of transformers' config, `model_type` among them, for a `.nemo` file's `encoder` section.

    Args:
        config: the whole config.
        where: the file, for messages.

    Raises:
        ConfigError: if a field is unknown or has a value that neither of transformers' two encoders computes.
    """
    where = f"{where}: encoder"
    section = _section(config, "encoder", "ConformerEncoder", where)
    values = _complete(section, _ENCODER_DEFAULTS, _ENCODER_NEEDED, _ENCODER_WITHOUT_EFFECT, where)
    _check_fixed(values, _ENCODER_FIXED, where)
    width = _int(values, "d_model", where)
    if values["feat_out"] not in (None, -1, 0, width):
        raise ConfigError(f"{where}: feat_out {values['feat_out']} projects the output; only -1 is supported")
    if values["subsampling_conv_channels"] == -1:
        values = {**values, "subsampling_conv_channels": width}
    fields = {
        "model_type": _kind(values, where),
        "hidden_size": width,
        "num_hidden_layers": _int(values, "n_layers", where),
        "num_attention_heads": _int(values, "n_heads", where),
        "intermediate_size": width * _int(values, "ff_expansion_factor", where),
        "num_mel_bins": _int(values, "feat_in", where),
        "subsampling_factor": ChunkedConfig.frames_per_step,
        "subsampling_conv_channels": _int(values, "subsampling_conv_channels", where),
        "conv_kernel_size": _int(values, "conv_kernel_size", where),
        "attention_bias": bool(values["use_bias"]),
        "convolution_bias": bool(values["use_bias"]),
        "scale_input": bool(values["xscaling"]),
        "max_position_embeddings": _int(values, "pos_emb_max_len", where),
        "dropout": values["dropout_pre_encoder"],
        "activation_dropout": values["dropout"],
        "attention_dropout": values["dropout_att"],
        "dropout_positions": values["dropout_emb"],
        "layerdrop": values["stochastic_depth_drop_prob"],
    }
    if fields["model_type"] == NEMOTRON:
        left, lookaheads = _contexts(values, where)
        fields |= {"sliding_window": left + 1, "default_num_lookahead_tokens": lookaheads[0]}
    return fields


def chunked_config(config: Section, network: dict[str, Any], where: str) -> ChunkedConfig:
    """Return the config of a cache-aware encoder; the first attention context NeMo names is the default.

    Raises:
        ConfigError: if it has several left contexts or an unlimited one.
    """
    where = f"{where}: encoder"
    left, lookaheads = _contexts(config["encoder"], where)
    fields = {
        "network": network,
        "left_context": left,
        "lookaheads": lookaheads,
        "default_lookahead": lookaheads[0],
    }
    return decoded(ChunkedConfig, fields, "encoder", where)


def _kind(values: Section, where: str) -> str:
    """Return whether the encoder is cache-aware or bidirectional; each is a fixed set of NeMo's choices."""
    kernel = _int(values, "conv_kernel_size", where)
    around = values["conv_context_size"]
    convolution = {
        "causal": "causal", str([kernel - 1, 0]): "causal", "None": "centred",
        str([(kernel - 1) // 2] * 2): "centred", str((kernel - 1) // 2): "centred",
    }.get(str(list(around) if isinstance(around, (list, tuple)) else around), str(around))  # fmt: skip
    contexts = _pairs(values["att_context_size"], where)
    got = {
        "causal_downsampling": bool(values["causal_downsampling"]),
        "att_context_style": values["att_context_style"],
        "conv_context_size": convolution,
        "conv_norm_type": values["conv_norm_type"],
    }
    cache_aware = dict(zip(got, (True, "chunked_limited", "causal", "layer_norm"), strict=True))
    bidirectional = dict(zip(got, (False, "regular", "centred", "batch_norm"), strict=True))
    if got == cache_aware:
        return NEMOTRON
    if got == bidirectional and all(pair == (-1, -1) for pair in contexts):
        return PARAKEET
    raise ConfigError(
        f"{where}: {_shown(got | {'att_context_size': contexts})}; supported are cache-aware encoders "
        f"({_shown(cache_aware)}) and bidirectional ones ({_shown(bidirectional)}, att_context_size [-1, -1])"
    )


def _shown(fields: Section) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _pairs(contexts: Any, where: str) -> list[tuple[int, int]]:  # Any: decoded YAML
    """Read one pair, a list of pairs, or nothing, which means no limit."""
    if not contexts:
        return [(-1, -1)]
    pairs = contexts if isinstance(contexts, (list, tuple)) and isinstance(contexts[0], (list, tuple)) else [contexts]
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(type(steps) is int for steps in pair):
            raise ConfigError(
                f"{where}: att_context_size is {contexts!r:.60}; expected two whole numbers, or such pairs"
            )
    return [(pair[0], pair[1]) for pair in pairs]


def _contexts(values: Section, where: str) -> tuple[int, tuple[int, ...]]:
    pairs = _pairs(values["att_context_size"], where)
    lefts = {left for left, _ in pairs}
    if len(lefts) > 1 or min(lefts) < 1:
        raise ConfigError(f"{where}: att_context_size {pairs}; all left contexts must be the same and limited")
    return lefts.pop(), tuple(dict.fromkeys(right for _, right in pairs))


def _section(config: Section, name: str, target: str, where: str) -> Section:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: there is no such section; expected the config of a speech recogniser")
    got = str(section.get("_target_", target))
    if got.rpartition(".")[2] != target:
        raise ConfigError(f"{where}: is a {got}; only {target} is supported")
    return section


def _complete(section: Section, defaults: Section, needed: tuple[str, ...], idle: set[str], where: str) -> Section:
    """Return the section with NeMo's defaults, refusing unknown fields."""
    if missing := [name for name in needed if name not in section]:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    if unknown := sorted(map(str, section.keys() - defaults.keys() - idle - set(needed))):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; what it changes is not known, so it is refused")
    return {**defaults, **section}


def _check_fixed(values: Section, fixed: Section, where: str) -> None:
    for name, want in fixed.items():
        if values[name] != want:
            raise ConfigError(f"{where}: {name} is {values[name]!r}; only {want!r} is supported")


def _int(values: Section, name: str, where: str) -> int:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where}: {name} is {value!r:.60}, expected a whole number of at least 1")
    return value
