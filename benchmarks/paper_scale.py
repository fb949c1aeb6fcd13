"""A model of the paper's sizes on this machine, beside PyTorch, onnxruntime-genai, llama.cpp, NeMo and prepending.

    python benchmarks/paper_scale.py [--checkpoint DIR] [--bundle DIR] [--parts stream,products,prompts,...]
        [--audio FILE] [--nemo-encoder FILE.onnx] [--plot FILE.svg] [--work DIR] [--threads N] [--tiny]

Makes a checkpoint of 1.75 billion random weights, exports it and streams 60 s of speech at every look-ahead; then
measures the rivals on the same weights or the same shape, each in a process of its own, one after the other, with as
many threads. docs/paper_scale.md says what every row means. A rival whose package is missing is a row that says so.
Needs the extras `cpu`, `export` and `train`, 16 GB of memory, 12 GB of disk and some twenty minutes. Prints tables and,
last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paper_scale_table import LOOKAHEAD, THREE_TEXTS, draw, tables, targets
from rich.console import Console

from bestow_edge.core.bundle import MANIFEST_FILE, read_manifest
from bestow_edge.core.checkpoint import load_config
from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import BestowEdgeError
from bestow_edge.core.policy import WaitK
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.utterances import read_manifest as read_recordings
from bestow_edge.evaluation.report.hardware import describe_machine, usable_cores, versions
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.audio.files import read_audio

RIVALS = Path(__file__).parent / "rivals"
LOOKAHEADS = (13, 6, 1, 0)
POLICY = WaitK(k=6, l=4)
STEP_S = ChunkedConfig.frames_per_step * FeatureConfig().frame_s
PREPENDED_S = (15, 30, 60, 120)  # audio
LONG_S = (10, 600)  # audio
PROMPTS_S = 15.0  # audio
PARTS = ("stream", "products", "prompts", "long", "torch", "genai", "llama", "nemo", "prepend")
OF_CHECKPOINT, OF_BUNDLE = {"torch", "genai", "llama"}, {"stream", "products", "prompts", "long", "prepend"}
COMMAND_LINE = (sys.executable, "-P", "-c", "from bestow_edge.cli.main import main; main()")
INTERRUPTED = 130
TABLE_WIDTH = 120  # where no terminal says how wide it is
Figures = dict[str, Any]  # Any: what JSON holds

err = Console(stderr=True, highlight=False, markup=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process told."""

    figures: Figures
    """Its JSON line, or `error`."""
    seconds: float
    peak_gb: float
    """Most resident memory, 1e9 bytes."""


