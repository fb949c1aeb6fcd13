"""Helpers of the tests that run training in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

MAIN = ["-m", "bestow_edge.cli.main", "train"]
QUIET = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}
TIMES = {"eval_runtime"}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def write_recipe(corpus: Path, path: Path, values: dict[str, Any]) -> Path:
    """Write a recipe whose manifests are those of the corpus."""
    data = dict(values["data"])
    for kind in ("sources", "dev_sources"):
        data[kind] = [
            source | {"manifests": [str(corpus / name) for name in source["manifests"]]} for source in data[kind]
        ]
    path.write_text(yaml.safe_dump(values | {"data": data}), encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    """Return the environment without what a launcher of these tests may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | more


def start(recipe: Path, out: Path, launcher: Sequence[str] = (), **env: str) -> subprocess.Popen[str]:
    """Start training."""
    return subprocess.Popen(
        [sys.executable, *launcher, *MAIN, str(recipe), "--out", str(out)],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, str]:
    """Wait for a program; return its exit code and stderr."""
    _, err = process.communicate(timeout=timeout_s)
    return process.returncode, err


def torchrun(processes: int = 2) -> list[str]:
    """Return the arguments that start several processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]


def records(out: Path) -> list[dict[str, Any]]:
    """Return the records of a run, without times."""
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]
