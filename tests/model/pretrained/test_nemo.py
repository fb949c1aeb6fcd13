"""Encoders out of `.nemo` files: NeMo's numbers, other sizes and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from graph_files import write_graph
from nemo_files import (
    BIDIRECTIONAL,
    CACHE_AWARE,
    CONTEXTS,
    nemo_config,
    nemo_fixture,
    random_weights,
    reference_encode,
    write_nemo,
)
from torch import Tensor

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.features import log_mel
from bestow_edge.core.graphs import graph_specs
from bestow_edge.core.specs.chunked import GRAPH, ChunkedConfig
from bestow_edge.core.specs.cross_adapter import KEYS, CrossAdapterConfig
from bestow_edge.export.graphs.nemotron_asr_streaming_encoder import EncoderChunk
from bestow_edge.export.graphs.parakeet_encoder import BidirectionalEncoder
from bestow_edge.export.parity import torch_reference
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.pretrained.components import EncoderPart
from bestow_edge.model.pretrained.nemo import nemo_encoder
from bestow_edge.model.pretrained.nemo_archive import read_nemo
from bestow_edge.runtime.devices.base import CPU
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph
from bestow_edge.runtime.encoders.chunked import EncoderState, EncoderStream
from bestow_edge.runtime.stream.listener import Listener

TOLERANCE = 1e-4  # float32 sums in another order; 1e-5 was measured, of values near 3
LOOKAHEADS = [right for _, right in CONTEXTS]
SIZES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"use_bias": False},
    "no scale": {"xscaling": False},
    "128 mel": {"features": 128},
    "wide": {"n_layers": 1, "d_model": 48, "n_heads": 2, "subsampling_conv_channels": -1, "conv_kernel_size": 31},
    "deep": {"n_layers": 4, "d_model": 16, "ff_expansion_factor": 4, "conv_kernel_size": 5},
}


def bestow(part: EncoderPart, llm: dict[str, Any]) -> SpeechModel:
    """Return a model whose adapter hands the encoder's output out as cross-attention keys, unchanged."""
    width = part.config.width
    config = ModelConfig(
        encoder=part.config,
        llm=llm,
        connector=CrossAdapterConfig(num_layers=1, width=width, num_heads=1),
        features=part.features,
    )
    model = SpeechModel.from_config(config)
    model.encoder.load_state_dict(part.module.state_dict())
    with torch.no_grad():
        model.connector.layers[0].cross_attention.key.weight.copy_(torch.eye(width))
        model.connector.layers[0].cross_attention.key.bias.zero_()
    return model.eval()


class TorchGraph:
    """The module that is exported, in the place of its graph."""

    device = CPU

    def __init__(self, model: SpeechModel) -> None:
        self.spec = graph_specs(model.config)[GRAPH]
        self._run = torch_reference(EncoderChunk(model).eval(), self.spec)
        self._feeds: dict[str, Any] = {}

    def runner(self) -> TorchGraph:
        return self

    def bind(self, arrays: dict[str, Any]) -> None:
        self._feeds |= arrays

    def run(self) -> dict[str, Any]:
        return self._run(self._feeds)


def chunked(model: SpeechModel, mel: Tensor, lookahead: int) -> Tensor:
    """Run the module that is exported chunk by chunk, as a session does; returns (steps, d_model)."""
    graph: Any = TorchGraph(model)
    stream = EncoderStream(graph, model.config, lookahead)
    state = stream.initial_state()
    state = stream.end(replace(state, frames=np.concatenate([state.frames, mel.numpy()])))
    keys = []
    while stream.has_chunk(state):
        chunk, state = stream.next_chunk(state)
        keys.append(torch.from_numpy(chunk.tensors[KEYS][0, 0, 0]))
    return torch.cat(keys)


@torch.no_grad()
def windowed(model: SpeechModel, mel: Tensor) -> Tensor:
    """Run the module that is exported for a bidirectional encoder over one window; returns (steps, d_model)."""
    frames = torch.tensor([mel.shape[0]])
    encoder = model.config.encoder
    padded = torch.nn.functional.pad(mel, (0, 0, 0, -mel.shape[0] % encoder.frames_per_step))
    keys, _ = BidirectionalEncoder(model).eval()(padded[None], frames)
    steps: Tensor = keys[0, 0, 0, : encoder.num_steps(mel.shape[0])]
    return steps


