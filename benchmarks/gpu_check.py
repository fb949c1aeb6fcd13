"""What a GPU does with a bundle: parity with the CPU, time of each graph, streams at once, memory; one file to send.

    python benchmarks/gpu_check.py [--bundle BUNDLE] [--reference FP32_BUNDLE] [--device cuda:0] [--streams 1,2,4,8]
                                   [--runs 200] [--graphs] [--out gpu_check.json]

For owners of a GPU: `bestow-edge export CKPT --target cuda --out BUNDLE` makes a bundle for it; the reference is one
made with `--precision fp32`. With --graphs everything is done twice, the second time with CUDA graphs. Without a GPU it
says what was not done, and why; the exit code is 1 only if a check failed. Needs the extra `gpu` (or `cpu`, where it
finds no GPU). Not yet run on hardware.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bestow_edge.cli.doctor import write_gpu_report
from bestow_edge.cli.show.console import say
from bestow_edge.evaluation.run.gpu import Examination, GpuReport, examine


def main() -> int:
    """Check, print and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    args = parser.parse_args()
    asked = Examination(
        bundle=args.bundle,
        reference=args.reference,
        device=args.device,
        runs=args.runs,
        streams=tuple(int(count) for count in args.streams.split(",")),
    )
    ways = [asked, replace(asked, device=f"{args.device},graphs")] if args.graphs else [asked]
    reports: list[GpuReport] = []
    for number, way in enumerate(ways):
        reports.append(examine(way, say))
        write_gpu_report(reports[-1])
        path = args.out.with_stem(f"{args.out.stem}_graphs") if number else args.out
        reports[-1].pack(path)
        print(f"attach this file to a bug report: {path}")
    return int(any(report.failed for report in reports))


if __name__ == "__main__":
    sys.exit(main())
