"""The seeds' architectures side by side: the same speech, frozen Whisper encoder, small LLM and steps for all of them.

    python benchmarks/architectures.py --data DATA --whisper WHISPER [--out runs/architectures] [--steps 600]
        [--seeds 1,2] [--only bestow,salm] [--all] [--test 80] [--questions] [--figure]

DATA has `human` and `human_extra` (benchmarks/architectures_data.py), WHISPER is the folder of whisper-base. The
recipes are those of examples/architectures: one of each kind, with --all their ablations too. Whisper's output for the
training is computed once and kept. Each recipe and seed then runs in a process of its own: train, export,
`bestow-edge eval` offline (where there is such a policy) and streaming, and the decoder alone against 15 to 120 s of
speech. With --questions it goes on to learn to answer (benchmarks/architectures_questions.py). What is done is not done
again. Prints a table and, last, one JSON line; --figure writes docs/architectures.svg and the table of
docs/architectures.md. Needs the extras `train`, `export` and `eval`, and Linux.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "examples" / "architectures"
KINDS = ("bestow", "gated_layers", "salm", "speech_llama", "interleave")
POLICIES = {
    "cross_adapter": "wait-k,offline",
    "gated_layers": "wait-k,offline",
    "prepend": "local-agreement,offline",
    "interleave": "every-step",
}
TRAIN, DEV = 2000, 16  # utterances
QUESTIONS = 2  # about an utterance of the training; an evaluation takes a recording once
ASK_STEPS = 1500
LENGTHS_S = (15, 30, 60, 120)
SKIPPED = 5  # first steps, which are slower
Measure = Callable[[str, int, Path, argparse.Namespace], dict[str, Any]]


def main() -> None:
    """Run what is not there yet, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True, help="folder of whisper-base")
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"), help="directory of the runs")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of the stage `learn`")
    parser.add_argument("--seeds", default="1", help="of weights and batches, such as 1,2")
    parser.add_argument("--only", default="", help="names of recipes, such as bestow,salm")
    parser.add_argument("--all", action="store_true", help="all recipes, ablations too")
    parser.add_argument("--test", type=int, default=80, help="utterances of the test")
    parser.add_argument("--questions", action="store_true", help="answers about speech too, beside the cascade")
    parser.add_argument("--figure", action="store_true", help="write docs/architectures.svg and the table of its page")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # a recipe and a seed, in its own process
    options = parser.parse_args()
    if options.run:
        run(options.run[0], int(options.run[1]), options)
        return
    started_s = time.monotonic()
    prepare(options)
    rows: dict[str, dict[str, Any]] = {}
    for seed in map(int, options.seeds.split(",")):
        for name in chosen(options):
            print(f"{time.monotonic() - started_s:.0f} s: {name}, seed {seed}", file=sys.stderr, flush=True)
            rows.setdefault(name, {})[str(seed)] = result_of(name, seed, options)
    from architectures_table import print_tables, write_page

    record = {"steps": options.steps, "test": options.test, "machine": platform.processor() or platform.machine()}
    record |= {"minutes": round((time.monotonic() - started_s) / 60, 1), "rows": rows}
    print_tables(rows)
    if options.figure:
        write_page(record, ROOT / "docs")
    print(json.dumps(record))


def chosen(options: argparse.Namespace) -> list[str]:
    """Return the names of the recipes to compare."""
    if options.only:
        return [str(name) for name in options.only.split(",")]
    found = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "common")
    return [*KINDS, *(name for name in found if name not in KINDS)] if options.all else list(KINDS)


def prepare(options: argparse.Namespace) -> None:
    """Join the recordings, take Whisper apart and compute its output for the training."""
    from architectures_data import write_split
    from architectures_questions import write_questions

    for seed, (split, count) in enumerate((("train", TRAIN), ("dev", DEV), ("test", options.test))):
        write_split(options.data, options.out / "data", split, count, seed)
        write_questions(options.out / "data", split, seed, QUESTIONS if split == "train" else 1)
    if not (options.out / "whisper").is_dir():
        command = ["init", "--from", str(options.whisper), "--offline", "--out", str(options.out / "whisper")]
        subprocess.run([sys.executable, "-m", "bestow_edge", *command], check=True, stdout=sys.stderr)
    from architectures_features import compute

    compute(recipe_of("bestow", 1, options), options.out)


def recipe_of(name: str, seed: int, options: argparse.Namespace) -> Any:  # Any: a Recipe, whose import takes a while
    """Return a recipe with the seed and the number of steps, and with the encoder that `prepare` made."""
    from bestow_edge.training.recipe.recipe import load_recipe

    recipe = load_recipe(RECIPES / f"{name}.yaml")
    stages = tuple(replace(one, steps=options.steps) if one.name == "learn" else one for one in recipe.stages)
    model = replace(recipe.model, encoder_from=str(options.out / "whisper"))
    return replace(recipe, seed=seed, stages=stages, model=model, save_steps=options.steps)


