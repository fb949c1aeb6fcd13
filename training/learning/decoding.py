"""What a model in training writes: greedy decoding under wait-k with the PyTorch model, and its WER and BLEU.

It simulates the live loop of one segment over whole utterances, several at once: `bestow_edge.core.policy` gives the
speech that each token sees, and an end token before the end of the speech is a pause. There are no caches; the few
texts of an evaluation do without. It knows nothing of files or of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bestow_edge.core.policy import WaitK, visible_steps, wanted_steps
from bestow_edge.training.data.batches import Batch
from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.learning.objective import Objective

SPARE_TOKENS = 8  # an answer has at most so many tokens more than steps heard, as in the live loop
MOST_TOKENS = 256  # and no more than these: what a model writes before it has learned to stop


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance to be written down."""

    mel: Tensor
    """(frames, mel_bins) float."""
    prompt: tuple[int, ...]
    """Tokens before the answer."""
    reference: tuple[int, ...]
    """Tokens of the right answer, without the end."""


@dataclass(slots=True)
class _Row:
    """One answer while it grows."""

    prompt: tuple[int, ...]
    steps: int
    tokens: list[int] = field(default_factory=list)
    floors: list[int] = field(default_factory=lambda: [0])
    done: bool = False


def utterances_of(batch: Batch) -> list[Utterance]:
    """Take a batch apart: the first answered position is the last of the prompt."""
    found = []
    for row in range(batch["mel"].shape[0]):
        answered = (batch["targets"][row] != IGNORED).nonzero().flatten().tolist()
        if answered and int(batch["frame_lens"][row]):
            tokens = batch["token_ids"][row].tolist()
            first, last = answered[0], answered[-1]
            mel = batch["mel"][row, : int(batch["frame_lens"][row])]
            found.append(Utterance(mel, tuple(tokens[: first + 1]), tuple(tokens[first + 1 : last + 1])))
    return found


@torch.no_grad()
def write_down(
    objective: Objective,
    utterances: Sequence[Utterance],
    policy: WaitK,
    *,
    lookahead: int,
    end_id: int,
    device: torch.device,
    any_process: Callable[[bool], bool] = lambda busy: busy,
) -> list[list[int]]:
    """Write utterances down, greedily.

    Args:
        objective: holds the model, in evaluation mode.
        utterances: at least one.
        policy: when to write.
        lookahead: of the encoder, steps.
        end_id: token that ends an answer or, before the end of the speech, pauses it.
        device: of the model.
        any_process: whether this is true in any of the processes that share the model; they take every step together.

    Returns:
        Tokens of each answer.
    """
    mels = torch.nn.utils.rnn.pad_sequence([item.mel.to(device) for item in utterances], batch_first=True)
    lens = torch.tensor([item.mel.shape[0] for item in utterances], device=device)
    speech = objective.encode(mels, lens, lookahead)
    rows = [_Row(item.prompt, steps) for item, steps in zip(utterances, speech.lens.tolist(), strict=True)]
    while any_process(any(not row.done for row in rows)):
        sequences = [[*row.prompt, *row.tokens] for row in rows]
        width = max(map(len, sequences))
        ids, visible = (torch.zeros(len(rows), width, dtype=torch.int64) for _ in range(2))
        for index, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            ids[index, : len(sequence)] = torch.tensor(sequence)
            visible[index, : len(sequence)] = torch.from_numpy(_visible(row, policy))
        logits = objective.logits(ids.to(device), speech, visible.to(device))
        last = torch.tensor([len(sequence) - 1 for sequence in sequences], device=device)
        best = logits[torch.arange(len(rows), device=device), last].argmax(-1).tolist()
        for row, token in zip(rows, best, strict=True):
            if not row.done:
                _advance(row, token, policy, end_id)
    return [row.tokens for row in rows]


def _visible(row: _Row, policy: WaitK) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return visible_steps(
        policy,
        prompt_tokens=len(row.prompt),
        text_tokens=len(row.prompt) + len(row.tokens),
        source_steps=row.steps,
        at_least=np.array(row.floors, dtype=np.int64),
    )


def _advance(row: _Row, token: int, policy: WaitK, end_id: int) -> None:
    """Commit a token, pause, or end."""
    index = len(row.tokens)
    seen = min(wanted_steps(policy, index, row.floors[-1]), row.steps)
    if token == end_id and seen < row.steps:
        row.floors[-1] = seen + policy.read_steps
    elif token == end_id or index >= min(row.steps + SPARE_TOKENS, MOST_TOKENS):
        row.done = True
    else:
        row.tokens.append(token)
        row.floors.append(seen)  # a later token never sees less


def scores(texts: Sequence[tuple[str, str, str]], pairs: Mapping[str, bool]) -> dict[str, float]:
    """Return `wer` over transcripts and `bleu` over the other texts, in percent, where there are any.

    Args:
        texts: kind, reference and hypothesis of each utterance; the kind is a language pair or another task.
        pairs: which kinds are transcription.
    """
    import jiwer
    from sacrebleu.metrics.bleu import BLEU

    spoken = [(right, said) for kind, right, said in texts if pairs.get(kind, False)]
    others = [(right, said) for kind, right, said in texts if not pairs.get(kind, False)]
    found: dict[str, float] = {}
    words = sum(len(right.split()) for right, _ in spoken)
    if words:
        counted = [jiwer.process_words(*pair) for pair in spoken if pair[0].split()]
        wrong = sum(item.substitutions + item.deletions + item.insertions for item in counted)
        wrong += sum(len(said.split()) for right, said in spoken if not right.split())  # all of it is too much
        found["wer"] = 100 * wrong / words
    if others:
        references, hypotheses = map(list, zip(*others, strict=True))
        found["bleu"] = BLEU(effective_order=True).corpus_score(hypotheses, [references]).score
    return found
