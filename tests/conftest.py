"""Fixtures every test folder uses: a tiny random model as checkpoint and as bundles."""

from __future__ import annotations

import os
import platform
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from bestow_edge.core.config import FeatureConfig, ModelConfig, PolicyConfig
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.core.specs.windowed import WindowedConfig

pytest_plugins = ["microphones", "fake_portaudio", "displays", "fake_cuda", "sentences", "hub_server"]
AUDIO = Path(__file__).parent / "audio"
PAIRS = ("en-en", "en-de", "de-de", "de-en")

hypothesis.settings.register_profile("suite", max_examples=200, deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")


def pytest_configure() -> None:
    """Keep each of several test processes (`-n`) to a core of its own: their threads spin, and two on a core crawl.

    A run in the background (`nohup ... &`) ignores Ctrl-C, and so would the processes that tests start and stop.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    name = os.environ.get("PYTEST_XDIST_WORKER", "")
    if name and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(name.removeprefix("gw")) % len(cores)]})


def pytest_report_header() -> str:
    """Say what is tested with."""
    onnxruntime = pytest.importorskip("onnxruntime")
    providers = ", ".join(onnxruntime.get_available_providers())
    return f"numpy {np.__version__}, onnxruntime {onnxruntime.__version__} ({providers}), {platform.machine()}"


def complete(model_type: str, **values: Any) -> dict[str, Any]:
    """Return a transformers config as a dict with every field."""
    from transformers import AutoConfig

    full = AutoConfig.for_model(model_type, **values).to_dict() | {"model_type": model_type}
    return {key: value for key, value in full.items() if key not in {"dtype", "transformers_version"}}


def tiny_config(vocab_size: int = 300, **adapter: Any) -> ModelConfig:
    """Return a model of some hundred thousand weights, large enough to be quantised."""
    from bestow_edge.training.data.tokens import CHAT

    encoder = complete(
        "nemotron_asr_streaming_encoder",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        subsampling_conv_channels=8,
    )
    llm = complete(
        "llama",
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        max_position_embeddings=200,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return ModelConfig(
        encoder=ChunkedConfig(network=encoder),
        connector=CrossAdapterConfig(**({"num_layers": 2, "width": 64, "num_heads": 2} | adapter)),
        llm=llm,
        policy=PolicyConfig(k=3, l=4),
        chat=CHAT,
        pairs=PAIRS,
    )


def tiny_bidirectional_config(vocab_size: int = 300) -> ModelConfig:
    """Return the same model with a bidirectional encoder and the features that go with it."""
    encoder = complete(
        "parakeet_encoder",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        subsampling_conv_channels=8,
    )
    features = FeatureConfig(normalize="per_feature")
    return replace(tiny_config(vocab_size), encoder=WindowedConfig(network=encoder), features=features)


def random_model(config: ModelConfig, seed: int = 0) -> Any:
    """Return a model whose random weights are large enough for speech to change what it writes."""
    import torch

    from bestow_edge.model.base import SpeechModel

    torch.manual_seed(seed)
    model = SpeechModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.dim() > 1 else 0.1) + (weight.dim() == 1) * weight)
        for name, buffer in model.named_buffers():  # of batch norms
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture(scope="session")
def model_config() -> Callable[..., ModelConfig]:
    """`tiny_config`, for tests that want variants of it."""
    pytest.importorskip("torch")
    return tiny_config


@pytest.fixture(scope="session")
def bidirectional_config() -> Callable[..., ModelConfig]:
    """`tiny_bidirectional_config`."""
    pytest.importorskip("torch")
    return tiny_bidirectional_config


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """`random_model`, for tests that want models of other configs."""
    pytest.importorskip("torch")
    return random_model


@pytest.fixture(scope="session")
def save_random() -> Callable[..., Path]:
    """`save_random_model`, for tests that want checkpoints of other configs."""
    pytest.importorskip("torch")
    return save_random_model


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random checkpoint with a tokenizer trained on a few words."""
    return save_random_model(tiny_config, tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def bidirectional_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random checkpoint with a bidirectional encoder and the same tokenizer."""
    return save_random_model(tiny_bidirectional_config, tmp_path_factory.mktemp("checkpoint") / "bidirectional")


def save_random_model(config: Callable[[int], ModelConfig], directory: Path) -> Path:
    """Write the checkpoint of a random model and return its directory."""
    pytest.importorskip("torch")
    from bestow_edge.model.checkpoint import save_checkpoint
    from bestow_edge.training.data.tokens import train_tokenizer

    tokenizer = train_tokenizer(["one two three", "eins zwei drei"], PAIRS, 300)
    save_checkpoint(random_model(config(tokenizer.get_vocab_size())), tokenizer.to_str(), directory)
    return directory


@pytest.fixture(scope="session")
def traced_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Stand-in for `trace_graph` that traces each graph of `tiny_checkpoint` once: tracing takes most of an export."""
    import onnx_ir as ir

    from bestow_edge.export.tracing import trace_graph

    directory = tmp_path_factory.mktemp("traces")

    def trace(module: Any, spec: Any, inputs: Any) -> Any:
        path = directory / f"{spec.name}.onnx"
        if not path.is_file():
            ir.save(trace_graph(module, spec, inputs), path)
        return ir.load(path)

    return trace


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Path, traced_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Directory of the fp32 bundle of `tiny_checkpoint`."""
    from bestow_edge.export.pipeline import export_bundle

    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    export_bundle(tiny_checkpoint, directory, precision="fp32", progress=lambda _: None, trace=traced_once)
    return directory


@pytest.fixture(scope="session")
def tensorrt_bundle(
    tiny_checkpoint: Path, traced_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Directory of the float16 bundle of `tiny_checkpoint` that TensorRT reads."""
    from bestow_edge.export.pipeline import Check, export_bundle

    directory = tmp_path_factory.mktemp("bundle") / "tensorrt"
    options: dict[str, Any] = {"target": "tensorrt", "check": Check(least=0.5), "progress": lambda _: None}
    export_bundle(tiny_checkpoint, directory, **options, trace=traced_once)
    return directory


@pytest.fixture(scope="session")
def bidirectional_bundle(bidirectional_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the fp32 bundle of `bidirectional_checkpoint`."""
    from bestow_edge.export.pipeline import export_bundle

    directory = tmp_path_factory.mktemp("bundle") / "bidirectional"
    export_bundle(bidirectional_checkpoint, directory, precision="fp32", progress=lambda _: None)
    return directory


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Six seconds of speech-like noise at 16 kHz: syllables of changing pitch, (samples,) float32."""
    rng = np.random.default_rng(7)
    seconds = np.arange(6 * 16000) / 16000
    pitch = 120 + 60 * np.sin(2 * np.pi * 0.7 * seconds)
    voice = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / 16000)) * (np.sin(2 * np.pi * 3 * seconds) > 0)
    return (0.1 * voice + 0.01 * rng.standard_normal(seconds.size)).astype(np.float32)


@pytest.fixture
def no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any connection to another machine; processes of one machine may talk."""
    connect, local = socket.socket.connect, getattr(socket, "AF_UNIX", None)

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != local:
            raise AssertionError("a test went to the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
