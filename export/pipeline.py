"""Checkpoint in, bundle out: graphs, parity, golden outputs and the manifest.

Everything is written to a sibling directory that takes the bundle's place when the last check has passed; an error at
any point leaves nothing behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer
from torch import Tensor, nn

from bestow_edge.core.bundle import (
    GOLDEN_FILE,
    BundleManifest,
    GraphEntry,
    ParityRow,
    Precision,
    QuantizationReport,
    QuantizationRow,
    list_files,
    write_manifest,
)
from bestow_edge.core.checkpoint import TOKENIZER_FILE, WEIGHTS_FILE, weights_by_part
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import AgreementError, CheckpointError, ExportError
from bestow_edge.core.files import atomic_directory, sha256
from bestow_edge.core.prompts import parse_pair, prompt_text
from bestow_edge.core.tensors import FOR_ENGINES, GraphSpec, Target
from bestow_edge.export.agreement import LEAST_AGREEMENT, agreement, answer, read_recordings
from bestow_edge.export.graphs.base import GraphSource, graph_sources, with_tables
from bestow_edge.export.parity import Expected, compare, expected_outputs
from bestow_edge.export.precision import parse_precisions
from bestow_edge.export.rewriting.float16 import to_half
from bestow_edge.export.rewriting.fusion import fuse
from bestow_edge.export.rewriting.int4 import store_int4
from bestow_edge.export.rewriting.quantization import quantize
from bestow_edge.export.rewriting.sharing import share_constants
from bestow_edge.export.rewriting.tensorrt_rules import check_ready
from bestow_edge.export.tracing import sample_inputs, save_graph, trace_graph
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_part, skeleton
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.devices.backend import GraphFiles, Step
from bestow_edge.runtime.devices.tensorrt.ahead import ALL, build_ahead
from bestow_edge.runtime.devices.tensorrt.engines import Settings
from bestow_edge.runtime.devices.tensorrt.library import Library, import_library
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import record_golden
from bestow_edge.runtime.stream.text import load_tokenizer

TOOLS = ("bestow-edge", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
Progress = Callable[[str], None]
Trace = Callable[[nn.Module, GraphSpec, Sequence[Tensor]], ir.Model]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished bundle."""

    directory: Path
    manifest: BundleManifest


@dataclass(frozen=True, slots=True)
class Check:
    """How decisions of a bundle are compared with those of fp32, and how many may differ."""

    utterances: Path | None = None
    """Manifest of recordings; None takes those that ship with the package."""
    least: float = LEAST_AGREEMENT
    """Least share of equal decisions; 0 compares nothing."""


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    target: Target = "cpu",
    precision: str | None = None,
    check: Check = Check(),
    force: bool = False,
    progress: Progress,
    trace: Trace = trace_graph,
) -> ExportResult:
    """Export a checkpoint.

    Weights are read graph by graph, so memory holds the float32 weights of one graph at most.

    Args:
        checkpoint: checkpoint directory.
        out: bundle directory to make.
        target: what the graphs are to run on; those for engines run in onnxruntime too. `rtx` adds engines.
        precision: of the graphs' weights, see `parse_precisions`; None takes the default of each part.
        check: how decisions are compared with fp32.
        force: replace a bundle that is there.
        progress: called with a few words at each step.
        trace: makes a float32 graph of a module, as `trace_graph` does.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
        ConfigError: if the precision is unknown.
        MissingExtraError: if the target is `rtx` and TensorRT for RTX is not installed.
        ExportError: if the model has a part that cannot be exported, or the recordings don't fit it.
        ParityError: if a graph differs from PyTorch.
        AgreementError: if decisions differ from those of the fp32 model.
    """
    progress("reading the checkpoint")
    model = skeleton(checkpoint)
    tokenizer = load_tokenizer(checkpoint / TOKENIZER_FILE, CheckpointError)
    library = import_library("rtx") if target == "rtx" else None
    chosen = parse_precisions(precision, weights_by_part(checkpoint).get("llm", 0), target)
    manifest = new_manifest(model, tokenizer, sha256(checkpoint / WEIGHTS_FILE), target)
    sources = with_tables(graph_sources(model.config, several=manifest.scores_several), chosen["llm"])
    with atomic_directory(out, replace=force) as partial:
        shutil.copyfile(checkpoint / TOKENIZER_FILE, partial / TOKENIZER_FILE)
        parity, graphs, sizes = list[ParityRow](), {}, {}
        with TemporaryDirectory(dir=partial) as full:
            for name, source in sources.items():
                wanted = chosen[source.spec.part]
                with load_part(model, checkpoint, source.weights, Path(full)), source.build(model) as module:
                    sizes[name] = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
                    progress(f"{name}: tracing")
                    graph = trace(module, source.spec, sample_inputs(source.spec))
                    expected = expected_outputs(module, source)
                    parity += _export_graph(graph, source, expected, manifest, (Path(full), partial), wanted, progress)
                graphs[name] = GraphEntry(file=f"{name}.onnx", precision=wanted)
            manifest = replace(manifest, graphs=graphs, parity=tuple(parity))
            if set(chosen.values()) != {"fp32"}:
                report = _report(manifest, (Path(full), partial), sizes, check, progress)
                manifest = replace(manifest, quantization=report)
        _write_golden(partial, manifest, sources, progress)
        manifest = _finish(partial, manifest, library, progress)
    return ExportResult(out, manifest)


