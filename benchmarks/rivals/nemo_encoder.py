"""Exports NeMo's cache-aware encoder in the same sizes, with random weights, and quantises it as sherpa-onnx does.

    NEMO_PYTHON benchmarks/rivals/nemo_encoder.py OUT.onnx

Run it with an interpreter that has NeMo, onnx and onnxruntime (pip install 'nemo_toolkit[asr]' onnx onnxruntime); it
needs nothing of this package and 8 GB of memory. NeMo's own exporter writes the graph with caches for chunks of 14
steps; onnxruntime's dynamic quantisation then makes all it can unsigned 8-bit. Give OUT.onnx to paper_scale.py
--nemo-encoder.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

LOOKAHEAD = 13


def export(path: Path) -> None:
    """Write the float32 graph."""
    import torch
    from nemo.collections.asr.modules import ConformerEncoder

    torch.manual_seed(0)
    encoder = ConformerEncoder(
        feat_in=128,
        n_layers=24,
        d_model=1024,
        n_heads=8,
        ff_expansion_factor=4,
        subsampling="dw_striding",
        subsampling_factor=8,
        subsampling_conv_channels=256,
        causal_downsampling=True,
        self_attention_model="rel_pos",
        att_context_size=[70, LOOKAHEAD],
        att_context_style="chunked_limited",
        conv_kernel_size=9,
        conv_context_size="causal",
        conv_norm_type="layer_norm",
    ).eval()
    encoder.setup_streaming_params()
    encoder.export_cache_support = True
    encoder.export(str(path), onnx_opset_version=17)


def main() -> None:
    """Export and quantise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    args = parser.parse_args()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
        whole = Path(folder) / "encoder.onnx"
        export(whole)
        gc.collect()
        quantize_dynamic(whole, args.out, weight_type=QuantType.QUInt8)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
