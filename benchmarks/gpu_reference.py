"""The three parts at the paper's size in PyTorch on a GPU, bfloat16, also as CUDA graphs: what engines must beat.

    python benchmarks/gpu_reference.py [--device cuda:0] [--runs 100] [--out gpu_reference.json] [--tiny]

The modules are those that export traces, so caches are static and inputs the same as for the graphs. Each part is
compared with itself in float32 on the CPU, then timed: chunks of the encoder, a step and a prefill of adapter and LLM,
at 256 slots of speech and 128 of text; storing the new keys and values is not in the times. Weights are random.
`--tiny` takes a tiny model, to try the script on the CPU; its figures mean nothing. Needs the extra `export` and, for a
GPU, a PyTorch with CUDA. Prints a table and, last, one JSON line; the exit code is 1 if a part differs. Not yet run on
hardware.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from rivals.random_checkpoint import model_config, random_weights
from torch import Tensor, nn

from bestow_edge.core.comparison import relative_error
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.graphs.base import GraphSource, graph_sources
from bestow_edge.export.parity import torch_reference
from bestow_edge.model.base import SpeechModel

TOLERANCE = 0.2  # bfloat16 over 24 layers of random weights; a wrong part gives more than 1
WARM_UP = 5
SIZES = {
    ENCODER: ("batch=1 ",),
    "text": ("batch=1 tokens=1 memory=256 capacity=128", "batch=1 tokens=7 memory=128 capacity=64"),
}
Row = dict[str, Any]


def load(*, tiny: bool) -> SpeechModel:
    """Return a model of random weights, bfloat16 on the CPU."""
    with init_empty_weights(include_buffers=False):
        model = SpeechModel.from_config(model_config(most_tokens=0, tiny=tiny))
    model.load_state_dict(random_weights(model), assign=True)
    model.llm.tie_weights()
    return model.requires_grad_(False).eval()


@contextmanager
def part(model: SpeechModel, source: GraphSource) -> Iterator[nn.Module]:
    """Yield what a graph is traced from, float32 on the CPU."""
    embedding = model.llm.get_input_embeddings()
    owners = {ENCODER: (model.encoder, model.connector), ADAPTER: (model.connector, embedding), LLM: (model.llm,)}
    for owner in owners[source.spec.name]:
        owner.to("cpu", torch.float32)
    with source.build(model) as module:
        yield module


def to_bfloat16(module: nn.Module, device: torch.device) -> None:
    """Move a part to the GPU as bfloat16; what positions are computed from stays float32, as in every LLM library."""
    kept = {name: buffer for name, buffer in module.named_buffers() if name.endswith("inv_freq")}
    module.to(device, torch.bfloat16)
    for name, buffer in kept.items():
        owner, _, key = name.rpartition(".")
        setattr(module.get_submodule(owner), key, buffer.to(device))


def chosen(case: str, spec: GraphSpec) -> bool:
    """Say whether a case is one that streams have."""
    sizes = SIZES[ENCODER] if spec.name == ENCODER else SIZES["text"]
    used = {axis for tensor in (*spec.inputs, *spec.states) for axis in tensor.axes}
    wanted = [" ".join(item for item in size.split() if item.partition("=")[0] in used) for size in sizes]
    return case in wanted or (spec.name == ENCODER and case.startswith("batch=1 "))


def times_ms(run: Callable[[], object], device: torch.device, runs: int) -> list[float]:
    """Time runs, each waited for."""
    times = []
    for _ in range(WARM_UP + runs):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - started) * 1000)
    return times[WARM_UP:]


def captured(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return the replay of a CUDA graph of a run."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def measure(module: nn.Module, source: GraphSource, device: torch.device, runs: int) -> Iterator[Row]:
    """Compare a part with itself in float32 and time it."""
    spec = source.spec
    wanted = [(case, feeds) for case, feeds in source.cases() if chosen(case, spec)]
    reference = torch_reference(module, spec)
    expected = {case: reference(feeds) for case, feeds in wanted}
    to_bfloat16(module, device)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    for case, feeds in wanted:
        tensors = [placed(feeds[name], device) for name in spec.input_names]

        def run(tensors: list[Tensor] = tensors) -> tuple[Tensor, ...]:
            with device:  # the modules make positions on the default device
                return module(*tensors)

        got = {name: tensor.cpu() for name, tensor in zip(spec.output_names, run(), strict=True)}
        outputs = {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in got.items()}
        row: Row = {"graph": spec.name, "case": case, "error": relative_error(outputs, expected[case])}
        row |= summary("eager", times_ms(run, device, runs))
        if device.type == "cuda":
            row |= summary("cuda_graph", times_ms(captured(run, device), device, runs))
            row["memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        yield row | {"weight_bytes": num_bytes}


def placed(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an input where and as the part takes it."""
    tensor = torch.from_numpy(array).to(device)
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def summary(name: str, times: list[float]) -> Row:
    """Return median and 95th percentile."""
    return {f"{name}_p50_ms": float(np.median(times)), f"{name}_p95_ms": float(np.percentile(times, 95))}


def table(rows: list[Row]) -> str:
    """Return rows for people."""
    lines = [f"{'graph':14} {'case':44} {'error':>8} {'eager ms':>9} {'graph ms':>9}"]
    for row in rows:
        graph_ms = f"{row['cuda_graph_p50_ms']:9.3f}" if "cuda_graph_p50_ms" in row else " not done"
        lines.append(f"{row['graph']:14} {row['case']:44} {row['error']:8.1e} {row['eager_p50_ms']:9.3f} {graph_ms}")
    return "\n".join(lines)


def main() -> int:
    """Measure every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu" and not args.tiny:
        print("no GPU that PyTorch can use: nothing was measured; --tiny tries this script on the CPU")
        return 0
    model, rows = load(tiny=args.tiny), []
    with torch.no_grad():
        for source in graph_sources(model.config).values():
            with part(model, source) as module:
                rows += list(measure(module, source, device, args.runs))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    record = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": args.tiny, "rows": rows}
    print(f"{name}, PyTorch {torch.__version__}, bfloat16; CUDA graphs: {'yes' if device.type == 'cuda' else 'no GPU'}")
    print(table(rows))
    text = json.dumps(record)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(any(not row["error"] <= TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
