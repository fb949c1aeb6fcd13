"""Put the trained layers of examples/people/learned into a start, or store those of a trained checkpoint.

    python examples/people/learned.py START --out people
    python examples/people/learned.py runs/people/checkpoint --store --start START --share 0.6

Stored weights are those of START, moved by a share of the way to the trained ones: that is better than either end.
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
RIGHT_CONTEXT = 4  # steps of 80 ms that are dropped at the end of each encoding
PAUSE_S, LONGEST_S = 1.5, 20.0
SILENCE_S = (0.32, 0.96)  # around the audio: without it, a word that is cut out is left out or repeated


def store(start: SpeechModel, model: SpeechModel, share: float, file: Path) -> None:
    """Write weights between those of two adapters in bfloat16: 0 stores those of the start, 1 the trained ones."""
    trained = model.connector.state_dict()
    weights = {
        name: torch.lerp(weight, trained[name], share)
        for name, weight in start.connector.state_dict().items()
        if not name.startswith(WHISPERS)
    }
    file.parent.mkdir(exist_ok=True)
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}, str(file))


def put(model: SpeechModel, file: Path) -> None:
    """Give a start the trained weights, and how it streams."""
    weights = {name: weight.float() for name, weight in load_file(str(file)).items()}
    missing = model.connector.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or any(not name.startswith(WHISPERS) for name in missing.missing_keys):
        raise SystemExit(f"{file}: not the weights of this start's adapter; make the start as docs/people.md does")
    encoder = replace(cast(WindowedConfig, model.config.encoder), right_context=RIGHT_CONTEXT)
    segments = replace(model.config.segments, pause_s=PAUSE_S, max_s=LONGEST_S, silence_s=SILENCE_S)
    policy = replace(model.config.policy, name="local-agreement")
    model.config = replace(model.config, encoder=encoder, segments=segments, policy=policy)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the start, or with --store the trained checkpoint")
    parser.add_argument("--out", type=Path, help="checkpoint to make")
    parser.add_argument("--store", action="store_true", help="store the weights instead")
    parser.add_argument("--start", type=Path, help="with --store: the checkpoint that training began with")
    parser.add_argument("--share", type=float, default=1.0, help="with --store: of the way from it to the trained one")
    options = parser.parse_args(arguments)
    if options.store in {options.out is not None, options.start is None}:
        parser.error("give either --out CKPT, or --store and --start START")
    model = load_checkpoint(options.checkpoint)
    if options.store:
        store(load_checkpoint(options.start), model, options.share, LEARNED)
        return
    put(model, LEARNED)
    tokenizer = (options.checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    save_checkpoint(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
