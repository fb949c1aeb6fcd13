"""Exports the LLM of a checkpoint alone, for `rtx_engines.py` and models whose whole export takes long.

    python benchmarks/rivals/random_checkpoint.py CKPT
    python benchmarks/rtx_llm.py CKPT OUT [--precision fp16]
    python benchmarks/rtx_engines.py OUT --graphs llm_step --for sm86 all

The graph is the one that `bestow-edge export CKPT --target rtx` writes, but nothing is compared with PyTorch, and the
bundle lacks its other graphs: it serves to build engines alone. Needs the extra `export`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from bestow_edge.core.bundle import GraphEntry, write_manifest
from bestow_edge.core.checkpoint import TOKENIZER_FILE
from bestow_edge.core.errors import CheckpointError
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.export.pipeline import lower, new_manifest
from bestow_edge.export.rewriting.fusion import fuse
from bestow_edge.export.tracing import sample_inputs, save_graph, trace_graph
from bestow_edge.model.checkpoint import load_part, skeleton
from bestow_edge.runtime.stream.text import load_tokenizer


def main() -> None:
    """Export the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--precision", choices=("fp16", "int4"), default="fp16")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = skeleton(args.checkpoint)
    manifest = new_manifest(model, load_tokenizer(args.checkpoint / TOKENIZER_FILE, CheckpointError), "", "rtx")
    sources = graph_sources(model.config)
    graphs = {name: GraphEntry(file=f"{name}.onnx", precision=args.precision) for name in sources}
    manifest, source = replace(manifest, graphs=graphs), sources[LLM]
    with (
        tempfile.TemporaryDirectory(dir=args.out) as work,
        load_part(model, args.checkpoint, source.weights, Path(work)),
        source.build(model) as module,
    ):
        graph = trace_graph(module, source.spec, sample_inputs(source.spec))
        fuse(graph, manifest.target)
        graph = lower(graph, source, manifest.specs[LLM], args.precision, manifest.target)
        save_graph(graph, args.out / f"{LLM}.onnx")
    write_manifest(manifest, args.out)


if __name__ == "__main__":
    main()
