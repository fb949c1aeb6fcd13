"""What the demo's pretrained LLM is worth: stage `writing` with an LLM that has read texts and with a random one.

    python benchmarks/demo_transfer.py --data DATA --start CKPT --llm TEXT_CKPT --out DIR [--steps 600] [--only random]

Both runs have CKPT's encoder, which stays as it is, an adapter that begins silent, at the same random weights, and an
LLM of the sizes of TEXT_CKPT's, which has read texts and never heard speech (runs/demo-text/checkpoint); batches and
steps are the same.
DATA is what examples/demo/speech.yaml wants. A stopped run goes on by the same command; with --only the two can run
side by side, and the command without it prints both. Needs the extra `train`.
Prints a table and, last, one JSON line: dev loss, right next tokens, WER and BLEU under wait-k with K = 6.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from bestow_edge.core.checkpoint import TOKENIZER_FILE
from bestow_edge.core.decoding import decode
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint, save_checkpoint
from bestow_edge.training.learning.trainer import train
from bestow_edge.training.recipe.recipe import Recipe

RECIPE = Path(__file__).parents[1] / "examples" / "demo" / "speech.yaml"
STAGE = "writing"
FIGURES = {"eval_token_loss": "dev loss", "eval_right": "right tokens", "eval_wer": "WER", "eval_bleu": "BLEU"}


def with_llm(start: Path, llm: Path, directory: Path, *, pretrained: bool) -> Path:
    """Write a checkpoint of one's encoder, a silent adapter, and an LLM of another's sizes and perhaps its weights."""
    if not directory.exists():
        hears, reads = load_checkpoint(start).float(), load_checkpoint(llm).float()
        torch.manual_seed(0)
        model = SpeechModel.from_config(replace(hears.config, llm=reads.config.llm))
        model.connector.start_silent()
        model.encoder.load_state_dict(hears.encoder.state_dict())
        if pretrained:
            model.llm.load_state_dict(reads.llm.state_dict())
        save_checkpoint(model, (llm / TOKENIZER_FILE).read_text(encoding="utf-8"), directory)
    return directory


def run(start: Path, out: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train the stage from a checkpoint and return the last evaluation's figures."""
    values: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    stage = next(stage for stage in values["stages"] if stage["name"] == STAGE)
    values |= {"init": str(start.absolute()), "stages": [stage | {"steps": args.steps, "batches_per_step": 1}]}
    values["hypotheses"] = {"utterances": 128, "k": 6, "lookahead": 6}
    values["eval_steps"] = args.steps
    train(decode(Recipe, values, str(RECIPE)), args.data, out)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [record for record in records if "eval_loss" in record][-1]
    return {name: round(last[key], 3) for key, name in FIGURES.items() if key in last}


def main() -> None:
    """Run both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory the recipe's manifests are relative to")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint whose encoder hears")
    parser.add_argument("--llm", type=Path, required=True, help="checkpoint whose LLM has read texts")
    parser.add_argument("--only", choices=["pretrained", "random"], help="make one of the two runs")
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each run")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in [args.only] if args.only else ["pretrained", "random"]:
        start = with_llm(args.start, args.llm, args.out / f"{name}_start", pretrained=name == "pretrained")
        rows[f"{name} LLM"] = run(start, args.out / name, args)
    table = Table("", *FIGURES.values(), title=f"{args.steps} steps of stage {STAGE}")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[figure]:.3f}" if figure in row else "" for figure in FIGURES.values()))
    Console().print(table)
    print(json.dumps({"steps": args.steps, "machine": platform.machine(), **rows}))


if __name__ == "__main__":
    main()
