"""Checkpoint in, bundle out: the three graphs, parity, golden outputs and the manifest. The export side's front door.

Everything is written to a sibling directory that takes the bundle's place when the last check has passed; an error at
any point leaves nothing behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import nn

from bestow_edge.bundle import (
    GOLDEN_FILE,
    TOKENIZER_FILE,
    BundleManifest,
    GraphEntry,
    ParityRow,
    Precision,
    list_files,
    write_manifest,
)
from bestow_edge.checkpoint import WEIGHTS_FILE
from bestow_edge.errors import ExportError
from bestow_edge.export.adapter import AdapterStep
from bestow_edge.export.bidirectional import BidirectionalEncoder
from bestow_edge.export.encoder import EncoderChunk
from bestow_edge.export.graph import sample_inputs, write_graph
from bestow_edge.export.llm import llm_step
from bestow_edge.export.parity import cases, compare, torch_reference
from bestow_edge.export.quantize import quantize_int8
from bestow_edge.files import atomic_directory, sha256
from bestow_edge.graphs import ADAPTER, ENCODER, LLM, WINDOW, GraphSpec
from bestow_edge.model.bestow import BestowModel
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.prompts import parse_pair, prompt_text
from bestow_edge.runtime.golden import record_golden
from bestow_edge.runtime.graph import Array

TOOLS = ("bestow-edge", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export made."""

    directory: Path
    manifest: BundleManifest


def export_bundle(
    checkpoint: Path, out: Path, *, precision: Precision = "int8", force: bool = False, progress: Progress
) -> ExportResult:
    """Export a checkpoint.

    Args:
        checkpoint: checkpoint directory.
        out: bundle directory to make.
        precision: of the graphs' weights.
        force: replace a bundle that is there.
        progress: told what is being done, a few words at a time.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ExportError: the model has a part that cannot be exported.
        ParityError: a graph differs from PyTorch.
    """
    progress("reading the checkpoint")
    model = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_FILE))
    with atomic_directory(out, replace=force) as partial:
        parity: list[ParityRow] = []
        graphs = {}
        manifest = _manifest(model, tokenizer, sha256(checkpoint / WEIGHTS_FILE))
        for spec in manifest.specs.values():
            with _module(model, spec) as module:
                parity += _export_graph(module, spec, model, partial, precision, progress)
            graphs[spec.name] = GraphEntry(file=f"{spec.name}.onnx", precision=precision)
        shutil.copyfile(checkpoint / TOKENIZER_FILE, partial / TOKENIZER_FILE)
        progress("recording golden outputs")
        golden: dict[str, Any] = _golden(partial, manifest)  # Any: savez's own keywords share the signature
        np.savez_compressed(partial / GOLDEN_FILE, **golden)
        manifest = replace(manifest, graphs=graphs, parity=tuple(parity), files=list_files(partial))
        write_manifest(manifest, partial)
    return ExportResult(out, manifest)


@contextmanager
def _module(model: BestowModel, spec: GraphSpec) -> Iterator[nn.Module]:
    """Yield what a graph is traced from."""
    if spec.name == LLM:
        with llm_step(model.llm) as step:
            yield step
    else:
        modules = {ENCODER: EncoderChunk, WINDOW: BidirectionalEncoder, ADAPTER: AdapterStep}
        yield modules[spec.name](model).eval()


def _export_graph(
    module: nn.Module, spec: GraphSpec, model: BestowModel, directory: Path, precision: Precision, progress: Progress
) -> list[ParityRow]:
    path = directory / f"{spec.name}.onnx"
    reference = torch_reference(module, spec)
    with TemporaryDirectory(dir=directory) as work:  # fp32 weights may lie in a second file beside the graph
        full = path if precision == "fp32" else Path(work) / path.name
        progress(f"{spec.name}: tracing")
        write_graph(module, spec, sample_inputs(spec), full)
        progress(f"{spec.name}: comparing with PyTorch")
        rows = compare(full, spec, model.config, reference, "fp32")
        if precision == "int8":
            progress(f"{spec.name}: quantising")
            quantize_int8(full, path, weight_only=spec.name in (ADAPTER, LLM))  # their batch is several texts
            rows += compare(path, spec, model.config, reference, "int8")
    return rows


def _golden(directory: Path, manifest: BundleManifest) -> dict[str, Array]:
    inputs = {}
    for spec in manifest.specs.values():
        sizes = [feeds for _, feeds in cases(spec, manifest.model)]
        inputs[spec.name] = min(sizes, key=lambda feeds: sum(array.size for array in feeds.values()))
    return record_golden(directory, manifest, inputs)


def _manifest(model: BestowModel, tokenizer: Tokenizer, checkpoint_sha256: str) -> BundleManifest:
    """Return the manifest without what is known last: graphs, files and parity."""
    config = model.config
    prompts = {
        pair: tuple(tokenizer.encode(prompt_text(parse_pair(pair), config.chat), add_special_tokens=False).ids)
        for pair in config.pairs
    }
    if empty := [pair for pair, ids in prompts.items() if not ids]:
        raise ExportError(f"prompts of {', '.join(empty)} have no tokens; check config.json's chat format")
    end = config.llm.get("eos_token_id")
    if end is None:
        raise ExportError("config.json: llm.eos_token_id is missing; without it an answer never ends")
    return BundleManifest(
        model=config,
        graphs={},
        prompts=prompts,
        end_ids=tuple(end) if isinstance(end, (list, tuple)) else (end,),
        max_text_tokens=config.llm["max_position_embeddings"],
        files=(),
        parity=(),
        tools={name: version(name) for name in TOOLS},
        checkpoint_sha256=checkpoint_sha256,
    )
