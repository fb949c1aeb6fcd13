"""Output of a frozen encoder for a training without augmentation, computed once, by the features that go in."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bestow_edge.core.features import log_mel
from bestow_edge.core.utterances import read_manifest
from bestow_edge.model.base import Speech, SpeechModel
from bestow_edge.runtime import read_audio

FILE = "features.npz"
EVERY = 100  # utterances between two lines about the progress


def compute(recipe: Any, out: Path) -> None:
    """Encode the utterances of train and dev, unless the file is there."""
    if (out / FILE).is_file():
        return
    from bestow_edge.model.checkpoint import load_checkpoint

    model, found = load_checkpoint(out / "whisper"), {}
    for split in ("train", "dev"):
        for number, item in enumerate(read_manifest(out / "data" / f"{split}.jsonl")):
            if number % EVERY == 0:
                print(f"features: {split} {number}", file=sys.stderr, flush=True)
            mel = torch.from_numpy(log_mel(read_audio(item.path, 16_000), recipe.model.features))
            with torch.no_grad():
                speech = model.encode(mel[None], torch.tensor([len(mel)]))
            found[key(mel)] = speech.steps[0].half().numpy()
    np.savez(out / FILE, **found)


def key(mel: Tensor) -> str:
    """Return a name of features (frames, mel_bins)."""
    return hashlib.sha256(mel.contiguous().numpy().tobytes()).hexdigest()


@contextmanager
def use(out: Path) -> Iterator[None]:
    """Let every model take what was computed; other speech is encoded, and counted as an error at the end.

    Raises:
        RuntimeError: if features were not found.
    """
    plain, missed = SpeechModel.encode, 0
    with np.load(out / FILE) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}

    def encode(self: SpeechModel, mel: Tensor, frame_lens: Tensor, right_context: int | None = None) -> Speech:
        nonlocal missed
        if not mel.any():  # the silence that a batch of texts has instead of speech
            return plain(self, mel, frame_lens, right_context)
        names = [key(row[:length]) for row, length in zip(mel, frame_lens.tolist(), strict=True)]
        if any(name not in known for name in names):
            missed += 1
            return plain(self, mel, frame_lens, right_context)
        rows = [known[name].float() for name in names]
        steps = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Speech(steps, torch.tensor([len(row) for row in rows]), 0)

    SpeechModel.encode = encode  # type: ignore[method-assign]  # the benchmark alone does so
    try:
        yield
    finally:
        SpeechModel.encode = plain  # type: ignore[method-assign]
    if missed:
        raise RuntimeError(f"{missed} batches were not among the computed features: their times are wrong")
