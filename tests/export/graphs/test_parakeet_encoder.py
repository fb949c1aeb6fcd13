"""The `encoder_window` module and graph = transformers' own forward pass, at any number of frames; int8."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_files import quantize_file

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.comparison import relative_error
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ExportError
from bestow_edge.core.specs.windowed import GRAPH as WINDOW
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.export.graphs.base import graph_sources, speech_side
from bestow_edge.export.graphs.parakeet_encoder import BidirectionalEncoder
from bestow_edge.export.parity import compare, expected_outputs, torch_reference
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph

BINS = 80
FRAMES_PER_STEP = WindowedConfig.frames_per_step
TOLERANCE = 1e-4  # float32 sums in another order, values near 10; 1e-5 was measured
FRAMES = [1, 2, 7, 8, 9, 131, 136, 137, 1999]
GARBAGE = 7.0  # behind the last real frame


@pytest.fixture(scope="module")
def model(bidirectional_checkpoint: Path) -> SpeechModel:
    """The checkpoint of the bundle."""
    return load_checkpoint(bidirectional_checkpoint)


def transformers_keys_values(model: SpeechModel, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode (frames, mel_bins) without any padding."""
    with torch.no_grad():
        speech = model.encode(mel[None], torch.tensor([mel.shape[0]]))
        keys, values = speech_side(model)(speech.steps)
    return keys, values


def mel_of(num_frames: int) -> torch.Tensor:
    return torch.randn(num_frames, BINS, generator=torch.Generator().manual_seed(num_frames))


def filled_up(mels: list[torch.Tensor]) -> dict[str, Any]:
    """Return the feeds of a batch, padded to whole steps of the longest."""
    steps = -(-max(mel.shape[0] for mel in mels) // FRAMES_PER_STEP)
    mel = np.full((len(mels), steps * FRAMES_PER_STEP, BINS), GARBAGE, dtype=np.float32)
    for row, one in zip(mel, mels, strict=True):
        row[: one.shape[0]] = one.numpy()
    return {"mel": mel, "frame_end": np.array([one.shape[0] for one in mels])}


@pytest.mark.parametrize("num_frames", FRAMES)
def test_module_and_graph_equal_transformers(model: SpeechModel, bidirectional_bundle: Path, num_frames: int) -> None:
    spec = read_manifest(bidirectional_bundle).specs[WINDOW]
    runner = OnnxGraph(bidirectional_bundle / f"{WINDOW}.onnx", spec, threads=1).runner()
    mel = mel_of(num_frames)
    feeds = filled_up([mel])
    runner.bind(feeds)
    in_torch = torch_reference(BidirectionalEncoder(model).eval(), spec)(feeds)
    in_onnx = runner.run()
    for name, want in zip(spec.output_names, transformers_keys_values(model, mel), strict=True):
        assert want.shape[3] == -(-num_frames // FRAMES_PER_STEP)
        np.testing.assert_allclose(in_torch[name], want.numpy(), atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_allclose(in_onnx[name], want.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


def test_batch_items_do_not_touch_each_other(model: SpeechModel, bidirectional_bundle: Path) -> None:
    spec = read_manifest(bidirectional_bundle).specs[WINDOW]
    runner = OnnxGraph(bidirectional_bundle / f"{WINDOW}.onnx", spec, threads=1).runner()
    mels = [mel_of(num_frames) for num_frames in (40, 33, 3, 25)]
    runner.bind(filled_up(mels))
    got = runner.run()
    for item, mel in enumerate(mels):
        for name, want in zip(spec.output_names, transformers_keys_values(model, mel), strict=True):
            real = got[name][:, item : item + 1, :, : want.shape[3]]
            np.testing.assert_allclose(real, want.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


def test_one_graph_takes_ten_minutes(bidirectional_bundle: Path) -> None:
    """Far more than it was traced with: no size is built in. In layers of width 64 that is soon done."""
    spec = read_manifest(bidirectional_bundle).specs[WINDOW]
    runner = OnnxGraph(bidirectional_bundle / f"{WINDOW}.onnx", spec, threads=1).runner()
    runner.bind(filled_up([mel_of(FRAMES_PER_STEP * 1500)]))
    assert runner.run()["cross_keys"].shape == (2, 1, 2, 1500, 32)


def test_int8(model: SpeechModel, bidirectional_bundle: Path, tmp_path: Path) -> None:
    source = graph_sources(model.config)[WINDOW]
    quantize_file(bidirectional_bundle / f"{WINDOW}.onnx", tmp_path / "int8.onnx")
    expected = expected_outputs(BidirectionalEncoder(model).eval(), source)
    rows = compare(tmp_path / "int8.onnx", source.spec, source, expected, "int8")
    assert [row.case for row in rows] == ["batch=1 frames=40", "batch=1 frames=3000", "batch=8 frames=24"]
    assert all(1e-4 < row.error < 0.25 for row in rows)
    size = (tmp_path / "int8.onnx").stat().st_size
    assert size < 0.65 * (bidirectional_bundle / f"{WINDOW}.onnx").stat().st_size


def test_a_wrong_position_would_be_noticed(model: SpeechModel, bidirectional_bundle: Path) -> None:
    spec = read_manifest(bidirectional_bundle).specs[WINDOW]
    module = BidirectionalEncoder(model).eval()
    feeds = filled_up([mel_of(136)])
    want = torch_reference(module, spec)(feeds)
    module.layers.frequencies *= 1.01
    assert relative_error(torch_reference(module, spec)(feeds), want) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subsampling_conv_kernel_size": 4}, "subsampling_conv_kernel_size 4 and subsampling_conv_stride 2; export"),
        ({"subsampling_conv_stride": 3}, "kernel_size 3 and subsampling_conv_stride 3; export needs an odd kernel"),
    ],
)
def test_another_subsampling_is_refused(
    bidirectional_config: Callable[..., ModelConfig], change: dict[str, int], message: str
) -> None:
    config = bidirectional_config()
    encoder = replace(config.encoder, network=config.encoder.network | change)
    model = SpeechModel.from_config(replace(config, encoder=encoder))
    with pytest.raises(ExportError, match=message):
        BidirectionalEncoder(model)