@torch.no_grad()
def whole(model: SpeechModel, mel: Tensor, lookahead: int | None = None) -> Tensor:
    """Run transformers' encoder over the utterance; returns (steps, d_model)."""
    speech = model.encode(mel[None], torch.tensor([mel.shape[0]]), lookahead)
    return speech.steps[0, : int(speech.lens)]


def assert_near(got: Tensor | npt.NDArray[np.float32], want: Tensor | npt.NDArray[np.float32]) -> None:
    assert got.shape == want.shape
    assert float(np.abs(np.asarray(got) - np.asarray(want)).max()) < TOLERANCE


def fixture(name: str) -> tuple[Path, dict[str, npt.NDArray[np.float32]]]:
    """Return a file that NeMo wrote and NeMo's outputs."""
    return nemo_fixture(f"{name}.nemo"), outputs_of_nemo(name)


def outputs_of_nemo(name: str) -> dict[str, npt.NDArray[np.float32]]:
    return dict(np.load(nemo_fixture(f"{name}.npz")))


@pytest.mark.parametrize(("name", "kind"), [("streaming", CACHE_AWARE), ("offline", BIDIRECTIONAL)])
def test_features_are_those_of_nemo(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    config = nemo_config(kind)  # with the preprocessor that these features were made with
    outputs = outputs_of_nemo(name)
    features = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, random_weights(config))).features
    frames = log_mel(outputs["waveform"], features)
    assert_near(frames, outputs["features"][: len(frames)])
    assert not outputs["features"][len(frames) :].any()  # NeMo pads with zeros


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_cache_aware_encoder_is_that_of_nemo(tiny_llm_config: dict[str, Any], lookahead: int) -> None:
    path, outputs = fixture("streaming")
    part = nemo_encoder(path)
    assert part.left_out == {"decoder": 2}
    assert part.config.right_contexts == (13, 6, 1, 0)
    model = bestow(part, tiny_llm_config)
    mel = torch.from_numpy(log_mel(outputs["waveform"], part.features))
    for encoded in (whole(model, mel, lookahead), chunked(model, mel, lookahead)):
        assert_near(encoded, outputs[f"encoded_70_{lookahead}"])


def test_bidirectional_encoder_is_that_of_nemo(tiny_llm_config: dict[str, Any]) -> None:
    path, outputs = fixture("offline")
    part = nemo_encoder(path)
    model = bestow(part, tiny_llm_config)
    mel = torch.from_numpy(log_mel(outputs["waveform"], part.features))
    for encoded in (whole(model, mel), windowed(model, mel)):
        assert_near(encoded, outputs["encoded"])


