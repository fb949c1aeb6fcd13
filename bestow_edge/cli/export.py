"""`bestow-edge export`: exports a checkpoint as a bundle. The work is in `bestow_edge.export.pipeline`."""

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

TargetOption = Annotated[
    Target,
    typer.Option(
        "--target",
        help="Device of the bundle; tensorrt: for engines; rtx: with engines for RTX cards, built without a GPU.",
    ),
]


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Directory of a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="Directory of the new bundle.")],
    target: TargetOption = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="NAME|PART=NAME,...",
            help="fp32, fp16, int8 or int4 for all parts, or by part: encoder (no int4), connector, llm. "
            "Default: int8; int4 for LLMs from 0.3 billion weights; fp16 for GPUs.",
        ),
    ] = None,
    utterances: Annotated[
        Path | None,
        typer.Option(
            "--utterances", metavar="MANIFEST", help="Speech for the comparison with fp32; default: spoken digits."
        ),
    ] = None,
    least_agreement: Annotated[
        float,
        typer.Option(
            "--least-agreement",
            min=0,
            max=1,
            metavar="SHARE",
            help="Least share of decisions that must equal those of fp32; 0: no comparison.",
        ),
    ] = 0.95,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    as_json: options.Json = False,
) -> None:
    """Export a checkpoint as a bundle of ONNX graphs and compare them with PyTorch.

    The comparison with fp32 runs on speech: does the same text get the same next token?
    If a step or a comparison fails, no bundle is written.
    Needs the extra `export`.

    Examples:
      bestow-edge export runs/digits/checkpoint --out digits
      bestow-edge export runs/digits/checkpoint --out digits --precision fp32 --force
      bestow-edge export ckpt --out bundle --precision encoder=int8,llm=int4 --utterances dev.jsonl
      bestow-edge export ckpt --out bundle --target tensorrt --utterances dev.jsonl
      bestow-edge export ckpt --out bundle --target rtx --precision llm=int4
    """
    with shown_steps() as step:
        step("loading torch")
        with needs_extra("export"):
            from bestow_edge.export.pipeline import Check, export_bundle

            # Its warning about torchvision does not concern this package. The import of torch resets the level.
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            check = Check(utterances, least_agreement)
            result = export_bundle(
                checkpoint, out, target=target, precision=precision, check=check, force=force, progress=step
            )
    _write(result, as_json=as_json)


def _write(result: ExportResult, *, as_json: bool) -> None:
    files, quantization = result.manifest.files, result.manifest.quantization
    if as_json:
        write_json(
            {
                "bundle": str(result.directory),
                "bytes": sum(entry.size for entry in files),
                "files": {entry.path: entry.size for entry in files},
                "parity": [asdict(row) for row in result.manifest.parity],
                "quantization": None if quantization is None else asdict(quantization),
            }
        )
        return
    sizes = new_table(f"Bundle {result.directory}", "file", "size", numbers=("size",))
    for entry in files:
        sizes.add_row(entry.path, megabytes(entry.size))
    sizes.add_row("all", megabytes(sum(entry.size for entry in files)))
    write_tables(parity_table(result.manifest), *quantization_tables(result.manifest), sizes)