def _export_graph(
    graph: ir.Model,
    source: GraphSource,
    expected: Expected,
    manifest: BundleManifest,
    directories: tuple[Path, Path],
    precision: Precision,
    progress: Progress,
) -> list[ParityRow]:
    """Write a graph to the first directory in fp32, and to the second as it goes into the bundle."""
    spec = source.spec
    full, path = (directory / f"{spec.name}.onnx" for directory in directories)
    fuse(graph, manifest.target)
    progress(f"{spec.name}: writing float32")
    save_graph(graph, full)
    progress(f"{spec.name}: comparing with PyTorch")
    rows = compare(full, spec, source, expected, "fp32")
    if precision == "fp32":
        for file in full.parent.glob(f"{full.name}*"):
            shutil.copyfile(file, path.parent / file.name)
        return rows
    progress(f"{spec.name}: {precision}")
    final = manifest.specs[spec.name]
    save_graph(lower(graph, source, final, precision, manifest.target), path)
    return rows + compare(path, final, source, expected, precision)


def lower(graph: ir.Model, source: GraphSource, spec: GraphSpec, precision: Precision, target: Target) -> ir.Model:
    """Return a float32 graph as it goes into the bundle; the given one may be changed."""
    if target in FOR_ENGINES and precision == "int4":
        store_int4(graph, target)
    elif target == "cpu" or precision != "fp16":
        block = source.largest_int4_block if precision == "int4" else source.largest_block
        graph = quantize(graph, precision, largest_block=block, int8_tables=source.int8_tables)
    if target != "cpu":
        to_half(graph, spec)
    if target in FOR_ENGINES:
        check_ready(graph)
    return graph