def test_a_waveform_through_the_exported_graph(tiny_llm_config: dict[str, Any], tmp_path: Path) -> None:
    outputs = outputs_of_nemo("streaming")
    path = nemo_fixture("streaming.nemo")
    model = bestow(nemo_encoder(path), tiny_llm_config)
    spec = graph_specs(model.config)[GRAPH]
    write_graph(EncoderChunk(model).eval(), spec, tmp_path / "encoder_chunk.onnx")
    graph = OnnxGraph(tmp_path / "encoder_chunk.onnx", spec, threads=1)
    file = read_nemo(path)
    for lookahead in LOOKAHEADS:
        listener: Listener[EncoderState] = Listener(EncoderStream(graph, model.config, lookahead), None)
        chunks = []
        for block in np.array_split(outputs["waveform"], 40):
            listener.add(block)
            while listener.has_chunk:
                chunks.append(listener.next_chunk())
        chunks += listener.rest()
        got = np.concatenate([chunk.tensors[KEYS][0, 0, 0] for chunk in chunks])
        mel = torch.from_numpy(outputs["features"][: len(outputs["waveform"]) // 160])  # as NeMo computed them
        assert_near(got, reference_encode(file.config, file.weights, mel, [70, lookahead]))
        if path.name == "streaming.nemo":
            assert_near(got, outputs[f"encoded_70_{lookahead}"])


@pytest.mark.parametrize("name", ["streaming", "offline"])
def test_the_reference_of_these_tests_is_that_of_nemo(name: str) -> None:
    path, outputs = fixture(name)
    file = read_nemo(path)
    mel = torch.from_numpy(outputs["features"][: len(outputs["waveform"]) // 160])
    contexts = {f"encoded_{left}_{right}": [left, right] for left, right in CONTEXTS}
    for output, context in contexts.items() if name == "streaming" else [("encoded", [-1, -1])]:
        assert_near(reference_encode(file.config, file.weights, mel, context), outputs[output])


@pytest.mark.parametrize("num_frames", [1, 100, 333])
@pytest.mark.parametrize("size", SIZES)
def test_cache_aware_encoders_of_other_sizes(
    tiny_llm_config: dict[str, Any], tmp_path: Path, size: str, num_frames: int
) -> None:
    config = nemo_config(CACHE_AWARE, **SIZES[size])
    weights = random_weights(config)
    part = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, weights, compressed=size == "plain"))
    model = bestow(part, tiny_llm_config)
    mel = 3 * torch.randn(num_frames, part.features.num_mel_bins, generator=torch.Generator().manual_seed(1)) - 10
    for lookahead in LOOKAHEADS if size == "plain" else [1]:
        want = reference_encode(config, weights, mel, [70, lookahead])
        assert_near(whole(model, mel, lookahead), want)
        assert_near(chunked(model, mel, lookahead), want)


@pytest.mark.parametrize("num_frames", [1, 100, 333])
@pytest.mark.parametrize("size", SIZES)
def test_bidirectional_encoders_of_other_sizes(
    tiny_llm_config: dict[str, Any], tmp_path: Path, size: str, num_frames: int
) -> None:
    config = nemo_config(BIDIRECTIONAL, **SIZES[size])
    weights = random_weights(config)
    part = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, weights))
    model = bestow(part, tiny_llm_config)
    mel = torch.randn(num_frames, part.features.num_mel_bins, generator=torch.Generator().manual_seed(1))
    want = reference_encode(config, weights, mel, [-1, -1])
    assert_near(whole(model, mel), want)
    assert_near(windowed(model, mel), want)


@pytest.mark.parametrize(
    ("contexts", "left", "lookaheads"),
    [([[56, 13], [56, 0]], 56, (13, 0)), ([40, 3], 40, (3,)), ([[70, 1], [70, 13]], 70, (1, 13))],
)
def test_contexts_and_the_first_is_the_default(
    tiny_llm_config: dict[str, Any], tmp_path: Path, contexts: Any, left: int, lookaheads: tuple[int, ...]
) -> None:
    config = nemo_config(CACHE_AWARE, att_context_size=contexts)
    weights = random_weights(config)
    part = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, weights))
    assert isinstance(part.config, ChunkedConfig)
    assert (part.config.left_context, part.config.lookaheads) == (left, lookaheads)
    assert part.config.default_lookahead == lookaheads[0]
    mel = torch.randn(700, 80, generator=torch.Generator().manual_seed(1))
    model = bestow(part, tiny_llm_config)
    want = reference_encode(config, weights, mel, [left, lookaheads[-1]])
    assert_near(chunked(model, mel, lookaheads[-1]), want)
    assert_near(whole(model, mel, lookaheads[-1]), want)


def test_the_front_end_comes_from_the_file(tmp_path: Path) -> None:
    config = nemo_config(BIDIRECTIONAL)
    config["preprocessor"] |= {"preemph": None, "window_size": 0.02, "n_fft": None, "log_zero_guard_value": "eps"}
    features = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, random_weights(config))).features
    assert (features.preemphasis, features.window_samples, features.n_fft) == (0.0, 320, 512)
    assert features.log_guard == float(np.finfo(np.float32).eps)
    assert features.normalize == "per_feature"


def test_weights_keep_their_dtype(tmp_path: Path) -> None:
    config = nemo_config(CACHE_AWARE)
    weights = {name: weight.bfloat16() for name, weight in random_weights(config).items()}
    part = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, weights))
    assert {weight.dtype for weight in part.module.parameters()} == {torch.bfloat16}


