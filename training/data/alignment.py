"""When words were heard, by the encoder itself: each transcript laid along the encoder's output by its labels.

For recordings without word times. Estimates at an even pace are some steps off in every longer sentence; an encoder
that an earlier stage has taught to hear, by CTC or by the words of other recordings, is not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence

from bestow_edge.core.errors import AudioError
from bestow_edge.core.features import log_mel
from bestow_edge.core.files import write_atomically
from bestow_edge.training.data.corpora.batch_plan import cut
from bestow_edge.training.data.corpora.index import Corpus
from bestow_edge.training.data.corpora.recordings import Recordings
from bestow_edge.training.data.corpora.word_times import Spans, tokens_with_times
from bestow_edge.training.data.examples import ExampleMaker
from bestow_edge.training.learning.objective import Objective

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]
TOLD = 5000  # utterances between two lines of progress


def best_path(log_probs: Floats, labels: Sequence[int]) -> Steps | None:
    """Return the first and the last step of each label on the likeliest path of CTC's trellis (Graves et al. 2006).

    Args:
        log_probs: (steps, labels + 1) log-probabilities, the blank last.
        labels: what is said, at least one.

    Returns:
        (said, 2); None = so many labels need more steps.
    """
    states = np.full(2 * len(labels) + 1, log_probs.shape[1] - 1)
    states[1::2] = labels
    may_skip = np.zeros(states.size, dtype=bool)  # the blank between two labels, if they differ
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    emitted = log_probs[:, states].astype(np.float64)  # (steps, states)
    score = np.full(states.size, -np.inf)
    score[:2] = emitted[0, :2]
    came_by = np.zeros(emitted.shape, dtype=np.int8)  # 0 stayed, 1 from the state before, 2 from the one before that
    for step in range(1, len(emitted)):
        by_one = np.concatenate([[-np.inf], score[:-1]])
        by_two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        ways = np.stack([score, by_one, by_two])
        came_by[step] = ways.argmax(axis=0)
        score = ways.max(axis=0) + emitted[step]
    state = states.size - 1 if score[-1] > score[-2] else states.size - 2
    if not np.isfinite(score[state]):
        return None
    found = np.full((len(labels), 2), -1, dtype=np.int64)
    for step in range(len(emitted) - 1, -1, -1):
        if state % 2:
            found[state // 2, 0] = step
            found[state // 2, 1] = max(found[state // 2, 1], step)
        state -= int(came_by[step, state])
    return found


def word_spans(path: Steps, words: Sequence[int], count: int, step_s: float) -> Spans:
    """Turn the steps of labels into the times of words, the inverse of how `ExampleMaker` labels steps.

    There the labels of a word share the steps from half a label behind its start to one step behind its end.

    Args:
        path: (labels, 2) first and last step of each label.
        words: (labels,) number of each label's word, ascending from 0.
        count: words in all.
        step_s: seconds of a step.

    Returns:
        (words, 2) start and end of each word, seconds, in order.
    """
    numbers = np.asarray(words)
    spans = np.zeros((count, 2))
    before_s = 0.0
    for word in range(count):
        mine = path[numbers == word]
        if mine.size:
            end_s = max(before_s, mine[-1, 1] * step_s)
            halves = 2 * len(mine)
            start_s = (halves * mine[0, 0] * step_s - end_s) / (halves - 1)
            spans[word] = np.clip(start_s, before_s, end_s), end_s
        else:  # a word that is no label of its own
            spans[word] = before_s
        before_s = spans[word, 1]
    return spans


def align(
    objective: Objective, corpus: Corpus, maker: ExampleMaker, rows: Steps, *, bf16: bool
) -> Iterator[tuple[str, Spans]]:
    """Yield where each utterance is written and when its words were heard, (words, 2) seconds.

    Utterances without transcript, with audio that cannot be read or with more labels than steps are left out.

    Args:
        objective: encoder and head of an earlier stage, on the device to compute on.
        corpus: the utterances.
        maker: holds the vocabulary of labels, the front-end and the stage.
        rows: (utterances,) which of the corpus.
        bf16: compute in bfloat16.
    """
    recordings = Recordings(maker.config.features.sample_rate_hz)
    rows = rows[np.argsort(corpus.durations_s[rows], kind="stable")]
    for batch in np.split(rows, cut(corpus.durations_s[rows], maker.stage.batch_s)[1:]) if rows.size else ():
        items = list(_readable(corpus, recordings, batch))
        heard = _hear(objective, maker, [waveform for _, _, waveform in items], bf16=bf16) if items else []
        for (where, said, _), log_probs in zip(items, heard, strict=True):
            count = len(said.split())
            ids, _, words = tokens_with_times(maker.labels, said, np.zeros((count, 2)))
            path = best_path(log_probs, ids)
            if path is not None:
                yield where, word_spans(path, words, count, maker.config.step_s)


def _readable(corpus: Corpus, recordings: Recordings, rows: Steps) -> Iterator[tuple[str, str, Floats]]:
    """Yield where, transcript and waveform of the utterances that have both; batches count the others as bad."""
    for row in rows.tolist():
        item = corpus.utterance(row)
        if item.transcript and item.transcript.strip():
            with suppress(AudioError):
                yield corpus.where(row), item.transcript, recordings.read(item)


def _hear(objective: Objective, maker: ExampleMaker, waveforms: Sequence[Floats], *, bf16: bool) -> list[Floats]:
    """Return (steps, labels + 1) log-probabilities of each waveform."""
    config, device = maker.config.features, objective.ctc_head.weight.device
    least = config.sample_rate_hz // 10  # as in batches: at least ten frames
    mels = [log_mel(np.pad(samples, (0, max(0, least - samples.size))), config) for samples in waveforms]
    frame_lens = torch.tensor([len(mel) for mel in mels], device=device)
    padded = pad_sequence([torch.from_numpy(mel) for mel in mels], batch_first=True).to(device)
    training = objective.training
    objective.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        speech = objective.encode(padded, frame_lens, max(maker.stage.lookaheads))
        heard = objective.ctc_head(speech.steps).float().log_softmax(-1).cpu().numpy()
    objective.train(training)
    return [row[:steps] for row, steps in zip(heard, speech.lens.tolist(), strict=True)]


def save_times(
    objective: Objective, corpora: Sequence[Corpus], maker: ExampleMaker, file: Path, share: slice, *, bf16: bool
) -> None:
    """Align a share of every corpus and write it, unless an earlier start of the run has.

    Args:
        objective: as in `align`.
        corpora: the utterances.
        maker: as in `align`.
        file: JSON lines `{"where": ..., "word_times": [[start, end], ...]}`, written at once.
        share: which utterances of each corpus are this process's.
        bf16: compute in bfloat16.
    """
    if file.is_file():
        return
    lines, wanted = [], 0
    for corpus in corpora:
        rows = np.arange(len(corpus))[share]
        wanted += rows.size
        for where, spans in align(objective, corpus, maker, rows, bf16=bf16):
            lines.append(json.dumps({"where": where, "word_times": spans.round(3).tolist()}) + "\n")
            if len(lines) % TOLD == 0:
                logger.info("stage %s: words of %d utterances aligned", maker.stage.name, len(lines))
    logger.info("stage %s: words of %d of %d utterances aligned", maker.stage.name, len(lines), wanted)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(lines))


def read_times(files: Sequence[Path]) -> dict[str, Spans]:
    """Return what `save_times` wrote: (words, 2) seconds by where an utterance is written."""
    found = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[entry["where"]] = np.array(entry["word_times"], dtype=np.float64).reshape(-1, 2)
    return found
