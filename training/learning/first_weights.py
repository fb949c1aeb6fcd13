"""Initial weights of an encoder: random ones, or those of another encoder.

transformers initialises every matrix with a standard deviation of 0.02, which suits 1024 channels. In a small encoder
the output of the sub-sampling is then nearly constant, because log-mel features are far from zero mean and ReLUs keep
the offset. If each channel of the sub-sampling has zero mean and unit variance on real features (layer-sequential unit
variance, Mishkin and Matas 2015, arXiv 1511.06422), the plateau at the start of training is thousands of steps shorter.

A Conformer layer ends in a LayerNorm, so the output of its random branches is as large as its input. After eight such
layers the output hardly changes with time. If the branches start at zero (as in Fixup, Zhang et al. 2019, arXiv
1901.09321), each layer begins as an identity, and a deep encoder learns as fast as a shallow one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bestow_edge.core.errors import CheckpointError
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.training.learning.weights import load_state

LAYERS = "layers."  # prefix of the names of an encoder's layers


@torch.no_grad()
def init_encoder(encoder: PreTrainedModel, features: Tensor) -> None:
    """Initialise matrices by their sizes, branches with zeros, and standardise the sub-sampling on typical features.

    The encoder has random weights and transformers' FastConformer sub-sampling. The features are log-mel of typical
    speech without padding, (batch, frames, mel_bins) float.
    """
    for module in encoder.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            module.reset_parameters()
    for layer in encoder.layers:  # type: ignore[union-attr]  # torch types a module's attributes as Tensor or Module
        for last in (
            layer.feed_forward1.linear2,
            layer.self_attn.o_proj,
            layer.conv.pointwise_conv2,
            layer.feed_forward2.linear2,
        ):
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)
    subsampling: Any = encoder.subsampling  # Any: torch types a module's attributes as Tensor or Module
    stages = [subsampling.conv_in, *(layer.pointwise_conv for layer in subsampling.layers)]
    for stage in stages:
        _standardise(stage, subsampling, features, channel_axis=1, std=1.0)
    scale = float(encoder.input_scale)  # type: ignore[arg-type]  # as above; it is a float
    _standardise(subsampling.linear, subsampling, features, channel_axis=2, std=1.0 / scale)


def _standardise(stage: Any, subsampling: nn.Module, features: Tensor, *, channel_axis: int, std: float) -> None:
    """Scale and shift a layer so that each of its output channels has zero mean and standard deviation `std`."""
    outputs: list[Tensor] = []
    hook = stage.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    subsampling(features, None)
    hook.remove()
    channels = outputs[0].transpose(0, channel_axis).flatten(1)  # (channels, values)
    scale = std / (channels.std(1) + 1e-5)
    stage.weight.mul_(scale.view(-1, *[1] * (stage.weight.dim() - 1)))
    stage.bias.sub_(channels.mean(1)).mul_(scale)


def take_encoder(encoder: PreTrainedModel, checkpoint: Path, layers: Sequence[int]) -> None:
    """Load the encoder of a checkpoint, or some of its layers: numbers ascending from 0, none = all.

    `encoder` has the same sizes and the number of layers that are taken.

    Raises:
        CheckpointError: if there is no checkpoint, or its encoder has other sizes or lacks a layer.
    """
    state = load_checkpoint(checkpoint).encoder.state_dict()
    known = sorted({int(name.split(".")[1]) for name in state if name.startswith(LAYERS)})
    if missing := set(layers) - set(known):
        numbered = f"its encoder has {len(known)} layers, numbered from 0"
        raise CheckpointError(f"{checkpoint}: {numbered}, and no {min(missing)}")
    places = {layer: place for place, layer in enumerate(layers or known)}
    taken = {}
    for name, weight in state.items():
        if name.startswith(LAYERS):
            _, number, rest = name.split(".", 2)
            if int(number) in places:
                taken[f"{LAYERS}{places[int(number)]}.{rest}"] = weight
        else:
            taken[name] = weight
    load_state(encoder, taken, str(checkpoint))