def encoder(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["encoder"].update(fields)


def preprocessor(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["preprocessor"].update(fields)


REFUSED: dict[str, Callable[[dict[str, Any]], object]] = {
    r"encoder: subsampling is 'striding'; only 'dw_striding' is supported": encoder(subsampling="striding"),
    r"encoder: subsampling_factor is 4; only 8": encoder(subsampling_factor=4),
    r"self_attention_model is 'abs_pos'; only 'rel_pos'": encoder(self_attention_model="abs_pos"),
    r"conv_norm_type batch_norm, .*supported are cache-aware": encoder(conv_norm_type="batch_norm"),
    r"causal_downsampling False, .*supported are cache-aware": encoder(causal_downsampling=False),
    r"conv_context_size \[4, 4\]|conv_context_size centred": encoder(conv_context_size=[4, 4]),
    r"all left contexts must be the same and limited": encoder(att_context_size=[[70, 1], [56, 1]]),
    r"left contexts must be the same and limited": encoder(att_context_size=[-1, 13]),
    r"chunk of 4 steps does not divide left_context 70": encoder(att_context_size=[70, 3]),
    r"feat_out 12 projects the output": encoder(feat_out=12),
    r"unknown flux_capacitor; .*refused": encoder(flux_capacitor=True),
    r"n_layers is '\$\{x\}', expected a whole number": encoder(n_layers="${x}"),
    r"is a squeezeformer\.SqueezeformerEncoder; only ConformerEncoder": encoder(
        _target_="squeezeformer.SqueezeformerEncoder"
    ),
    r"encoder: d_model is missing": lambda config: config["encoder"].pop("d_model"),
    r"encoder: there is no such section": lambda config: config.pop("encoder"),
    r"preprocessor: window is 'hamming'; only 'hann'": preprocessor(window="hamming"),
    r"preprocessor: unknown tempo": preprocessor(tempo=2),
    r"highfreq 4000; only half": preprocessor(highfreq=4000),
    r"normalize 'all_features'; only": preprocessor(normalize="all_features"),
    r"normalize is per_feature, which needs the whole utterance": preprocessor(normalize="per_feature"),
    r"80 mel bins|weights of another shape: subsampling": encoder(feat_in=64),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_computed_is_refused(tmp_path: Path, message: str) -> None:
    config = nemo_config(CACHE_AWARE)
    weights = random_weights(config)
    REFUSED[message](config)
    path = write_nemo(tmp_path / "m.nemo", config, weights)
    with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
        nemo_encoder(path)
    assert str(path) in str(caught.value) or "left_context" in message


def test_missing_and_surplus_weights_are_named(tmp_path: Path) -> None:
    config = nemo_config(CACHE_AWARE)
    weights = random_weights(config)
    gone = {name for name in weights if name.startswith("encoder.layers.1.")}
    odd = {name: tensor for name, tensor in weights.items() if name not in gone}
    odd |= {"encoder.layers.0.adapter_layer.x": torch.zeros(1), "speaker.weight": torch.zeros(1)}
    path = write_nemo(tmp_path / "m.nemo", config, odd)
    with pytest.raises(CheckpointError, match=rf"{len(gone)} missing weights: layers\.1.* \d+ more \(--all-names\)"):
        nemo_encoder(path)
    with pytest.raises(CheckpointError, match=r"2 unknown weights: layers\.0\.adapter_layer\.x, speaker\.weight"):
        nemo_encoder(path)
    with pytest.raises(CheckpointError, match=r"missing weights: .*layers\.1\.self_attn\.v_proj\.weight") as caught:
        nemo_encoder(path, every_name=True)
    assert "more" not in str(caught.value)


def test_other_parts_are_counted(tmp_path: Path) -> None:
    config = nemo_config(CACHE_AWARE)
    more = {"joint.enc.weight": torch.zeros(1), "ctc_decoder.decoder_layers.0.bias": torch.zeros(1)}
    part = nemo_encoder(write_nemo(tmp_path / "m.nemo", config, random_weights(config) | more))
    assert part.left_out == {"decoder": 2, "joint": 1, "ctc_decoder": 1}


def test_stored_filters_must_be_those_of_the_front_end(tmp_path: Path) -> None:
    config = nemo_config(CACHE_AWARE)
    odd = random_weights(config) | {"preprocessor.featurizer.fb": torch.zeros(1, 80, 257)}
    with pytest.raises(CheckpointError, match=r"featurizer\.fb differs by 2\.6e-02 from"):
        nemo_encoder(write_nemo(tmp_path / "m.nemo", config, odd))