def _report(
    manifest: BundleManifest, directories: tuple[Path, Path], sizes: Mapping[str, int], check: Check, progress: Progress
) -> QuantizationReport:
    """Compare the precisions with fp32: each alone, where it fits between fp32 graphs, and all of them.

    Raises:
        AgreementError: if all of them together change more decisions than `check` allows.
        ExportError: if there are no recordings in the model's languages.
    """
    full, partial = directories
    fp32 = {name: GraphEntry(file=f"{full.name}/{name}.onnx", precision="fp32") for name in manifest.graphs}
    on_cpu = manifest.target == "cpu"

    def load(graphs: Mapping[str, GraphEntry], target: Target) -> Model:
        large = [name for name, entry in graphs.items() if entry is fp32[name]]
        known = replace(manifest, graphs=dict(graphs), target=target)
        return Model(partial, known, device="cpu", threads=0, mapped=large)

    shares: dict[str, float | None] = dict.fromkeys(manifest.graphs, 1.0 if on_cpu else None)
    texts, total = [], 1.0
    recordings = []
    if check.least > 0:
        progress("comparing decisions with fp32")
        reference = load(fp32, "cpu")
        recordings = read_recordings(check.utterances or sample_manifest(), reference)
        texts = [answer(reference, recording) for recording in recordings]
        del reference
        for name, entry in manifest.graphs.items():
            if entry.precision != "fp32" and on_cpu:
                progress(f"comparing decisions with fp32: {name} alone")
                shares[name] = agreement(load(fp32 | {name: entry}, "cpu"), recordings, texts)
        progress("comparing decisions with fp32: all together")
        total = agreement(load(manifest.graphs, manifest.target), recordings, texts)
    report = QuantizationReport(
        rows=tuple(_row(manifest, name, partial, sizes[name], shares[name]) for name in manifest.graphs),
        utterances=len({recording.path for recording in recordings}),
        decisions=sum(map(len, texts)),
        agreement=total,
        least=check.least,
    )
    if total < check.least:
        known = {name: share for name, share in shares.items() if share is not None}
        worst = min(known, key=lambda name: known[name], default=None)
        blame = f"; {worst} alone leaves {known[worst]:.1%}" if worst is not None else ""
        got = f"{total:.1%} of {report.decisions} decisions are those of the fp32 model, expected {check.least:.0%}"
        raise AgreementError(f"{got}{blame}. Give it more bits (--precision) or allow it (--least-agreement)")
    return report


def _row(
    manifest: BundleManifest, graph: str, directory: Path, weights: int, agreement: float | None
) -> QuantizationRow:
    entry = manifest.graphs[graph]
    size = sum(path.stat().st_size for path in directory.glob(f"{entry.file}*"))
    return QuantizationRow(
        graph=graph,
        precision=entry.precision,
        bytes=size,
        bits_per_weight=round(size * 8 / weights, 3),
        error=max(row.error for row in manifest.parity if (row.graph, row.precision) == (graph, entry.precision)),
        agreement=None if agreement is None else round(agreement, 4),
    )


def _finish(directory: Path, manifest: BundleManifest, library: Library | None, progress: Progress) -> BundleManifest:
    """Write and return the manifest with all files and, if there is a library, the engines for RTX cards it builds."""

    @contextmanager
    def shown(name: str) -> Iterator[Step]:
        progress(f"{name}: engine for {', '.join(ALL)}")
        yield lambda *_: True

    manifest = replace(manifest, files=list_files(directory))
    if library is not None:
        manifest = build_ahead(GraphFiles(directory=directory, manifest=manifest), library, ALL, Settings(), shown)
    write_manifest(manifest, directory)
    return manifest


def _write_golden(
    directory: Path, manifest: BundleManifest, sources: Mapping[str, GraphSource], progress: Progress
) -> None:
    """Store once what graphs share, and record outputs of the graphs as they then are."""
    progress("recording golden outputs")
    if manifest.target == "cpu":
        share_constants([directory / entry.file for entry in manifest.graphs.values()])
    inputs = {}
    for name, source in sources.items():
        cases = [feeds for _, feeds in source.cases(manifest.specs[name])]
        inputs[name] = min(cases, key=lambda feeds: sum(array.size for array in feeds.values()))
    golden: dict[str, Any] = record_golden(directory, manifest, inputs)  # Any: savez's keywords share the signature
    np.savez_compressed(directory / GOLDEN_FILE, **golden)


def new_manifest(model: SpeechModel, tokenizer: Tokenizer, checkpoint_sha256: str, target: Target) -> BundleManifest:
    """Return the manifest without graphs, files and parity, which are known last."""
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
        target=target,
        graphs={},
        prompts=prompts,
        end_ids=tuple(end) if isinstance(end, (list, tuple)) else (end,),
        max_text_tokens=config.max_text_tokens,
        files=(),
        parity=(),
        quantization=None,
        tools={name: version(name) for name in TOOLS},
        checkpoint_sha256=checkpoint_sha256,
        scores_several=target == "cpu" and CONNECTORS[config.connector.kind].scores_several(config),
    )
