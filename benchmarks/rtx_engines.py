"""Builds engines for RTX cards from bundles, without a GPU: graph x cards x seconds x MB, and memory.

    python benchmarks/rtx_engines.py BUNDLE ... [--graphs llm_step ...] [--for sm75 sm86 all ...] [--rows 5]
        [--prompt-tokens 128] [--level 3]

Takes bundles that were exported with `--target tensorrt` or `rtx` and leaves them as they are. `sm75,sm86` is one
engine for both cards, `all` is one from sm80 to sm121. Each engine is built in a process of its own, whose peak of
resident memory is the last column; about 0.3 GB of it are libraries. A build that fails is a row with the reason. Needs
the extra `rtx`. Prints a table and, last, one JSON line; the exit code is 1 if a build failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.errors import EngineError
from bestow_edge.evaluation.report.hardware import describe_machine
from bestow_edge.runtime.devices.tensorrt.ahead import parse_capabilities
from bestow_edge.runtime.devices.tensorrt.building import Options, build_engine
from bestow_edge.runtime.devices.tensorrt.engines import Settings
from bestow_edge.runtime.devices.tensorrt.library import import_library
from bestow_edge.runtime.devices.tensorrt.profiles import Bounds, profiles

TABLE_WIDTH = 120  # where no terminal says how wide it is
Row = dict[str, Any]  # Any: names and numbers


def build(bundle: Path, graph: str, cards: str, settings: Settings) -> Row:
    """Build one engine in memory and return its row."""
    manifest = read_manifest(bundle)
    spec, entry = manifest.specs[graph], manifest.graphs[graph]
    path = bundle / entry.file
    row: Row = {"bundle": bundle.name, "graph": graph, "precision": entry.precision, "cards": cards}
    row["onnx_mb"] = sum(file.stat().st_size for file in bundle.glob(f"{path.name}*")) / 1e6
    started = time.perf_counter()
    try:
        built = build_engine(
            import_library("rtx"),
            path,
            spec,
            profiles(spec, manifest, settings.bounds),
            settings.options,
            capabilities=parse_capabilities(cards),
            step=lambda *_: True,
        )
        row["engine_mb"] = built.plan.nbytes / 1e6
    except EngineError as error:
        row["error"] = str(error)
    row["seconds"] = time.perf_counter() - started
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return row


def table(rows: list[Row]) -> Table:
    """Return rows for people."""
    shown = Table(title="Engines for RTX cards")
    for column in ("bundle", "graph", "precision", "cards"):
        shown.add_column(column)
    for column in ("ONNX MB", "s", "engine MB", "memory MB"):
        shown.add_column(column, justify="right")
    for row in rows:
        engine = f"{row['engine_mb']:.1f}" if "engine_mb" in row else "refused"
        names = (row[key] for key in ("bundle", "graph", "precision", "cards"))
        shown.add_row(*names, f"{row['onnx_mb']:.1f}", f"{row['seconds']:.1f}", engine, f"{row['peak_mb']:.0f}")
    return shown


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--graphs", nargs="+", metavar="NAME", help="default: all of a bundle")
    parser.add_argument("--for", dest="cards", nargs="+", default=["sm75", "sm86", "sm120", "all"], metavar="NAMES")
    parser.add_argument("--rows", type=int, default=Bounds().rows)
    parser.add_argument("--prompt-tokens", type=int, default=Bounds().prompt_tokens)
    parser.add_argument("--level", type=int, default=Options().level)
    return parser.parse_args()


def main() -> int:
    """Build every engine."""
    args, rows = arguments(), []
    bounds = Bounds(rows=args.rows, prompt_tokens=args.prompt_tokens)
    settings = Settings(bounds=bounds, options=Options(level=args.level))
    context = multiprocessing.get_context("spawn")
    for bundle in args.bundles:
        for graph in read_manifest(bundle).specs:
            for cards in args.cards if args.graphs is None or graph in args.graphs else ():
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    rows.append(pool.submit(build, bundle, graph, cards, settings).result())
                print(f"{bundle.name} {graph} {cards}: {rows[-1].get('error', 'built')}", file=sys.stderr, flush=True)
    console = Console()
    (console if console.is_terminal else Console(width=TABLE_WIDTH)).print(table(rows))
    library = import_library("rtx").version
    record = {
        "benchmark": "rtx_engines",
        "library": library,
        "machine": describe_machine(),
        "settings": asdict(settings),
    }
    print(json.dumps(record | {"rows": rows}))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
