"""First weights of an encoder: its output changes with the speech, at any depth."""

import torch
from transformers import NemotronAsrStreamingEncoder, NemotronAsrStreamingEncoderConfig

from bestow_edge.training.initial import init_encoder

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
