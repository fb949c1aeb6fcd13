"""An encoder out of a folder as transformers saves it: alone, or inside a whole recogniser (CTC, RNNT, TDT, Canary).

Files are read directly, so that of a whole model the encoder's tensors alone are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.specs.chunked import NEMOTRON, ChunkedConfig
from bestow_edge.core.specs.windowed import PARAKEET, WindowedConfig
from bestow_edge.model.pretrained.components import EncoderPart, build_encoder, plain_config
from bestow_edge.model.pretrained.configs import decoded, read_fields
from bestow_edge.model.pretrained.weights import fill, load_tensors, part_sizes, read_tensors

Fields = dict[str, Any]  # Any: decoded JSON

_LANDMARK = "subsampling.linear.weight"  # a tensor that every encoder has
_FRONT_END = {
    "feature_size": "num_mel_bins",
    "sampling_rate": "sample_rate_hz",
    "hop_length": "hop_samples",
    "n_fft": "n_fft",
    "win_length": "window_samples",
    "preemphasis": "preemphasis",
    "mel_filters_dtype": "constants",
}
USUAL_LOOKAHEADS = (13, 6, 1, 0)  # of the published encoders, steps
ENCODERS = (NEMOTRON, PARAKEET)
_SUBSAMPLING_SHAPE = {
    "subsampling_factor": ChunkedConfig.frames_per_step,
    "subsampling_conv_kernel_size": 3,
    "subsampling_conv_stride": 2,
}


def huggingface_encoder(folder: Path, *, every_name: bool = False) -> EncoderPart:
    """Read the encoder of a folder.

    Args:
        folder: with config.json and weights as safetensors.
        every_name: an error about weights names all of them.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights do not fit the config.
        ConfigError: if it is not a supported encoder.
    """
    whole = read_fields(folder / "config.json")
    fields = _encoder_fields(whole, folder)
    encoder = build_encoder(fields, str(folder))
    for name, want in _SUBSAMPLING_SHAPE.items():
        if (got := getattr(encoder.config, name)) != want:
            raise ConfigError(f"{folder}: encoder: {name} is {got}; only {want} is supported")
    files = read_tensors(folder)
    prefix = _prefix(files, folder)
    own = {name: file for name, file in files.items() if name.startswith(prefix)}
    left_out, unknown = part_sizes(files.keys() - own.keys())
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_tensors(own).items()}
    fill(encoder, tensors, f"{folder}: encoder", surplus=unknown, every=every_name)
    cache_aware = fields["model_type"] == NEMOTRON
    processor = _processor(folder)
    features = _features(processor["feature_extractor"], encoder.config.num_mel_bins, folder, cache_aware)
    config = (
        _chunked(encoder, processor, folder) if cache_aware else WindowedConfig(network=plain_config(encoder.config))
    )
    return EncoderPart(encoder, config, features, left_out)


def _encoder_fields(whole: Fields, folder: Path) -> Fields:
    """Return the encoder's config, which is the whole one or its `encoder_config`."""
    inner = whole.get("encoder_config")
    for fields in (whole, inner):
        if isinstance(fields, dict) and fields.get("model_type") in ENCODERS:
            return {name: value for name, value in fields.items() if name not in ("dtype", "torch_dtype")}
    got = whole.get("model_type")
    if isinstance(inner, dict):
        got = f"{got} with a {inner.get('model_type')}"
    raise ConfigError(f"{folder}: a {got}; expected {' or '.join(ENCODERS)}, or a model with one as its encoder_config")


def _prefix(names: dict[str, Path], folder: Path) -> str:
    """Return what stands before the encoder's own names in those of the whole model."""
    found = sorted(name.removesuffix(_LANDMARK) for name in names if f".{name}".endswith(f".{_LANDMARK}"))
    if len(found) != 1:
        raise CheckpointError(f"{folder}: {len(found)} weights end in {_LANDMARK}, expected one encoder")
    return found[0]


def _processor(folder: Path) -> Fields:
    """Return the processor's config with its `feature_extractor`, which may be in a file of its own."""
    whole = read_fields(path) if (path := folder / "processor_config.json").is_file() else {}
    if (path := folder / "preprocessor_config.json").is_file():
        whole = {"feature_extractor": read_fields(path)} | whole
    if "audio_processor" in whole:
        expected = "a feature_extractor, as transformers 5.24 writes it"
        raise ConfigError(f"{folder}: processor_config.json: its audio_processor is not supported; expected {expected}")
    extractor = whole.get("feature_extractor", {})
    if not isinstance(extractor, dict):
        raise ConfigError(f"{folder}: feature_extractor is {extractor!r:.60}; expected its fields")
    return whole | {"feature_extractor": extractor}


def _features(extractor: Fields, mel_bins: int, folder: Path, cache_aware: bool) -> FeatureConfig:
    """Return the front-end; without a feature extractor, transformers' defaults for this kind of encoder."""
    values = {ours: extractor[theirs] for theirs, ours in _FRONT_END.items() if theirs in extractor}
    values["preemphasis"] = values.get("preemphasis", FeatureConfig().preemphasis) or 0.0
    values = {"num_mel_bins": mel_bins, "normalize": "none" if cache_aware else "per_feature"} | values
    features = decoded(FeatureConfig, values, "feature extractor", str(folder))
    if (got := features.num_mel_bins) != mel_bins:
        raise ConfigError(f"{folder}: the feature extractor has {got} mel bins, the encoder {mel_bins}")
    return features


def _chunked(encoder: PreTrainedModel, processor: Fields, folder: Path) -> ChunkedConfig:
    """Return the config; where the processor names no look-aheads, ours that divide the left context."""
    config: Any = encoder.config  # Any: each model's config has fields of its own
    left = config.sliding_window - 1
    default = processor.get("default_num_lookahead_tokens")
    default = config.default_num_lookahead_tokens if default is None else default
    lookaheads = processor.get("supported_num_lookahead_tokens")
    if lookaheads is None:
        usual = [lookahead for lookahead in USUAL_LOOKAHEADS if left % (lookahead + 1) == 0]
        lookaheads = [default, *(lookahead for lookahead in usual if lookahead != default)]
    fields = {
        "network": plain_config(config),
        "left_context": left,
        "lookaheads": lookaheads,
        "default_lookahead": default,
    }
    return decoded(ChunkedConfig, fields, "encoder", str(folder))
