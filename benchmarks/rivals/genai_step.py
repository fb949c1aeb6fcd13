"""The LLM's step in onnxruntime-genai: int4 weights in blocks of 128, built from the same checkpoint.

    python benchmarks/rivals/genai_step.py CHECKPOINT WORK [--threads 1]

WORK keeps the LLM as a Hugging Face folder and the built model, and what is there is taken as it is. The step is timed
behind 100 tokens, sampling (greedy) included. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import report

PAST_TOKENS = 100
BUILD = "-p int4 -e cpu --extra_options block_size=128 accuracy_level=4"  # names of release 0.18


def save_llm(checkpoint: Path, folder: Path) -> None:
    """Write the checkpoint's LLM as a Hugging Face folder."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from bestow_edge.core.checkpoint import TOKENIZER_FILE, WEIGHTS_FILE, load_config
    from bestow_edge.training.data.tokens import BEGIN, END, PAD

    options = dict(load_config(checkpoint).llm)
    build: Any = AutoModelForCausalLM.from_config  # Any: transformers' auto classes have no types
    llm = build(AutoConfig.for_model(options.pop("model_type"), **options), dtype="bfloat16")
    with safe_open(str(checkpoint / WEIGHTS_FILE), "pt") as file:
        names = [name for name in file.keys() if name.startswith("llm.")]  # noqa: SIM118 - no mapping
        llm.load_state_dict({name.removeprefix("llm."): file.get_tensor(name) for name in names}, strict=False)
    llm.save_pretrained(folder)
    tokens = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / TOKENIZER_FILE), **tokens).save_pretrained(folder)


def build(checkpoint: Path, work: Path) -> Path:
    """Return the built model's folder."""
    built, partial, folder = work / "genai", work / "genai.partial", work / "llm_hf"
    if built.is_dir():
        return built
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    save_llm(checkpoint, folder)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(partial)]
    command += ["-c", str(work / "genai_cache"), *BUILD.split()]
    subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    shutil.rmtree(folder)
    partial.rename(built)
    return built


def main() -> None:
    """Build the model and time its step."""
    args = report.parser(__doc__, "checkpoint", "work").parse_args()
    report.need("onnxruntime_genai", "onnxruntime-genai")
    folder = build(args.checkpoint, args.work)
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    options = {"intra_op_num_threads": args.threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    parameters = og.GeneratorParams(model)
    length = PAST_TOKENS + args.runs + 2 * report.WARM_UP
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens([5 + number for number in range(PAST_TOKENS)])
    times = report.times_ms(generator.generate_next_token, args.runs)
    if (ran := generator.token_count() - PAST_TOKENS) != args.runs + min(report.WARM_UP, args.runs):
        raise RuntimeError(f"onnxruntime-genai stopped after {ran} tokens")
    size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    report.tell(**report.summary(times), bytes=size, build=BUILD, version=og.__version__)


if __name__ == "__main__":
    main()