def result_of(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return a run's figures, running in a process of its own what is missing."""
    paths = [options.out / name / str(seed) / f"{part}.json" for part in parts(options)]
    if not all(path.is_file() for path in paths):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--run", name, str(seed)], check=True)
    figures: dict[str, Any] = {}
    for path in paths:
        figures |= json.loads(path.read_text(encoding="utf-8"))
    return figures


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train, export and measure one recipe, and write its figures."""
    out = options.out / name / str(seed)
    for part, measure in parts(options).items():
        if not (out / f"{part}.json").is_file():
            figures = measure(name, seed, out, options)
            (out / f"{part}.json").write_text(json.dumps(figures), encoding="utf-8")


def parts(options: argparse.Namespace) -> dict[str, Measure]:
    """Return the functions whose figures a file of their names holds."""
    return {"result": words, "lengths": lengths} | ({"questions": questions} if options.questions else {})


def words(name: str, seed: int, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a recipe that writes words."""
    from bestow_edge.core.bundle import read_manifest

    figures = learn(recipe_of(name, seed, options), out / "run", options)
    bundle = exported(out / "run" / "checkpoint", out / "bundle")
    kind = read_manifest(bundle).model.connector.kind
    figures["kind"] = kind
    figures["mb"] = {path.stem: path.stat().st_size / 1e6 for path in sorted(bundle.glob("*.onnx"))}
    figures["scores"] = evaluate(bundle, "test.jsonl", out / "scores", options, "--policy", POLICIES[kind])
    return figures


def lengths(_name: str, _seed: int, out: Path, _options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of the decoder alone."""
    from architectures_lengths import by_length

    return {"lengths": by_length(out / "bundle", LENGTHS_S)}


def questions(name: str, seed: int, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the shares of right answers about speech, about its transcript, and about the written words."""
    from architectures_questions import asking, cascade

    recipe, checkpoint = recipe_of(name, seed, options), out / "ask" / "checkpoint"
    learn(asking(recipe, out / "run" / "checkpoint", ASK_STEPS), out / "ask", options)
    bundle = exported(checkpoint, out / "ask-bundle")
    policy = ("--policy", POLICIES[recipe.model.connector.kind].split(",")[-1])  # offline where there is such a policy
    heard = evaluate(bundle, "questions.test.jsonl", out / "ask-words", options, *policy)
    manifest = options.out / "data" / "questions.test.jsonl"
    (path,) = (out / "ask-words").glob("*/utterances.jsonl")
    lines = sorted(map(json.loads, path.read_text(encoding="utf-8").splitlines()), key=lambda line: line["index"])
    asked = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    answered = evaluate(bundle, "questions.test.jsonl", out / "ask-answers", options, "--questions", *policy)
    return {
        "wer_then": next(iter(heard.values()))["wer"],
        "answers": {
            "speech": next(iter(answered.values()))["accuracy"],
            "cascade": cascade(checkpoint, manifest, [line["prediction"] for line in lines]),
            "written words": cascade(checkpoint, manifest, [line["text"] for line in asked]),
        },
    }


def exported(checkpoint: Path, bundle: Path) -> Path:
    """Return the bundle, exporting the checkpoint in float32 if it is not there."""
    from bestow_edge.export.pipeline import export_bundle

    if not bundle.is_dir():
        export_bundle(checkpoint, bundle, precision="fp32", progress=lambda _: None)
    return bundle


def learn(recipe: Any, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless there is a checkpoint; return trainable weights, steps in a second of CPU, memory."""
    from architectures_features import use
    from transformers import TrainerCallback

    from bestow_edge.training.learning.trainer import train

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        """Measures the CPU time of steps without what lies between them, and counts what moves."""

        def __init__(self) -> None:
            self.steps_s: list[float] = []
            self.began_s = 0.0
            self.before_kb = self.peak_kb = self.trainable = 0

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            self.steps_s.clear()
            self.trainable = sum(weight.numel() for weight in model.model.parameters() if weight.requires_grad)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, here where the weights are loaded
            self.before_kb = status_kb("VmRSS")

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began_s = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps_s.append(time.process_time() - self.began_s)
            self.peak_kb = status_kb("VmHWM")

    path = out / "figures.json"
    if not path.is_file():
        clock = Clock()
        with use(options.out):
            train(recipe, options.out / "data", out, [clock])
        steps_s = sorted(clock.steps_s[SKIPPED:] or clock.steps_s)
        figures = {
            "trainable": clock.trainable,
            "steps_per_cpu_s": 1 / steps_s[len(steps_s) // 2],
            "memory_mb": (clock.peak_kb - clock.before_kb) / 1000,
        }
        path.write_text(json.dumps(figures), encoding="utf-8")
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return done


def status_kb(field: str) -> int:
    """Return a size that Linux reports about this process, KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def evaluate(bundle: Path, manifest: str, out: Path, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Return WER or accuracy, lag and real-time factor of each policy, with 95 % intervals."""
    command = ["eval", str(options.out / "data" / manifest), "--bundle", str(bundle), *more, "--threads", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bestow_edge", *command, "--out", str(out)], check=True, capture_output=True, text=True
    )
    wanted = ("wer", "accuracy", "LAAL", "FirstText_CA", "RTF")
    return {
        setting["policy"]: {name: setting["scores"][name] for name in wanted if name in setting["scores"]}
        for setting in json.loads(done.stdout)["settings"]
    }


if __name__ == "__main__":
    main()
