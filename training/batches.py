"""Batches of joined recordings as a dataset: item i is batch i of a stage, made from the seed and i alone.

numpy in, torch out. `training.corpora.dataset` is the same for utterances and texts as they are.
Making whole batches keeps utterances of like length together, bounds the seconds of audio in each, and lets a resumed
run go on with the very same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bestow_edge.errors import ManifestError
from bestow_edge.manifest import Utterance, read_manifest
from bestow_edge.runtime.audio import read_audio
from bestow_edge.training.augment import change_speed, scaled, spoken_features
from bestow_edge.training.compose import LEVEL, Composed, Composer, Piece
from bestow_edge.training.examples import IGNORED, Example, ExampleMaker
from bestow_edge.training.recipe_data import AugmentRecipe, DataRecipe
from bestow_edge.training.sounds import sound

FRAMES_PER_S = 100  # mel frames
Batch = dict[str, Tensor]


class BatchDataset(Dataset[Batch]):
    """Endlessly different batches of a fixed number of seconds of audio."""

    def __init__(
        self,
        composer: Composer,
        maker: ExampleMaker,
        augments: AugmentRecipe,
        *,
        noises: Sequence[npt.NDArray[np.float32]],
        num_batches: int,
        seed: int,
    ) -> None:
        """Keep what batches are made from.

        Args:
            composer: draws utterances.
            maker: turns them into examples.
            augments: changes made to them at full strength; a default `AugmentRecipe` makes none.
            noises: recorded noises.
            num_batches: length of the dataset.
            seed: with the index, decides everything about a batch.
        """
        self.composer, self.maker, self.augments = composer, maker, augments
        self.noises, self.num_batches, self.seed = noises, num_batches, seed

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self.num_batches:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        stage, done = self.maker.stage, index / self.num_batches
        most = round(between(stage.pieces, done))
        augments = scaled(self.augments, between(stage.augment, done))
        around = int(rng.integers(1, most + 1))
        examples: list[Example] = []
        longest_s = 0.0
        while longest_s * (len(examples) + 1) < stage.batch_s:
            empty = rng.random() < self.composer.join.noise_only
            pieces = 0 if empty else int(np.clip(around + rng.integers(-1, 2), 1, most))
            examples.append(self._example(pieces, augments, rng))
            longest_s = max(longest_s, examples[-1].mel.shape[0] / FRAMES_PER_S)
        return collate(examples, lookahead=int(stage.lookaheads[rng.integers(len(stage.lookaheads))]))

    def _example(self, num_pieces: int, augments: AugmentRecipe, rng: np.random.Generator) -> Example:
        rate_hz = self.composer.rate_hz
        composed = self.composer.draw(rng, num_pieces)
        waveform, pieces = composed.waveform, composed.pieces
        if augments.speed:
            factor = 1 + rng.uniform(-augments.speed, augments.speed)
            waveform = change_speed(waveform, factor, rate_hz)
            pieces = tuple(Piece(piece.texts, piece.start_s / factor, piece.end_s / factor) for piece in pieces)
        waveform = np.pad(waveform, (0, max(0, rate_hz // 10 - waveform.size)))  # at least ten frames
        if not pieces:
            waveform = self._wordless(waveform, rng)
        mel = spoken_features(waveform, rng, augments, self.noises, self.maker.config.features)
        return self.maker.make(Composed(waveform, composed.source_lang, pieces), mel, rng)

    def _wordless(self, silence: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Fill four fifths of the utterances without speech with a sound as loud as speech or up to 30 dB below."""
        if rng.random() < 0.2:
            return silence
        level = LEVEL * 10 ** (-rng.uniform(0, 30) / 20)
        return sound(silence.size, rng, self.noises, self.composer.rate_hz) * np.float32(level)


def first_speech(dataset: BatchDataset | Dataset[Batch], num_batches: int) -> Batch | None:
    """Return the first batch that is not of texts alone, None if the first `num_batches` are."""
    return next((batch for index in range(num_batches) if (batch := dataset[index])["mel"].shape[1]), None)


def between(ends: Sequence[float], done: float) -> float:
    """Return the value at a share `done` of the way from the first to the last."""
    return ends[0] + (ends[1] - ends[0]) * done


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


def read_manifests(names: Sequence[str], data_dir: Path) -> list[Utterance]:
    """Read several manifests.

    Raises:
        ManifestError: one is missing or has a bad line.
    """
    return [utterance for name in names for utterance in read_manifest(data_dir / name)]


def read_noises(data: DataRecipe, data_dir: Path, rate_hz: int) -> list[npt.NDArray[np.float32]]:
    """Decode the noise recordings of a recipe.

    Raises:
        ManifestError: the directory is not there or holds no audio.
    """
    if not data.augment.noise_files:
        return []
    directory = data_dir / data.augment.noise_files
    paths = sorted(path for path in directory.glob("*") if path.suffix in {".wav", ".flac", ".ogg"})
    if not paths:
        raise ManifestError(f"{directory}: no noise recordings (.wav, .flac, .ogg); set data.augment.noise_files")
    return [read_audio(path, rate_hz) for path in paths]
