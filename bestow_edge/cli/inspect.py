"""`bestow-edge inspect`: shows the contents of a bundle or a checkpoint.

It reads JSON and the headers of weights. It needs no torch and runs no graph.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bestow_edge.cli import options
from bestow_edge.cli.show.console import megabytes, new_table, weights_table, write_json, write_tables
from bestow_edge.core.bundle import FORMAT, FORMAT_VERSION, MANIFEST_FILE, BundleManifest, read_manifest
from bestow_edge.core.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_config, read_notes, weights_by_part
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import BundleMissingError
from bestow_edge.core.prompts import shown_pairs
from bestow_edge.core.request import describe_policy
from bestow_edge.core.tensors import NEXT, GraphSpec


def inspect(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE|CKPT",
            help="Directory of a bundle or of a checkpoint, or hf:OWNER/NAME, people or demo.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show sizes, graphs, precision and policy of a bundle, or sizes and policy of a checkpoint.

    Examples:
      bestow-edge inspect
      bestow-edge inspect my-bundle
      bestow-edge inspect runs/digits/checkpoint --json
    """
    path = options.chosen_bundle(path)
    if (path / MANIFEST_FILE).is_file():
        manifest = read_manifest(path)
        if as_json:
            write_json(_bundle_record(path, manifest))
        else:
            write_tables(*_bundle_tables(path, manifest))
    elif (path / CONFIG_FILE).is_file():
        config, weights, notes = load_config(path), weights_by_part(path), read_notes(path)
        if as_json:
            record = {"kind": "checkpoint", "path": str(path), "weights": weights, "model": config.to_dict()}
            write_json(record | {"notes": notes})
        else:
            table = _model_table(f"Checkpoint {path}", config)
            for note in notes:
                table.add_row("origin", note)
            write_tables(table, weights_table(weights))
    else:
        problem = "is neither a bundle nor a checkpoint" if path.is_dir() else "no such directory"
        raise BundleMissingError(f"{path}: {problem}; expected {MANIFEST_FILE}, or {CONFIG_FILE} and {WEIGHTS_FILE}")


def _bundle_record(path: Path, manifest: BundleManifest) -> dict[str, object]:
    graphs = {
        name: asdict(manifest.graphs[name])
        | {"inputs": list(map(str, spec.fed)), "outputs": list(map(str, spec.returned))}
        for name, spec in manifest.specs.items()
    }
    return {
        "kind": "bundle",
        "path": str(path),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "bytes": sum(entry.size for entry in manifest.files),
        **asdict(manifest),
        "graphs": graphs,
    }


def _bundle_tables(path: Path, manifest: BundleManifest) -> list[Table]:
    total = sum(entry.size for entry in manifest.files)
    model = _model_table(f"Bundle {path}: {FORMAT} {FORMAT_VERSION}, {megabytes(total)}", manifest.model)
    model.add_row("made for", manifest.target)
    model.add_row("context", f"{manifest.max_text_tokens} tokens a segment, prompt included")
    model.add_row("made with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))
    model.add_row("checkpoint", f"SHA-256 {manifest.checkpoint_sha256}")
    tensors = new_table("Graphs", "graph", "precision", "inputs", "outputs")
    for name, spec in manifest.specs.items():
        inputs = "\n".join(map(str, (*spec.inputs, *_first_states(spec))))
        outputs = "\n".join(map(str, spec.outputs))
        tensors.add_row(name, manifest.graphs[name].precision, inputs, outputs, end_section=True)
    files = new_table("Files", "file", "size", "SHA-256", numbers=("size",))
    for entry in manifest.files:
        files.add_row(entry.path, megabytes(entry.size), entry.sha256)
    return [model, tensors, files, *engines_tables(manifest), parity_table(manifest), *quantization_tables(manifest)]


def _first_states(spec: GraphSpec) -> list[str]:
    """Summarise a graph's states in one line, because a model with many layers has many."""
    return [f"{len(spec.states)} states, returned as {NEXT}...: {spec.states[0]} ..."] if spec.states else []


def parity_table(manifest: BundleManifest) -> Table:
    """Return the comparison of the graphs with PyTorch at export."""
    table = new_table("Parity with PyTorch at export", "graph", "precision", "sizes", "error", "allowed")
    for row in manifest.parity:
        table.add_row(row.graph, row.precision, row.case, f"{row.error:.1e}", f"{row.tolerance:.1e}")
    return table


def engines_tables(manifest: BundleManifest) -> list[Table]:
    """Return the engines for RTX cards; no table if the bundle has none."""
    if not manifest.engines:
        return []
    columns = "graph", "file", "size", "compute capabilities", "TensorRT for RTX"
    table = new_table("Engines", *columns, numbers=("size",))
    sizes = {entry.path: entry.size for entry in manifest.files}
    for name, entry in manifest.engines.items():
        size = megabytes(sizes.get(entry.file, 0))
        table.add_row(name, entry.file, size, ", ".join(entry.capabilities), entry.library)
    return [table]


def quantization_tables(manifest: BundleManifest) -> list[Table]:
    """Return the cost of the bundle's precisions; no table if all graphs are fp32."""
    if (report := manifest.quantization) is None:
        return []
    title = "Cost of precision: not compared with fp32 on speech"
    if report.decisions:
        compared = f"{report.decisions} decisions on {report.utterances} recordings"
        title = f"Cost of precision: {report.agreement:.1%} of {compared} equal those of fp32"
    columns = "graph", "precision", "size", "bits a weight", "error", "equal, others fp32"
    table = new_table(title, *columns, numbers=("size", "bits a weight"))
    for row in report.rows:
        equal = f"{row.agreement:.1%}" if report.decisions and row.agreement is not None else "-"
        cells = (megabytes(row.bytes), f"{row.bits_per_weight:.2f}", f"{row.error:.1e}", equal)
        table.add_row(row.graph, row.precision, *cells)
    return [table]


def _model_table(title: str, config: ModelConfig) -> Table:
    llm = config.llm
    table = new_table(title, "part", "value")
    for name, part in (("encoder", config.encoder.network), ("LLM", llm)):
        heads = f"{part.get('num_attention_heads')} heads"
        sizes = f"{part.get('num_hidden_layers')} layers of width {part['hidden_size']}, {heads}"
        table.add_row(name, f"{part['model_type']}: {sizes}")
    table.add_row("connector", f"{config.connector.kind}: {config.connector.describe()}")
    table.add_row("vocabulary", f"{llm.get('vocab_size')} tokens")
    features = config.features
    scaled = "" if features.normalize == "none" else f", normalised {features.normalize}"
    table.add_row("audio", f"{features.sample_rate_hz} Hz, {features.num_mel_bins} mel bins{scaled}")
    table.add_row("pairs", shown_pairs(config.pairs))
    table.add_row("questions", f"about speech in {', '.join(config.questions)}" if config.questions else "none")
    table.add_row("policy", describe_policy(config.policy))
    table.add_row("streaming", f"{config.encoder.kind}: {config.encoder.describe()}")
    return table