def run(name: str, command: Iterable[object], work: Path) -> Outcome:
    """Run a process to its end; what it says on stderr goes to a file in `work`."""
    log = work / f"{name.replace(' ', '_')}.log"
    started = time.perf_counter()
    with (
        err.status(f"{name} ...") if err.is_terminal else ExitStack(),
        log.open("wb") as errors,
        subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        try:
            out = child.stdout.read() if child.stdout else b""
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if child.returncode is None:  # Ctrl-C
                child.terminate()
    seconds = time.perf_counter() - started
    figures = told(child.returncode, out, log)
    problem = figures.get("error") or figures.get("skipped")
    err.print(f"{name}: {seconds:.1f} s" + (f", {problem}" if problem else ""), soft_wrap=True)
    return Outcome(figures, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9)


def told(code: int, out: bytes, log: Path) -> Figures:
    """Return the JSON that a process printed last, or how it failed."""
    if code:
        said = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return {"error": f"crashed with signal {-code}" if code < 0 else f"failed: {last:.200}"}
    text = out.decode("utf-8", errors="replace").strip()
    try:
        figures = json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": f"its output is no JSON: {text[-200:]!r}"}
    return dict(figures)


def rival(name: str, args: argparse.Namespace, script: str, *arguments: object) -> Figures:
    """Run a script of `rivals/`."""
    options = ("--threads", args.threads, "--runs", args.runs)
    return run(name, [sys.executable, RIVALS / script, *arguments, *options], args.work).figures


class FailedError(RuntimeError):
    """Nothing to measure."""


def prepare(args: argparse.Namespace, parts: set[str]) -> Figures:
    """Make the checkpoint and the bundle that were not given; return what that took."""
    figures: Figures = {}
    exports = args.bundle is None and parts & OF_BUNDLE
    if args.checkpoint is None and (exports or parts & OF_CHECKPOINT):
        args.checkpoint = args.work / "checkpoint"
        command = [sys.executable, RIVALS / "random_checkpoint.py", args.checkpoint]
        command += ["--most-tokens", tokens_by_policy(args.seconds), *(["--tiny"] if args.tiny else [])]
        figures["checkpoint"] = checked(run("checkpoint", command, args.work)).figures
    if exports:
        args.bundle = args.work / "bundle"
        command = [*COMMAND_LINE, "export", args.checkpoint, "--out", args.bundle, "--least-agreement", "0"]
        made = checked(run("export", [*command, "--force", "--json"], args.work))
        figures["export"] = {"seconds": made.seconds, "peak_gb": made.peak_gb}
    if parts & OF_BUNDLE:
        report = read_manifest(args.bundle).quantization
        rows = {row.graph: row for row in report.rows} if report else {}
        figures["bits_per_weight"] = rows[LLM].bits_per_weight if LLM in rows else None
    return figures


def tokens_by_policy(seconds: float) -> int:
    """Return how many tokens wait-k writes while it hears some audio, at least one."""
    return max(1, int(seconds / STEP_S) // POLICY.l - POLICY.k + 1)


def checked(outcome: Outcome) -> Outcome:
    """Return an outcome unless it is a failure.

    Raises:
        FailedError: it is.
    """
    if "error" in outcome.figures:
        raise FailedError(outcome.figures["error"])
    return outcome


def streams(args: argparse.Namespace, _: Figures) -> Figures:
    """Run the stream at every look-ahead."""
    found = {}
    for lookahead in LOOKAHEADS:
        command = [*COMMAND_LINE, "bench", args.bundle, "--audio", args.audio, "--seconds", args.seconds]
        command += ["--lookahead", lookahead, "--k", POLICY.k, "--l", POLICY.l, "--threads", args.threads, "--json"]
        found[str(lookahead)] = run(f"stream {lookahead}", command, args.work).figures
    return found


def products(args: argparse.Namespace, _: Figures) -> Figures:
    """Time the matrix products alone of one token, of three texts' tokens and of a chunk."""
    wanted = {LLM: (LLM, 1), THREE_TEXTS: (LLM, 3), ENCODER: (ENCODER, LOOKAHEAD + 1)}
    return {name: rival(f"products {name}", args, "products.py", args.bundle, *what) for name, what in wanted.items()}


def prompts(args: argparse.Namespace, _: Figures) -> Figures:
    """Compare several prompts about one stream with one."""
    import soundfile

    rate_hz = read_manifest(args.bundle).model.features.sample_rate_hz
    short = np.resize(read_audio(args.audio, rate_hz), round(min(PROMPTS_S, args.seconds) * rate_hz))
    soundfile.write(args.work / "short.wav", short, rate_hz)
    command = [sys.executable, Path(__file__).parent / "prompts.py", args.work / "short.wav", "--repeat", 1]
    command += ["--bundle", args.bundle, "--threads", args.threads, "--rounds", 2]
    return run("prompts", command, args.work).figures


def long(args: argparse.Namespace, _: Figures) -> list[Figures]:
    """Time a token after little and after much audio."""
    return [rival(f"long {s} s", args, "prepending.py", args.bundle, "cross", s) for s in LONG_S]


def torch(args: argparse.Namespace, figures: Figures) -> Figures:
    """Run the stream in PyTorch, with as many tokens as ours had."""
    rate_hz = load_config(args.checkpoint).features.sample_rate_hz
    waveform = np.resize(read_audio(args.audio, rate_hz), round(args.seconds * rate_hz))
    np.save(args.work / "waveform.npy", waveform)
    tokens = figures.get("stream", {}).get(str(LOOKAHEAD), {}).get("tokens", tokens_by_policy(args.seconds))
    options = ("--lookahead", LOOKAHEAD, "--k", POLICY.k, "--l", POLICY.l, "--tokens", tokens)
    return rival("torch", args, "torch_stream.py", args.checkpoint, args.work / "waveform.npy", *options)


def genai(args: argparse.Namespace, _: Figures) -> Figures:
    """Time the LLM in onnxruntime-genai."""
    return rival("genai", args, "genai_step.py", args.checkpoint, args.work)


def llama(args: argparse.Namespace, _: Figures) -> Figures:
    """Time the LLM in llama.cpp."""
    return rival("llama", args, "llama_step.py", args.checkpoint, args.work)


def nemo(args: argparse.Namespace, _: Figures) -> Figures:
    """Time NeMo's encoder if there is one."""
    if args.nemo_encoder is None:
        return {"skipped": "no --nemo-encoder; benchmarks/rivals/nemo_encoder.py makes one"}
    return rival("nemo", args, "onnx_encoder.py", args.nemo_encoder)


def prepend(args: argparse.Namespace, _: Figures) -> Figures:
    """Compare cross-attention with prepending at every length."""
    return {
        way: [rival(f"{way} {s} s", args, "prepending.py", args.bundle, way, s) for s in PREPENDED_S]
        for way in ("cross", "prepend")
    }


def joined_recordings(path: Path) -> Path:
    """Write the recordings that ship with the package one after the other, and return the path."""
    import soundfile

    rate_hz = 16_000
    whole = [read_audio(item.path, rate_hz) for item in read_recordings(sample_manifest())]
    soundfile.write(path, np.concatenate(whole), rate_hz, subtype="PCM_16")
    return path


def measure(args: argparse.Namespace, parts: list[str]) -> Figures:
    """Run the parts and return all figures."""
    if args.audio is None:
        args.audio = joined_recordings(args.work / "speech.wav")
    figures: Figures = {"benchmark": "paper_scale", "tiny": args.tiny, "machine": describe_machine()}
    figures |= {"versions": versions(), "threads": args.threads, "audio_s": args.seconds, "k": POLICY.k, "l": POLICY.l}
    figures |= prepare(args, set(parts))
    ours = {"stream": streams, "products": products, "prompts": prompts, "long": long, "prepend": prepend}
    ways = ours | {"torch": torch, "genai": genai, "llama": llama, "nemo": nemo}
    for part in parts:
        figures[part] = ways[part](args, figures)
    return figures | {"targets": targets(figures)}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: makes one")
    parser.add_argument("--bundle", type=Path, help="default: exports the checkpoint, and measures that")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all of %(default)s")
    parser.add_argument("--audio", type=Path, help="speech, repeated if need be; default: spoken digits")
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio; default: %(default)s")
    parser.add_argument("--nemo-encoder", type=Path, help="graph made by benchmarks/rivals/nemo_encoder.py")
    parser.add_argument("--plot", type=Path, help="draw prepending against cross-attention, SVG or PNG")
    parser.add_argument("--work", type=Path, help="keep everything that is made here; default: nothing is kept")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of ours and of all; default: %(default)s")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each single step; default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the benchmark itself")
    args = parser.parse_args()
    args.parts = [part.strip() for part in args.parts.split(",")]
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    if args.bundle is not None and not (args.bundle / MANIFEST_FILE).is_file():
        parser.error(f"--bundle: {args.bundle} holds no {MANIFEST_FILE}")
    for option in ("audio", "nemo_encoder"):
        path = getattr(args, option)
        if path is not None and not path.is_file():
            parser.error(f"--{option.replace('_', '-')}: no file {path}")
    return args


def main() -> int:
    """Run the benchmark."""
    args = arguments()
    with ExitStack() as stack:
        if args.work is None:
            args.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paper_scale")))
        args.work.mkdir(parents=True, exist_ok=True)
        try:
            figures = measure(args, [part for part in PARTS if part in args.parts])
        except KeyboardInterrupt:
            err.print("stopped")
            return INTERRUPTED
        except (BestowEdgeError, FailedError) as error:
            err.print(f"error: {error}", soft_wrap=True)
            return 1
    console = Console()
    console = console if console.is_terminal else Console(width=TABLE_WIDTH)
    for table in tables(figures):
        console.print(table)
    if args.plot and "prepend" in figures:
        draw(figures["prepend"], args.plot)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
