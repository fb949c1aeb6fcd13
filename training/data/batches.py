"""Stacks examples into batches, and reads recorded noises. numpy in, torch out.

`training.data.corpora` chooses the examples of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bestow_edge.core.errors import ManifestError
from bestow_edge.runtime.audio.files import read_audio
from bestow_edge.training.data.examples import IGNORED, Example
from bestow_edge.training.recipe.data import DataRecipe

Batch = dict[str, Tensor]


def collate(examples: Sequence[Example], *, lookahead: int) -> Batch:
    """Pad examples on the right and stack them.

    Returns:
        mel (batch, frames, mel_bins), frame_lens (batch,), token_ids, visible_steps and targets (batch, tokens),
        transcript_ids (batch, labels) with -1 as padding, step_labels and step_counts (batch, steps),
        word_steps (batch, tokens, 2), lookahead (). A batch of texts without speech has no frames, steps and labels.
    """

    def pad(rows: Sequence[npt.NDArray[np.generic]], value: float) -> Tensor:
        tensors = [torch.from_numpy(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    return {
        "mel": pad([example.mel for example in examples], 0.0),
        "frame_lens": torch.tensor([example.mel.shape[0] for example in examples]),
        "token_ids": pad([example.token_ids for example in examples], 0),
        "visible_steps": pad([example.visible for example in examples], 0),
        "targets": pad([example.targets for example in examples], IGNORED),
        "transcript_ids": pad([example.transcript_ids for example in examples], -1),
        "step_labels": pad([example.step_labels for example in examples], IGNORED),
        "step_counts": pad([example.step_counts for example in examples], IGNORED),
        "word_steps": pad([example.word_steps for example in examples], IGNORED),
        "lookahead": torch.tensor(lookahead),
    }


def read_noises(data: DataRecipe, data_dir: Path, rate_hz: int) -> list[npt.NDArray[np.float32]]:
    """Decode the noise recordings of a recipe.

    Raises:
        ManifestError: if the directory is missing or holds no audio.
    """
    if not data.augment.noise_files:
        return []
    directory = data_dir / data.augment.noise_files
    paths = sorted(path for path in directory.glob("*") if path.suffix in {".wav", ".flac", ".ogg"})
    if not paths:
        raise ManifestError(f"{directory}: no noise recordings (.wav, .flac, .ogg); set data.augment.noise_files")
    return [read_audio(path, rate_hz) for path in paths]
