"""First weights of an encoder: its output changes with the speech, at any depth; or they are those of another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import NemotronAsrStreamingEncoder, NemotronAsrStreamingEncoderConfig

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import CheckpointError
from bestow_edge.training.learning.first_weights import init_encoder
from bestow_edge.training.learning.run import Run
from bestow_edge.training.recipe.recipe import Recipe

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "subsampling_conv_channels": 16}


def variation(layers: int) -> float:
    """Standard deviation over time of what a fresh encoder of so many layers makes of noise, mean over channels."""
    torch.manual_seed(0)
    features = torch.randn(4, 240, 80) * 4.7 - 11.2  # the mean and deviation of log-mel of speech
    encoder = NemotronAsrStreamingEncoder(
        NemotronAsrStreamingEncoderConfig(num_hidden_layers=layers, scale_input=False, **SIZES)
    ).eval()
    init_encoder(encoder, features)
    with torch.no_grad():
        return encoder(features).last_hidden_state.std(dim=1).mean().item()


def test_depth_does_not_flatten_the_output() -> None:
    """Random branches leave a fifth of the variation after eight layers, and such an encoder does not learn."""
    assert variation(8) > 0.8
    assert variation(8) > 0.9 * variation(1)


def test_an_encoder_starts_from_some_layers_of_another(
    recipe_values: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    recipe_values["model"]["encoder"]["network"] |= {"num_hidden_layers": 3}
    whole = Run(decode(Recipe, recipe_values, "recipe"), corpus, tmp_path / "whole")
    whole.save(dict(whole.objective.state_dict()), tmp_path / "start")
    recipe_values["model"]["encoder"]["network"] |= {"num_hidden_layers": 2}
    recipe_values["model"] |= {"encoder_from": str(tmp_path / "start"), "encoder_layers": [0, 2]}
    part = Run(decode(Recipe, recipe_values, "recipe"), corpus, tmp_path / "part").objective.model.encoder.state_dict()
    there = whole.objective.model.encoder.state_dict()
    assert any(name.startswith("layers.1.") for name in part)
    for name, weight in part.items():
        assert torch.equal(weight, there[name.replace("layers.1.", "layers.2.", name.startswith("layers.1."))]), name

    recipe_values["model"] |= {"encoder_layers": [0, 3]}
    with pytest.raises(CheckpointError, match="its encoder has 3 layers, numbered from 0, and no 3"):
        Run(decode(Recipe, recipe_values, "recipe"), corpus, tmp_path / "no")
    recipe_values["model"] |= {"encoder_from": str(tmp_path / "nowhere"), "encoder_layers": [0, 2]}
    with pytest.raises(CheckpointError, match="nowhere"):
        Run(decode(Recipe, recipe_values, "recipe"), corpus, tmp_path / "no")
