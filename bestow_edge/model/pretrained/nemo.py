"""An encoder out of a `.nemo` file: NeMo's config and weights under transformers' names.

Source of the names: transformers' `convert_nemo_to_hf.py` for Parakeet and its counterpart for Nemotron's streaming
encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.features import hann_window, mel_filters
from bestow_edge.core.specs.chunked import NEMOTRON
from bestow_edge.core.specs.windowed import PARAKEET, WindowedConfig
from bestow_edge.model.pretrained.components import EncoderPart, build_encoder, plain_config
from bestow_edge.model.pretrained.nemo_archive import read_nemo
from bestow_edge.model.pretrained.nemo_config import Section, chunked_config, encoder_config, feature_config
from bestow_edge.model.pretrained.weights import fill, part_sizes

PREFIX = "encoder."
FRONT_END = "preprocessor."
_FILTERS, _WINDOW = f"{FRONT_END}featurizer.fb", f"{FRONT_END}featurizer.window"
_CONSTANT_TOLERANCE = 1e-6  # of filters and window, whose largest values are 0.03 and 1

_NAMES = [
    (r"^pre_encode\.out\.", "subsampling.linear."),
    (r"\.conv\.batch_norm\.", ".conv.norm."),  # NeMo's name for every norm there, layer norms too
    (r"\.linear_(q|k|v)\.", r".\1_proj."),
    (r"\.linear_out\.", ".o_proj."),
    (r"\.linear_pos\.", ".relative_k_proj."),
    (r"\.pos_bias_(u|v)$", r".bias_\1"),
]
_SUBSAMPLING = {
    PARAKEET: [(r"^pre_encode\.conv\.", "subsampling.layers.")],
    NEMOTRON: [  # a flat list of convolutions and activations there, a stem and pairs of convolutions here
        (r"^pre_encode\.conv\.0\.", "subsampling.conv_in."),
        (r"^pre_encode\.conv\.2\.", "subsampling.layers.0.depthwise_conv."),
        (r"^pre_encode\.conv\.3\.", "subsampling.layers.0.pointwise_conv."),
        (r"^pre_encode\.conv\.5\.", "subsampling.layers.1.depthwise_conv."),
        (r"^pre_encode\.conv\.6\.", "subsampling.layers.1.pointwise_conv."),
    ],
}


def nemo_encoder(path: Path, *, every_name: bool = False) -> EncoderPart:
    """Read the encoder of a `.nemo` file.

    Args:
        path: the file.
        every_name: an error about weights names all of them.

    Raises:
        CheckpointError: if the file is damaged, or its weights do not fit its config.
        ConfigError: if its config describes an encoder or a front-end that is not supported.
    """
    file = read_nemo(path)
    fields = encoder_config(file.config, str(path))
    features = front_end(file.config, file.weights, str(path))
    cache_aware = fields["model_type"] == NEMOTRON
    if cache_aware and features.normalize != "none":
        got = f"preprocessor.normalize is {features.normalize}, which needs the whole utterance"
        raise ConfigError(f"{path}: {got}; a cache-aware encoder trained so cannot stream")
    own = {name for name in file.weights if name.startswith(PREFIX)}
    left_out, unknown = part_sizes(name for name in file.weights if name not in own and not name.startswith(FRONT_END))
    tensors = {renamed(name.removeprefix(PREFIX), fields["model_type"]): file.weights[name] for name in own}
    encoder = build_encoder(fields, str(path))
    fill(encoder, tensors, f"{path}: encoder", surplus=unknown, every=every_name)
    network = plain_config(encoder.config)
    config = chunked_config(file.config, network, str(path)) if cache_aware else WindowedConfig(network=network)
    return EncoderPart(encoder, config, features, left_out)


def renamed(name: str, kind: str) -> str:
    """Return transformers' name of an encoder weight of NeMo.

    Args:
        name: as NeMo's encoder has it.
        kind: transformers' model type of the encoder.
    """
    for pattern, replacement in (*_SUBSAMPLING[kind], *_NAMES):
        name = re.sub(pattern, replacement, name)
    return name


def front_end(config: Section, weights: Mapping[str, Tensor], where: str) -> FeatureConfig:
    """Return the front-end that a `preprocessor` section describes, with the constants that NeMo stores beside it.

    Args:
        config: with the section.
        weights: of the model, by name; the constants begin with `preprocessor.`, and may be missing.
        where: the source, for messages.

    Raises:
        CheckpointError: if the stored constants are not those that the front-end computes with.
        ConfigError: if a field is unknown or has a value that the front-end cannot compute.
    """
    features = feature_config(config, where)
    if any(weights[name].dtype == torch.bfloat16 for name in (_FILTERS, _WINDOW) if name in weights):
        features = replace(features, constants="bfloat16")
    for name, want in ((_FILTERS, mel_filters(features).T[None]), (_WINDOW, hann_window(features))):
        if (tensor := weights.get(name)) is None:
            continue
        got = tensor.float().numpy()
        if got.shape != want.shape:
            raise CheckpointError(f"{where}: {name} has shape {got.shape}, the preprocessor section says {want.shape}")
        if not (difference := float(np.abs(got - want).max())) <= _CONSTANT_TOLERANCE:  # NaN too
            raise CheckpointError(
                f"{where}: {name} differs by {difference:.1e} from what the preprocessor section says"
            )
    return features
