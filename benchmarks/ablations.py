"""The paper's ablations on spoken digits: adapter layers and text mixers (Table 4), full, LoRA, frozen LLM (Table 3).

    python benchmarks/ablations.py --data DATA [--out runs/ablations] [--steps 300] [--only "2 layers"]

DATA is what examples/digits.yaml wants. One encoder (frame labels, `ctc` stage) and one LLM (texts, `text` stage) are
trained first; every variant then starts from them with a fresh adapter, in a process of its own, with the same batches.
As in the paper the LLM has LoRA where adapters are compared and the encoder is trained. Loss, right tokens and WER are
those of dev speakers, WER under wait-k at the K of the recipe. Memory is the process's peak above what it held before
the first step. Finished variants are not run again. Needs the extra `train`. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

RECIPE = Path(__file__).parents[1] / "examples" / "digits.yaml"
LORA = {"rank": 16, "alpha": 32.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "8 x (self + cross)": {"adapter": {"num_layers": 8}, "lora": LORA},
    "2 x (self + cross)": {"adapter": {"num_layers": 2}, "lora": LORA},
    "1 x (self + cross)": {"adapter": {"num_layers": 1}, "lora": LORA},
    "1 x cross": {"adapter": {"num_layers": 1, "text_mixer": "none"}, "lora": LORA},
    "2 x LSTM + 1 x cross": {"adapter": {"num_layers": 1, "text_mixer": "lstm"}, "lora": LORA},
    "2 x (self + cross), full LLM": {"adapter": {"num_layers": 2}},
    "2 x (self + cross), frozen LLM": {"adapter": {"num_layers": 2}, "trains": ["encoder", "connector"]},
}
LOSSES = {"alignment_weight": 1.0, "count_weight": 0.5}


def main() -> None:
    """Run what is not there yet, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory the recipe's manifests are relative to")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="directory of the runs")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each variant and of the warm-up")
    parser.add_argument("--batch-s", type=float, default=30.0, help="seconds of audio in a batch")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # a variant, in its own process
    options = parser.parse_args()
    if options.run:
        run_variant(options.run, options)
        return
    started_s = time.monotonic()
    console = Console(stderr=True)
    warm_up(options, console)
    rows = {}
    for name in VARIANTS:
        if options.only in name:
            console.print(f"{name}: {time.monotonic() - started_s:.0f} s since the start")
            rows[name] = result_of(name, options)
    Console().print(table_of(rows))
    machine = {"processor": platform.processor() or platform.machine(), "minutes": (time.monotonic() - started_s) / 60}
    print(json.dumps({"steps": options.steps, "batch_s": options.batch_s, "variants": rows, "machine": machine}))


def directory_of(name: str, options: argparse.Namespace) -> Path:
    """Return where a variant's run is."""
    kept = "".join(letter if letter.isalnum() else "-" for letter in name)
    return Path(options.out) / kept


