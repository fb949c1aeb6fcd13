"""Put the trained layers of examples/people/learned into a start, or store those of a trained checkpoint.

    python examples/people/learned.py START --out people
    python examples/people/learned.py runs/people/checkpoint --store

START comes from `bestow-edge init --adapter decoder`, see docs/people.md. Embeddings and positions stay Whisper's.
Needs the extra `train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file

from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint, save_checkpoint

LEARNED = Path(__file__).parent / "learned" / "adapter.safetensors"
WHISPERS = ("words.", "places.")  # begins of the names of weights that stay Whisper's
RIGHT_CONTEXT = 2  # steps of 80 ms that are dropped at the end of each encoding
PAUSE_S, LONGEST_S = 1.5, 15.0


def store(model: SpeechModel, file: Path) -> None:
    """Write the trained weights of a model's adapter in bfloat16."""
    weights = {name: weight for name, weight in model.connector.state_dict().items() if not name.startswith(WHISPERS)}
    file.parent.mkdir(exist_ok=True)
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}, str(file))


def put(model: SpeechModel, file: Path) -> None:
    """Give a start the trained weights, and how it streams."""
    weights = {name: weight.float() for name, weight in load_file(str(file)).items()}
    missing = model.connector.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or any(not name.startswith(WHISPERS) for name in missing.missing_keys):
        raise SystemExit(f"{file}: not the weights of this start's adapter; make the start as docs/people.md does")
    encoder = replace(cast(WindowedConfig, model.config.encoder), right_context=RIGHT_CONTEXT)
    segments = replace(model.config.segments, pause_s=PAUSE_S, max_s=LONGEST_S)
    policy = replace(model.config.policy, name="local-agreement")
    model.config = replace(model.config, encoder=encoder, segments=segments, policy=policy)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the start, or with --store the trained checkpoint")
    parser.add_argument("--out", type=Path, help="checkpoint to make")
    parser.add_argument("--store", action="store_true", help="store the weights instead")
    options = parser.parse_args(arguments)
    if options.store == (options.out is not None):
        parser.error("give either --out CKPT or --store")
    model = load_checkpoint(options.checkpoint)
    if options.store:
        store(model, LEARNED)
        return
    put(model, LEARNED)
    tokenizer = (options.checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    save_checkpoint(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
