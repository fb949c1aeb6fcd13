"""The connector of a SALM: NeMo's `modality_adapter` and `proj` as a connector of kind `prepend`.

Source of fields and names: NeMo 3.0.0, `speechlm2/modules/perception.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.prepend import PrependConfig, QformerConfig
from bestow_edge.core.specs.windowed import PARAKEET, WindowedConfig
from bestow_edge.model.pretrained.components import build_encoder, plain_config
from bestow_edge.model.pretrained.nemo import renamed
from bestow_edge.model.pretrained.nemo_config import encoder_config

Fields = dict[str, Any]  # Any: decoded JSON
IDENTITY, CONFORMER = "IdentityConnector", "ConformerEncoder"  # classes of NeMo
LAYERS, QFORMER = "MultiLayerProjectionConnector", "QformerConnector"
_ADAPTER, _PROJECTION = "modality_adapter.", "proj."
_NAMES = {
    "layer_prompts.": "connector.qformer.queries.",
    "layer_weights": "connector.qformer.tap_weights",
    "qformer.": "connector.qformer.bert.",
    "proj.0.": "connector.qformer.norm.",
    "proj.1.": "connector.projection.",
    "proj.": "connector.projection.",
    "pre_encode.": "connector.conformer.input.",
}
"""Starts of names in `modality_adapter`, the first that fits; others are those of Conformer layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layers:
    """Fields of `MultiLayerProjectionConnector`."""

    target_layer_ids: tuple[int, ...]
    include_final_output: bool = True
    input_dim: int
    output_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Qformer:
    """Fields of `QformerConnector`."""

    target_layer_ids: tuple[int, ...]
    include_final_output: bool = True
    prompt_size: int
    qformer_num_hidden_layers: int
    encoder_config: dict[str, Any]
    llm_config: dict[str, Any]


def salm_connector(
    perception: Fields, network: Fields, speech_token: int, where: str
) -> tuple[PrependConfig, tuple[int, ...]]:
    """Return the connector, and the taps of the encoder that it reads.

    Args:
        perception: the section of the config.
        network: transformers config of the encoder.
        speech_token: the token whose place speech takes.
        where: the source, for messages.

    Raises:
        ConfigError: if the section describes a connector that is not supported, or one that does not fit the encoder.
    """
    adapter = perception.get("modality_adapter")
    target = str(adapter.get("_target_")) if isinstance(adapter, dict) else "missing"
    kind = target.rpartition(".")[2]
    where = f"{where}: perception.modality_adapter"
    if isinstance(adapter, dict) and kind in (IDENTITY, CONFORMER) and "d_model" in adapter:
        conformer = _conformer(adapter, where) if kind == CONFORMER else None
        return PrependConfig(speech_token=speech_token, conformer=conformer), ()
    if not isinstance(adapter, dict) or kind not in (LAYERS, QFORMER):
        expected = f"{IDENTITY} and {CONFORMER}, with a d_model, {LAYERS} and {QFORMER} are supported"
        raise ConfigError(f"{where} is {target}; only {expected}")
    if network["model_type"] != PARAKEET:
        got = f"{where} is {target}, which reads several layers, but the encoder goes chunk by chunk"
        raise ConfigError(f"{got}; only one that hears both ways is supported")
    section = {name: value for name, value in adapter.items() if name != "_target_"}
    if kind == LAYERS:
        layers = decode(_Layers, section, where)
        return PrependConfig(speech_token=speech_token), _taps(layers, network["num_hidden_layers"], where)
    qformer = decode(_Qformer, section, where)
    if (width := qformer.encoder_config.get("d_model")) != network["hidden_size"]:
        raise ConfigError(f"{where}: encoder_config.d_model {width}, but the encoder has {network['hidden_size']}")
    sizes = {
        "num_queries": qformer.prompt_size,
        "num_layers": qformer.qformer_num_hidden_layers,
        "num_heads": qformer.encoder_config.get("encoder_attention_heads"),
    }
    connector = PrependConfig(speech_token=speech_token, qformer=decode(QformerConfig, sizes, where))
    return connector, _taps(qformer, network["num_hidden_layers"], where)


def connector_name(name: str) -> str | None:
    """Return our name of a connector's weight, None for a weight of another part.

    Args:
        name: as NeMo's `perception` has it.
    """
    if name.startswith(_PROJECTION):
        return "connector.projection." + name.removeprefix(_PROJECTION)
    if not name.startswith(_ADAPTER):
        return None
    inner = name.removeprefix(_ADAPTER)
    for theirs, ours in _NAMES.items():
        if inner.startswith(theirs):
            return ours + inner.removeprefix(theirs)
    return "connector.conformer." + renamed(inner, PARAKEET)


def _conformer(adapter: Fields, where: str) -> Fields:
    """Return the config of the Conformer layers between the encoder and the projection.

    Raises:
        ConfigError: if they do more than layers over the encoder's steps.
    """
    if (factor := adapter.get("subsampling_factor")) != 1:
        raise ConfigError(f"{where}: subsampling_factor is {factor}; only 1 is supported")
    whole = {"encoder": adapter | {"subsampling_factor": WindowedConfig.frames_per_step}}  # as of an encoder
    network = plain_config(build_encoder(encoder_config(whole, where), where).config)
    if network["model_type"] != PARAKEET:
        raise ConfigError(f"{where}: it goes chunk by chunk; only layers that hear both ways are supported")
    return network


def _taps(section: _Layers | _Qformer, layers: int, where: str) -> tuple[int, ...]:
    """Return the layers in NeMo's order: ascending, and the last one for the final output.

    Raises:
        ConfigError: if there are no such layers.
    """
    named = section.target_layer_ids
    if not named or not all(-layers <= layer < layers for layer in named):
        expected = f"at least one of the encoder's {layers} layers"
        raise ConfigError(f"{where}: target_layer_ids {list(named)}; expected {expected}")
    final = (layers - 1,) if section.include_final_output else ()
    return (*sorted(layer % layers for layer in named), *final)
