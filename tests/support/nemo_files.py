"""`.nemo` files with random weights of any size, and NeMo's encoder written down plainly, to hold others against it.

The reference follows NeMo's `ConformerEncoder` (rel_pos, dw_striding) from its description: one utterance, no padding,
every distance of the relative positions on its own. It is itself held against NeMo's outputs, see fixtures/nemo.
"""

from __future__ import annotations

import io
import math
import tarfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "nemo"
CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]
CACHE_AWARE = {
    "causal_downsampling": True, "att_context_style": "chunked_limited", "att_context_size": CONTEXTS,
    "conv_norm_type": "layer_norm", "conv_context_size": "causal",
}  # fmt: skip
BIDIRECTIONAL = {
    "causal_downsampling": False, "att_context_style": "regular", "att_context_size": [-1, -1],
    "conv_norm_type": "batch_norm", "conv_context_size": None,
}  # fmt: skip


def nemo_fixture(name: str) -> Path:
    """Return a file that NeMo wrote."""
    return FIXTURES / name


def nemo_config(kind: dict[str, Any], features: int = 80, **encoder: Any) -> dict[str, Any]:
    """Return the config of a small model; `kind` is CACHE_AWARE or BIDIRECTIONAL, `encoder` changes fields."""
    return {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000, "normalize": "NA" if kind is CACHE_AWARE else "per_feature", "window_size": 0.025,
            "window_stride": 0.01, "window": "hann", "features": features, "n_fft": 512, "log": True,
            "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": features, "feat_out": -1, "n_layers": 2, "d_model": 32, "subsampling": "dw_striding",
            "subsampling_factor": 8, "subsampling_conv_channels": 8, "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos", "n_heads": 4, "xscaling": True, "untie_biases": True,
            "pos_emb_max_len": 5000, "conv_kernel_size": 9, "dropout": 0.1, "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0, "dropout_att": 0.1, **kind, **encoder,
        },
        "decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "vocabulary": ["a"]},
    }  # fmt: skip


