"""`bestow-edge verify`: runs a bundle's golden inputs on this machine. It needs no torch."""

from __future__ import annotations

import math
from dataclasses import asdict

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import new_table, write_json, write_tables


def verify(
    bundle: options.BundleArgument = None,
    as_json: options.Json = False,
) -> None:
    """Check a bundle's files and compare its graphs on this machine with their golden outputs.

    Exit code 1: the outputs of a graph differ; 2: the bundle is damaged.

    Examples:
      bestow-edge verify
      bestow-edge verify my-bundle
      bestow-edge verify my-bundle --json
    """
    from bestow_edge.runtime.records import golden

    directory = options.chosen_bundle(bundle)
    bundle = bundle or directory
    rows = golden.verify(directory)
    passed = all(row.passed for row in rows)
    if as_json:
        errors = [row.error if math.isfinite(row.error) else None for row in rows]  # JSON has no infinity
        graphs = [asdict(row) | {"error": error, "passed": row.passed} for row, error in zip(rows, errors, strict=True)]
        write_json({"bundle": str(bundle), "passed": passed, "graphs": graphs})
    else:
        table = new_table(f"{bundle}: all files unchanged", "graph", "precision", "error", "allowed", "result")
        for row in rows:
            result = "ok" if row.passed else "FAILED"
            table.add_row(row.graph, row.precision, f"{row.error:.1e}", f"{row.tolerance:.0e}", result)
        write_tables(table)
    if not passed:
        raise typer.Exit(1)