def values_of(options: argparse.Namespace, stages: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the recipe of the digits with other stages."""
    values: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    values |= {"stages": list(stages), "save_steps": options.steps, "hypotheses": {"utterances": 64}}
    return values | more


def warm_up(options: argparse.Namespace, console: Console) -> None:
    """Train the encoder and the LLM that all variants start from."""
    from bestow_edge.core.decoding import decode
    from bestow_edge.training.learning.trainer import train
    from bestow_edge.training.recipe.recipe import Recipe

    common = {"steps": options.steps, "batch_s": options.batch_s, "learning_rate": 0.001, "warmup_steps": 50}
    stages = [
        common | LOSSES | {"name": "encoder", "objective": "ctc", "pieces": [1, 6], "augment": [0.0, 0.7],
                           "lookaheads": [13, 6]},
        common | {"name": "text", "objective": "text", "pieces": [1, 6], "augment": [0.0, 0.0]},
    ]  # fmt: skip
    recipe = decode(Recipe, values_of(options, stages), "warm-up")
    console.print("warm-up: encoder and LLM")
    train(recipe, options.data, Path(options.out) / "start")


def result_of(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return a variant's figures, running it in a process of its own if there are none."""
    path = directory_of(name, options) / "result.json"
    if not path.is_file():
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--run", name], check=True)
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def run_variant(name: str, options: argparse.Namespace) -> None:
    """Train one variant and write its figures."""
    from transformers import TrainerCallback

    from bestow_edge.core.decoding import decode
    from bestow_edge.training.learning.trainer import train
    from bestow_edge.training.recipe.recipe import Recipe

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        """Times steps without what lies between them, and counts what moves."""

        def __init__(self) -> None:
            self.steps_s: list[float] = []
            self.began_s = 0.0
            self.before_kb = self.peak_kb = self.trainable = 0

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            self.trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            self.before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began_s = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps_s.append(time.perf_counter() - self.began_s)
            self.peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # evaluation comes behind the last

    out, variant = directory_of(name, options), VARIANTS[name]
    stage = LOSSES | {
        "name": "variant", "steps": options.steps, "batch_s": options.batch_s, "learning_rate": 0.001,
        "warmup_steps": 50, "pieces": [1, 6], "augment": [0.3, 0.7], "streaming": 0.5, "pauses": 0.4,
        "attention_weight": 0.3, "lookaheads": [13, 6],
    }  # fmt: skip
    stage |= {key: variant[key] for key in ("lora", "trains") if key in variant}
    values = values_of(options, [stage], init=str(start_of(variant["adapter"], options, out / "start")))
    del values["model"]
    clock = Clock()
    train(decode(Recipe, values, name), options.data, out / "run", [clock])
    records = map(json.loads, (out / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    last = [record for record in records if "eval_loss" in record][-1]
    steps_s = sorted(clock.steps_s)
    figures = {
        "trainable": clock.trainable,
        "step_ms": 1000 * steps_s[len(steps_s) // 2],
        "memory_mb": (clock.peak_kb - clock.before_kb) / 1000,
        "token_loss": last["eval_token_loss"],
        "right": 100 * last["eval_right"],
        "wer": last.get("eval_wer", 0.0),
    }
    (out / "result.json").write_text(json.dumps(figures), encoding="utf-8")


def start_of(adapter: dict[str, Any], options: argparse.Namespace, directory: Path) -> Path:
    """Write a checkpoint with the warmed-up encoder and LLM and a fresh adapter of the variant's shape."""
    import torch

    from bestow_edge.core.checkpoint import TOKENIZER_FILE
    from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
    from bestow_edge.model.base import SpeechModel
    from bestow_edge.model.checkpoint import load_checkpoint, save_checkpoint

    start = Path(options.out) / "start" / "checkpoint"
    trained = load_checkpoint(start)
    width = {"width": trained.config.connector.width, "num_heads": trained.config.connector.num_heads}
    torch.manual_seed(0)
    model = SpeechModel.from_config(replace(trained.config, connector=CrossAdapterConfig(**(width | adapter))))
    model.encoder.load_state_dict(trained.encoder.state_dict())
    model.llm.load_state_dict(trained.llm.state_dict())
    save_checkpoint(model, (start / TOKENIZER_FILE).read_text(encoding="utf-8"), directory)
    return directory.absolute()


def table_of(rows: dict[str, dict[str, float]]) -> Table:
    """Return the figures for people."""
    columns = ("trainable", "ms a step", "peak MB", "dev loss", "right tokens %", "WER %")
    table = Table(title="Ablations on spoken digits, dev speakers")
    table.add_column("adapter and LLM")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        cells = f"{row['trainable']:,}", f"{row['step_ms']:.0f}", f"{row['memory_mb']:.0f}", f"{row['token_loss']:.3f}"
        table.add_row(name, *cells, f"{row['right']:.1f}", f"{row['wer']:.1f}")
    return table


if __name__ == "__main__":
    main()
