"""First weights of an encoder: random ones that learn, or those of another encoder. Torch only.

transformers fills every matrix with a normal of standard deviation 0.02, which suits 1024 channels. In a small encoder
the sub-sampling then passes on little but a constant: log-mel features are far from zero mean and ReLUs keep it so.
Giving each channel of the sub-sampling zero mean and unit variance on real features (layer-sequential unit variance,
Mishkin and Matas 2015, arXiv 1511.06422) takes thousands of steps off the plateau at the start of training.

A Conformer layer ends in a LayerNorm, so what its random branches add is never small beside its input: after eight such
layers little of the output changes with time. Branches that start at zero (as in Fixup, Zhang et al. 2019, arXiv
1901.09321) make every layer begin as an identity, and a deep encoder then learns as fast as a shallow one.
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

LAYERS = "layers."  # how the names of an encoder's layers begin


@torch.no_grad()
def init_encoder(encoder: PreTrainedModel, features: Tensor) -> None:
    """Weights for each layer's fan-in, silent branches, and a sub-sampling standardised on typical features.

    Args:
        encoder: an encoder with random weights and transformers' FastConformer sub-sampling.
        features: (batch, frames, mel_bins) float log-mel of typical speech, no padding.
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
    """Load the weights of a checkpoint's encoder, or of some of its layers.

    Args:
        encoder: an encoder of the same sizes, with as many layers as are taken.
        checkpoint: directory of a whole model.
        layers: which layers, ascending from 0; empty = all.

    Raises:
        CheckpointError: there is no checkpoint, or its encoder has other sizes or no such layer.
    """
    state = load_checkpoint(checkpoint).encoder.state_dict()
    there = sorted({int(name.split(".")[1]) for name in state if name.startswith(LAYERS)})
    if missing := set(layers) - set(there):
        raise CheckpointError(
            f"{checkpoint}: its encoder has {len(there)} layers, numbered from 0, and no {min(missing)}"
        )
    places = {layer: place for place, layer in enumerate(layers or there)}
    taken = {}
    for name, weight in state.items():
        if name.startswith(LAYERS):
            _, number, rest = name.split(".", 2)
            if int(number) in places:
                taken[f"{LAYERS}{places[int(number)]}.{rest}"] = weight
        else:
            taken[name] = weight
    load_state(encoder, taken, str(checkpoint))
