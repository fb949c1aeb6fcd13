"""`bestow-edge export`: checkpoint to bundle. Knows the exporter's front door and how to show its progress."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.inspect import parity_table, quantization_tables
from bestow_edge.cli.show.console import megabytes, needs_extra, new_table, shown_steps, write_json, write_tables
from bestow_edge.core.tensors import Target

if TYPE_CHECKING:
    from bestow_edge.export.pipeline import ExportResult


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Directory of a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="Directory to make.")],
    target: Annotated[
        Target,
        typer.Option("--target", help="What it is to run on; tensorrt: float16 and standard operators, for engines."),
    ] = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="NAME|PART=NAME,...",
            help="fp32, fp16, int8 or int4 (not the encoder); default: int8, and int4 for LLMs above 0.3 billion; "
            "on GPUs fp16.",
        ),
    ] = None,
    utterances: Annotated[
        Path | None,
        typer.Option("--utterances", metavar="MANIFEST", help="Speech to compare with fp32; default: spoken digits."),
    ] = None,
    least_agreement: Annotated[
        float, typer.Option("--least-agreement", min=0, max=1, help="Share of decisions that must be fp32's; 0 = any.")
    ] = 0.95,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Export a checkpoint as a bundle of three ONNX graphs, compared with PyTorch.

    What the precision costs is measured on real speech: each next token, after the same text, against fp32 graphs.
    Nothing is left behind where a step or the comparison fails. Needs the extra `export`.

    \b
    Examples:
      bestow-edge export runs/digits/checkpoint --out digits
      bestow-edge export runs/digits/checkpoint --out digits --precision fp32 --force
      bestow-edge export ckpt --out bundle --precision encoder=int8,llm=int4 --utterances dev.jsonl
      bestow-edge export ckpt --out bundle --target tensorrt --utterances dev.jsonl
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    with shown_steps() as step:
        step("loading torch")
        with needs_extra("export"):
            from bestow_edge.export.pipeline import Check, export_bundle

            # It warns that torchvision is absent; importing torch sets its level, so this comes after.
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            check = Check(utterances, least_agreement)
            result = export_bundle(
                checkpoint, out, target=target, precision=precision, check=check, force=force, progress=step
            )
    _write(result, as_json=as_json)


def _write(result: ExportResult, *, as_json: bool) -> None:
    files = result.manifest.files
    if as_json:
        write_json(
            {
                "bundle": str(result.directory),
                "bytes": sum(entry.size for entry in files),
                "files": {entry.path: entry.size for entry in files},
                "parity": [asdict(row) for row in result.manifest.parity],
                "quantization": asdict(report) if (report := result.manifest.quantization) else None,
            }
        )
        return
    sizes = new_table(f"Bundle {result.directory}", "file", "size", numbers=("size",))
    for entry in files:
        sizes.add_row(entry.path, megabytes(entry.size))
    sizes.add_row("all", megabytes(sum(entry.size for entry in files)))
    write_tables(parity_table(result.manifest), *quantization_tables(result.manifest), sizes)
