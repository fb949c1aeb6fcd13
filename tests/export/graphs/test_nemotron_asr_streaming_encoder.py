"""The `encoder_chunk` module and graph: chunk by chunk = transformers' whole utterance, PyTorch = onnxruntime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.chunked import FIRST_FRAME, ChunkedConfig, attention_caches, convolution_caches
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.export.graphs.base import speech_side
from bestow_edge.export.graphs.nemotron_asr_streaming_encoder import EncoderChunk
from bestow_edge.export.parity import torch_reference
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph

BINS = 80
FRAMES_PER_STEP = ChunkedConfig.frames_per_step
TOLERANCE = 1e-4  # float32 sums in another order over 150 chunks, values near 3; 1e-5 was measured


@pytest.fixture(scope="module")
def model(model_config: Callable[..., ModelConfig], make_model: Callable[..., Any]) -> SpeechModel:
    """A random model."""
    built: SpeechModel = make_model(model_config())
    return built


def stream(model: SpeechModel, mel: torch.Tensor, lookahead: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the chunk module over (frames, mel_bins) and return all keys and values, (layers, 1, heads, steps, dim)."""
    chunk_module = EncoderChunk(model).eval()
    frames = FRAMES_PER_STEP * (lookahead + 1)
    padded = torch.cat([torch.zeros(FIRST_FRAME, BINS), mel])
    rings, states = (
        [torch.zeros([1 if axis == "batch" else axis for axis in t.axes]) for t in tensors]
        for tensors in (attention_caches(model.config), convolution_caches(model.config))
    )
    keys, values, past = [], [], 0
    for start in range(0, padded.shape[0], frames):
        chunk = padded[start : start + frames]
        end = chunk.shape[0]
        chunk = torch.nn.functional.pad(chunk, (0, 0, 0, frames - end))
        numbers = [torch.tensor([number]) for number in (FIRST_FRAME if start == 0 else 0, end, past)]
        with torch.no_grad():
            new_keys, new_values, *rest = chunk_module(chunk[None], *numbers, *rings, *states)
        new, states = rest[: len(rings)], rest[len(rings) :]
        for ring, steps in zip(rings, new, strict=True):
            ring[:, :, (past + torch.arange(lookahead + 1)) % ring.shape[2]] = steps
        real = -(-end // FRAMES_PER_STEP)
        keys.append(new_keys[:, :, :, :real])
        values.append(new_values[:, :, :, :real])
        past += lookahead + 1
    return torch.cat(keys, 3), torch.cat(values, 3)


@pytest.mark.parametrize("lookahead", [13, 6, 1, 0])
@pytest.mark.parametrize("num_frames", [1, 2, 9, 10, 100, 333, 1200, 1201])
def test_chunks_equal_the_whole_utterance(model: SpeechModel, num_frames: int, lookahead: int) -> None:
    mel = 3 * torch.randn(num_frames, BINS, generator=torch.Generator().manual_seed(num_frames)) - 10
    got_keys, got_values = stream(model, mel, lookahead)
    with torch.no_grad():
        speech = model.encode(mel[None], torch.tensor([num_frames]), lookahead)
        want_keys, want_values = speech_side(model)(speech.steps)
    assert want_keys.shape[3] == speech.lens.item()
    torch.testing.assert_close(got_keys, want_keys, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(got_values, want_values, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 7, 9, 14])
def test_graph_equals_the_module(tiny_checkpoint: Path, tiny_bundle: Path, steps: int, batch: int) -> None:
    manifest = read_manifest(tiny_bundle)
    spec = manifest.specs[ENCODER]
    runner = OnnxGraph(tiny_bundle / "encoder_chunk.onnx", spec, threads=1).runner()
    rng = np.random.default_rng(steps)
    frames = FRAMES_PER_STEP * steps
    feeds: dict[str, Any] = {
        "mel": (3 * rng.standard_normal((batch, frames, BINS)) - 10).astype(np.float32),
        "frame_start": np.full(batch, 3),
        "frame_end": frames - np.arange(batch),
        "past_steps": 100 * np.arange(batch) + 30,
    }
    for tensor in (*attention_caches(manifest.model), *spec.states):
        shape = [batch if axis == "batch" else axis for axis in tensor.axes]
        feeds[tensor.name] = rng.standard_normal(shape).astype(np.float32)
    reference = torch_reference(EncoderChunk(load_checkpoint(tiny_checkpoint)).eval(), spec)
    runner.bind(feeds)
    got, want = runner.run(), reference(feeds)
    assert got.keys() == want.keys() == set(spec.output_names)
    for name, array in got.items():
        np.testing.assert_allclose(array, want[name], atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)
