"""Where the time of one graph goes: its operators in onnxruntime's own profile, on random inputs.

    python benchmarks/profile_graph.py BUNDLE encoder_chunk [--steps 14] [--threads 2]
    python benchmarks/profile_graph.py BUNDLE llm_step [--tokens 1] [--slots 256]

The first time is the median without the profile; the profile adds some microseconds to every operator. Prints a table
and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from bestow_edge.core.bundle import read_manifest
from bestow_edge.evaluation.report.hardware import describe_machine

RUNS = 60
SHOWN = 16


def session(path: Path, threads: int, profile: Path | None) -> Any:  # Any: onnxruntime has no types
    """Open a graph, with its profile in files of that name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bind(opened: Any, sizes: dict[str, int]) -> Any:
    """Bind random inputs of the given sizes: half of the slots are written, all frames are speech."""
    random = np.random.default_rng(0)
    binding = opened.io_binding()
    counts = {"frame_start": 0, "frame_end": 8 * sizes["steps"], "token_ids": 0}
    for item in opened.get_inputs():
        shape = [size_of(dim, sizes) for dim in item.shape]
        if item.type == "tensor(int64)":
            value: Any = np.full(shape, counts.get(item.name, sizes["capacity"] // 2), np.int64)
        else:
            value = random.standard_normal(shape).astype(np.float16 if "float16" in item.type else np.float32)
        binding.bind_ortvalue_input(item.name, ort.OrtValue.ortvalue_from_numpy(value))
    for item in opened.get_outputs():
        binding.bind_output(item.name, "cpu")
    return binding


def size_of(dim: int | str, sizes: dict[str, int]) -> int:
    """Return the size of an axis: a number, a name, or a multiple of a name as in `8*steps`."""
    if isinstance(dim, int):
        return dim
    factor, _, name = dim.rpartition("*")
    return int(factor or 1) * sizes[name]


def median_ms(opened: Any, binding: Any) -> float:
    """Run the graph and return the median time."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        opened.run_with_iobinding(binding)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def operators(profile: Path) -> dict[str, dict[str, float]]:
    """Return for each kind of operator the milliseconds and the number of a run, slowest first."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"ms": 0.0, "nodes": 0.0})
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            row = found[event["args"]["op_name"]]
            row["ms"] += event["dur"] / 1e3 / RUNS
            row["nodes"] += 1 / RUNS
    return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))


def main() -> None:
    """Time a graph with and without its profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("graph")
    parser.add_argument("--steps", type=int, default=14, help="encoder steps of a chunk")
    parser.add_argument("--tokens", type=int, default=1, help="tokens of a step of adapter and LLM")
    parser.add_argument("--slots", type=int, default=256, help="slots of the LLM's cache and of the speech memory")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    graphs = read_manifest(args.bundle).graphs
    if args.graph not in graphs:
        parser.error(f"no graph {args.graph!r}; choose from {', '.join(graphs)}")
    path = args.bundle / graphs[args.graph].file
    sizes = {"batch": 1, "steps": args.steps, "tokens": args.tokens, "capacity": args.slots, "memory": args.slots}
    plain = session(path, args.threads, None)
    p50_ms = median_ms(plain, bind(plain, sizes))
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(path, args.threads, Path(folder) / "profile")
        median_ms(profiled, bind(profiled, sizes))
        rows = operators(Path(profiled.end_profiling()))
    table = Table("operator", "ms", "nodes", title=f"{args.graph}: {p50_ms:.1f} ms without the profile")
    for name, row in list(rows.items())[:SHOWN]:
        table.add_row(name, f"{row['ms']:.2f}", f"{row['nodes']:.0f}")
    Console().print(table)
    figures = {"p50_ms": p50_ms, "threads": args.threads, "sizes": sizes, "operators": rows}
    print(json.dumps({"benchmark": "profile_graph", "graph": args.graph, "machine": describe_machine(), **figures}))


if __name__ == "__main__":
    main()
