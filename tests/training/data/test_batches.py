"""From recordings to batches: all follows from the generator, padding hides nothing, the loss has gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoders import num_steps

from bestow_edge.core.errors import ManifestError
from bestow_edge.training.data.batches import Batch, collate, read_noises
from bestow_edge.training.data.composition import active_range
from bestow_edge.training.data.examples import IGNORED, NO_LABEL, NULL_FRAME, Example
from bestow_edge.training.data.tokens import END
from bestow_edge.training.learning.trainer import Run
from bestow_edge.training.recipe.data import AugmentRecipe, DataRecipe, SourceRecipe

RATE_HZ = 16000


def batch_of(run: Run, stage: int, index: int) -> Batch:
    return run.dataset(run.recipe.stages[stage], dev=False)[index]


def test_active_range() -> None:
    samples = np.zeros(16000, dtype=np.float32)
    samples[5000:9000] = 0.5
    first, last = active_range(samples, RATE_HZ)
    assert 5000 - 320 <= first <= 5000
    assert 9000 <= last <= 9000 + 320
    assert active_range(samples[:100], RATE_HZ) == (0, 100)
    assert active_range(np.zeros(9000, dtype=np.float32), RATE_HZ) == (0, 9000)


def test_steps_are_those_of_the_encoder(tiny_run: Run) -> None:
    model = tiny_run.objective.model.eval()
    for frames in (1, 2, 8, 9, 10, 16, 17, 100):
        with torch.no_grad():
            speech = model.encode(torch.zeros(1, frames, 80), torch.tensor([frames]))
        assert num_steps(frames) == speech.steps.shape[1] == int(speech.lens)
    assert num_steps(0) == 0


@pytest.mark.parametrize("stage", [0, 1])
def test_a_batch_follows_from_its_number(tiny_run: Run, stage: int) -> None:
    one, same, other = (batch_of(tiny_run, stage, index) for index in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["frame_lens"], other["frame_lens"])
    with pytest.raises(IndexError):
        batch_of(tiny_run, stage, 99)


@pytest.mark.parametrize("stage", [0, 1])
def test_rows_are_lawful(tiny_run: Run, stage: int) -> None:
    end = tiny_run.tokenizer.token_to_id(END)
    lookaheads, pauses = set(), 0
    for index in range(tiny_run.recipe.stages[stage].steps):
        batch = batch_of(tiny_run, stage, index)
        lookaheads.add(int(batch["lookahead"]))
        rows = batch["mel"].shape[0]
        assert rows * max(batch["frame_lens"].tolist()[:-1], default=0) / 100 < 4  # batch_s
        for row, frames in enumerate(batch["frame_lens"].tolist()):
            targets, visible = batch["targets"][row], batch["visible_steps"][row]
            answered = targets != IGNORED
            assert (batch["mel"][row, frames:] == 0).all()
            assert int(visible.max()) <= num_steps(frames)
            assert (visible[answered] > 0).all()
            assert (visible[~answered] == 0).all()  # prompt and padding hear the null frame only
            last = int(answered.nonzero().max())
            assert targets[last] == end
            tokens, spoken = batch["token_ids"][row], targets[answered]
            begin = int(answered.nonzero().min())
            expected = torch.cat([tokens[begin + 1 : last + 1], torch.tensor([end])])
            assert ((spoken == expected) | (spoken == end)).all()  # the next token, or a pause
            pauses += int((spoken[:-1] == end).sum())
            labels = batch["step_labels"][row]
            assert (labels[num_steps(frames) :] == IGNORED).all()
            heard = labels[labels >= 0]
            transcript = batch["transcript_ids"][row]
            assert set(heard.tolist()) <= set(transcript[transcript >= 0].tolist())
            assert bool(heard.numel()) == bool((transcript >= 0).any())
            counts = batch["step_counts"][row, : num_steps(frames)]
            assert int(counts[0]) == 0
            assert set(counts.diff().tolist()) <= {0, 1}  # fewer pieces than the count wraps at
            assert bool(counts[-1]) == bool(heard.numel())
    assert bool(pauses) == (tiny_run.recipe.stages[stage].pauses > 0)
    assert lookaheads <= set(tiny_run.recipe.stages[stage].lookaheads)


def test_padding() -> None:
    def example(frames: int, tokens: int) -> Example:
        return Example(
            mel=np.ones((frames, 80), dtype=np.float32),
            token_ids=np.full(tokens, 7),
            visible=np.full(tokens, 3),
            targets=np.full(tokens, 5),
            transcript_ids=np.full(tokens - 2, 6),
            step_labels=np.full(num_steps(frames), NO_LABEL),
            step_counts=np.full(num_steps(frames), 2),
            word_steps=np.full((tokens, 2), NULL_FRAME),
        )

    batch = collate([example(20, 4), example(9, 6)], lookahead=6)
    assert batch["mel"].shape == (2, 20, 80)
    assert batch["frame_lens"].tolist() == [20, 9]
    assert batch["token_ids"].tolist() == [[7, 7, 7, 7, 0, 0], [7] * 6]
    assert batch["visible_steps"].tolist() == [[3, 3, 3, 3, 0, 0], [3] * 6]
    assert batch["targets"].tolist() == [[5, 5, 5, 5, IGNORED, IGNORED], [5] * 6]
    assert batch["transcript_ids"].tolist() == [[6, 6, -1, -1], [6] * 4]
    assert batch["step_labels"].tolist() == [[-1] * 4, [-1, -1, IGNORED, IGNORED]]
    assert batch["step_counts"].tolist() == [[2] * 4, [2, 2, IGNORED, IGNORED]]
    assert batch["word_steps"].tolist() == [[[-1, -1]] * 4 + [[IGNORED, IGNORED]] * 2, [[-1, -1]] * 6]
    assert int(batch["lookahead"]) == 6


def test_every_written_word_has_steps_it_was_heard_in(tiny_run: Run) -> None:
    for stage in range(2):
        batch = batch_of(tiny_run, stage, 0)
        for tokens, words, visible in zip(batch["targets"], batch["word_steps"], batch["visible_steps"], strict=True):
            ends = tokens == tiny_run.config.llm["eos_token_id"]
            written = (tokens != IGNORED) & ~ends
            assert (words[tokens == IGNORED] == IGNORED).all()
            assert (words[ends] == NULL_FRAME).all()  # a pause, or the end
            first, end = words[written].T
            assert (first >= 0).all()
            assert (first < end).all()
            assert (first < visible[written]).all()  # the mask lets the position see some of it
            assert (first.diff() >= 0).all()  # tokens of one word share its steps


def test_padding_does_not_change_a_rows_logits(tiny_run: Run) -> None:
    """The wait-k mask and the padding mask together: a row in a batch is what it is alone."""
    model = tiny_run.objective.model.eval()
    batch = batch_of(tiny_run, 1, 0)
    row = int(batch["frame_lens"].argmin())
    frames = int(batch["frame_lens"][row])
    tokens = int((batch["targets"][row] != IGNORED).nonzero().max()) + 1
    assert frames < batch["mel"].shape[1]
    with torch.no_grad():
        speech = model.encode(batch["mel"], batch["frame_lens"], int(batch["lookahead"]))
        together = model(batch["token_ids"], speech, batch["visible_steps"]).logits[row, :tokens]
        one = slice(row, row + 1)
        speech = model.encode(batch["mel"][one, :frames], batch["frame_lens"][one], int(batch["lookahead"]))
        alone = model(batch["token_ids"][one, :tokens], speech, batch["visible_steps"][one, :tokens]).logits[0]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_noise_directories(corpus: Path) -> None:
    def noises(folder: str) -> int:
        source = (SourceRecipe(name="a", manifests=("a",)),)
        data = DataRecipe(sources=source, dev_sources=source, augment=AugmentRecipe(noise_files=folder))
        return len(read_noises(data, corpus.parent, RATE_HZ))

    assert noises("") == 0
    assert noises(corpus.name) == 8
    with pytest.raises(ManifestError, match=r"nowhere: no noise recordings \(\.wav, \.flac, \.ogg\)"):
        noises("nowhere")