def random_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Return the state dict that NeMo's save_to would write for a config, with random numbers."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config["encoder"]).items():
        weight = torch.randn(shape, generator=draw) * (0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)
        if len(shape) == 1 and name.endswith(".weight"):
            weight += 1
        weights[name] = weight
        if name.endswith("running_var"):
            weights[name] = weight.abs() + 0.5
            weights[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return weights


def weight_shapes(section: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of NeMo's encoder and of a CTC decoder behind it."""
    width, channels = section["d_model"], section["subsampling_conv_channels"]
    channels = width if channels == -1 else channels
    shapes: dict[str, tuple[int, ...]] = {}
    add(shapes, "encoder.pre_encode.conv.0", channels, 1, 3, 3)
    for depthwise in (2, 5):
        add(shapes, f"encoder.pre_encode.conv.{depthwise}", channels, 1, 3, 3)
        add(shapes, f"encoder.pre_encode.conv.{depthwise + 1}", channels, channels, 1, 1)
    add(shapes, "encoder.pre_encode.out", width, channels * out_bins(section))
    for index in range(section["n_layers"]):
        add_block(shapes, f"encoder.layers.{index}", section)
    add(shapes, "decoder.decoder_layers.0", 2, width, 1)
    return shapes


def add(shapes: dict[str, tuple[int, ...]], name: str, *shape: int, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = shape
    if bias:
        shapes[f"{name}.bias"] = shape[:1]


def add_block(shapes: dict[str, tuple[int, ...]], block: str, section: dict[str, Any]) -> None:
    width, heads, bias = section["d_model"], section["n_heads"], section.get("use_bias", True)
    inner = width * section["ff_expansion_factor"]
    for norm in ("norm_feed_forward1", "norm_conv", "norm_self_att", "norm_feed_forward2", "norm_out"):
        add(shapes, f"{block}.{norm}", width)
    for ffn in ("feed_forward1", "feed_forward2"):
        add(shapes, f"{block}.{ffn}.linear1", inner, width, bias=bias)
        add(shapes, f"{block}.{ffn}.linear2", width, inner, bias=bias)
    for name in ("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos"):
        add(shapes, f"{block}.self_attn.{name}", width, width, bias=bias and name != "linear_pos")
    shapes |= {f"{block}.self_attn.pos_bias_{name}": (heads, width // heads) for name in "uv"}
    add(shapes, f"{block}.conv.pointwise_conv1", 2 * width, width, 1, bias=bias)
    add(shapes, f"{block}.conv.depthwise_conv", width, 1, section["conv_kernel_size"], bias=bias)
    add(shapes, f"{block}.conv.pointwise_conv2", width, width, 1, bias=bias)
    add(shapes, f"{block}.conv.batch_norm", width)
    if section["conv_norm_type"] == "batch_norm":
        shapes |= {f"{block}.conv.batch_norm.running_{name}": (width,) for name in ("mean", "var")}


def out_bins(section: dict[str, Any]) -> int:
    """Return the mel bins that three convolutions of stride 2 leave."""
    bins = section["feat_in"]
    for _ in range(3):
        bins = bins // 2 + 1 if section["causal_downsampling"] else (bins - 1) // 2 + 1
    return int(bins)


def write_nemo(path: Path, config: dict[str, Any], weights: Any, *, compressed: bool = False) -> Path:
    """Pack a `.nemo` file as NeMo does, older versions with compression."""
    packed = io.BytesIO()
    torch.save(weights, packed)
    members = {"model_config.yaml": yaml.safe_dump(config).encode(), "model_weights.ckpt": packed.getvalue()}
    with tarfile.open(path, "w:gz" if compressed else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@torch.no_grad()
def reference_encode(config: dict[str, Any], weights: Weights, mel: Tensor, context: list[int]) -> Tensor:
    """Return what NeMo's encoder gives for one utterance.

    Args:
        config: the whole config.
        weights: NeMo's state dict.
        mel: (frames, mel_bins) float.
        context: left and right context in steps, [-1, -1] for none.

    Returns:
        (steps, d_model) float.
    """
    section = config["encoder"]
    own = {name.removeprefix("encoder."): weight for name, weight in weights.items() if name.startswith("encoder.")}
    x = _subsample(section, own, mel)  # (steps, d_model)
    if section["xscaling"]:
        x = x * math.sqrt(section["d_model"])
    visible = _visible(x.shape[0], context)
    for index in range(section["n_layers"]):
        prefix = f"layers.{index}."
        block = {name.removeprefix(prefix): weight for name, weight in own.items() if name.startswith(prefix)}
        x = x + 0.5 * _feed_forward(block, "feed_forward1", x)
        x = x + _attend(section, block, _norm(block, "norm_self_att", x), visible)
        x = x + _convolve(section, block, _norm(block, "norm_conv", x))
        x = x + 0.5 * _feed_forward(block, "feed_forward2", x)
        x = _norm(block, "norm_out", x)
    return x


def _subsample(section: dict[str, Any], own: Weights, mel: Tensor) -> Tensor:
    pads = (2, 1, 2, 1) if section["causal_downsampling"] else (1, 1, 1, 1)
    x = mel[None, None]  # (1, 1, frames, mel_bins)
    for index, groups in ((0, 1), (2, None), (5, None)):
        conv = f"pre_encode.conv.{index}"
        channels = groups or x.shape[1]
        x = F.conv2d(F.pad(x, pads), own[f"{conv}.weight"], own[f"{conv}.bias"], stride=2, groups=channels)
        if groups is None:
            conv = f"pre_encode.conv.{index + 1}"
            x = F.conv2d(x, own[f"{conv}.weight"], own[f"{conv}.bias"])
        x = F.relu(x)
    x = x[0].transpose(0, 1).flatten(1)  # (steps, channels * bins)
    return F.linear(x, own["pre_encode.out.weight"], own["pre_encode.out.bias"])


def _visible(steps: int, context: list[int]) -> Tensor:
    """Say which steps each step sees, (steps, steps) bool: NeMo's chunked_limited, or all."""
    left, right = context
    if left < 0:
        return torch.ones(steps, steps, dtype=torch.bool)
    chunk = torch.arange(steps) // (right + 1)
    behind = chunk[:, None] - chunk
    return (behind >= 0) & (behind <= left // (right + 1))


def _norm(block: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], block[f"{name}.weight"], block[f"{name}.bias"])


def _linear(block: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, block[f"{name}.weight"].flatten(1), block.get(f"{name}.bias"))


def _feed_forward(block: Weights, name: str, x: Tensor) -> Tensor:
    return _linear(block, f"{name}.linear2", F.silu(_linear(block, f"{name}.linear1", _norm(block, f"norm_{name}", x))))


def _attend(section: dict[str, Any], block: Weights, x: Tensor, visible: Tensor) -> Tensor:
    steps, width = x.shape
    heads = section["n_heads"]
    head_dim = width // heads
    query, key, value = (_linear(block, f"self_attn.linear_{n}", x).view(steps, heads, head_dim) for n in "qkv")
    distance = torch.arange(steps)[:, None] - torch.arange(steps)  # (steps, steps)
    angle = distance[..., None] / 10000 ** (torch.arange(0, width, 2) / width)
    position = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(2)  # (steps, steps, d_model)
    table = F.linear(position, block["self_attn.linear_pos.weight"]).view(steps, steps, heads, head_dim)
    scores = torch.einsum("ihd,jhd->hij", query + block["self_attn.pos_bias_u"], key)
    scores = scores + torch.einsum("ihd,ijhd->hij", query + block["self_attn.pos_bias_v"], table)
    weights = (scores / math.sqrt(head_dim)).masked_fill(~visible, -torch.inf).softmax(-1)
    return _linear(block, "self_attn.linear_out", torch.einsum("hij,jhd->ihd", weights, value).reshape(steps, width))


def _convolve(section: dict[str, Any], block: Weights, x: Tensor) -> Tensor:
    kernel = section["conv_kernel_size"]
    x = F.glu(_linear(block, "conv.pointwise_conv1", x), dim=-1).T[None]  # (1, d_model, steps)
    around = (kernel - 1, 0) if section["conv_context_size"] == "causal" else (kernel // 2, kernel // 2)
    name = "conv.depthwise_conv"
    x = F.conv1d(F.pad(x, around), block[f"{name}.weight"], block.get(f"{name}.bias"), groups=x.shape[1])
    if section["conv_norm_type"] == "layer_norm":
        x = _norm(block, "conv.batch_norm", x[0].T)
    else:
        own = [block[f"conv.batch_norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *own)[0].T
    return _linear(block, "conv.pointwise_conv2", F.silu(x))
