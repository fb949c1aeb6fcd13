"""Forced alignment: word times of recordings, found by aligning the transcript's labels with the encoder's output.

It is for recordings without word times. Estimates at an even pace are several steps wrong in long sentences. An encoder
trained in an earlier stage, by CTC or on recordings with word times, is more exact.
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

from bestow_edge.core.errors import AudioError, ConfigError
from bestow_edge.core.features import log_mel
from bestow_edge.core.files import write_atomically
from bestow_edge.core.json_text import parse_object
from bestow_edge.training.data.corpora.batch_plan import cut
from bestow_edge.training.data.corpora.index import Corpus
from bestow_edge.training.data.corpora.recordings import Recordings, at_least_ten_frames
from bestow_edge.training.data.corpora.word_times import Spans, tokens_with_times
from bestow_edge.training.data.examples import ExampleMaker
from bestow_edge.training.learning.objective import Objective

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]
LOG_EVERY = 5000  # utterances between two log lines


def best_path(log_probs: Floats, labels: Sequence[int]) -> Steps | None:
    """Return the first and last step of each label on the most probable path of CTC's trellis (Graves et al. 2006).

    Args:
        log_probs: (steps, labels + 1) log-probabilities, the blank last.
        labels: of the transcript, at least one.

    Returns:
        (labels, 2); None = there are fewer steps than the labels need.
    """
    states = np.full(2 * len(labels) + 1, log_probs.shape[1] - 1)  # blank, label, blank, label, ..., blank
    states[1::2] = labels
    may_skip = np.zeros(states.size, dtype=bool)  # whether a path may skip the blank before: between different labels
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    emitted = log_probs[:, states].astype(np.float64)  # (steps, states)
    score = np.full(states.size, -np.inf)
    score[:2] = emitted[0, :2]
    back = np.zeros(emitted.shape, dtype=np.int8)  # best predecessor: 0, 1 or 2 states before
    for step in range(1, len(emitted)):
        by_one = np.concatenate([[-np.inf], score[:-1]])
        by_two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        ways = np.stack([score, by_one, by_two])
        back[step] = ways.argmax(axis=0)
        score = ways.max(axis=0) + emitted[step]
    state = states.size - 1 if score[-1] > score[-2] else states.size - 2  # a path ends in the last label or blank
    if not np.isfinite(score[state]):
        return None
    spans = np.full((len(labels), 2), -1, dtype=np.int64)
    for step in range(len(emitted) - 1, -1, -1):
        if state % 2:  # odd states are labels
            spans[state // 2, 0] = step
            spans[state // 2, 1] = max(spans[state // 2, 1], step)
        state -= int(back[step, state])
    return spans


def word_spans(path: Steps, words: Sequence[int], count: int, step_s: float) -> Spans:
    """Return the times of words from the steps of their labels, the inverse of `ExampleMaker`'s labelling of steps.

    `ExampleMaker` spreads the n labels of a word evenly from start + (end - start) / 2n to one step after its end. The
    first edge is known from the first label's step, so start = (2n * edge - end) / (2n - 1).

    Args:
        path: (labels, 2) first and last step of each label.
        words: (labels,) number of each label's word, ascending from 0.
        count: number of words.
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
        else:  # a word without a label of its own
            spans[word] = before_s
        before_s = spans[word, 1]
    return spans


def align(
    objective: Objective, corpus: Corpus, maker: ExampleMaker, rows: Steps, *, bf16: bool
) -> Iterator[tuple[str, Spans]]:
    """Yield file and line of each utterance, and start and end of its words, (words, 2) seconds.

    Utterances without a transcript, with unreadable audio or with more labels than steps are left out. `rows` are row
    numbers in the corpus. Encoder and head of the objective are those of an earlier stage, on the device to compute on.
    """
    recordings = Recordings(maker.config.features.sample_rate_hz)
    rows = rows[np.argsort(corpus.durations_s[rows], kind="stable")]
    for batch in np.split(rows, cut(corpus.durations_s[rows], maker.stage.batch_s)[1:]) if rows.size else ():
        items = list(_readable(corpus, recordings, batch))
        outputs = _log_probs(objective, maker, [waveform for _, _, waveform in items], bf16=bf16) if items else []
        for (where, transcript, _), log_probs in zip(items, outputs, strict=True):
            count = len(transcript.split())
            ids, _, words = tokens_with_times(maker.labels, transcript, np.zeros((count, 2)))
            path = best_path(log_probs, ids)
            if path is not None:
                yield where, word_spans(path, words, count, maker.config.step_s)


def _readable(corpus: Corpus, recordings: Recordings, rows: Steps) -> Iterator[tuple[str, str, Floats]]:
    """Yield file and line, transcript and waveform. Unreadable recordings are skipped; batches count them."""
    for row in rows.tolist():
        item = corpus.utterance(row)
        if item.transcript and item.transcript.strip():
            with suppress(AudioError):
                yield corpus.where(row), item.transcript, recordings.read(item)


def _log_probs(objective: Objective, maker: ExampleMaker, waveforms: Sequence[Floats], *, bf16: bool) -> list[Floats]:
    """Return (steps, labels + 1) log-probabilities of each waveform."""
    config, device = maker.config.features, objective.label_head.weight.device
    mels = [log_mel(at_least_ten_frames(samples, config.sample_rate_hz), config) for samples in waveforms]
    frame_lens = torch.tensor([len(mel) for mel in mels], device=device)
    padded = pad_sequence([torch.from_numpy(mel) for mel in mels], batch_first=True).to(device)
    training = objective.training
    objective.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        speech = objective.encode(padded, frame_lens, max(maker.stage.lookaheads))
        log_probs = objective.label_head(speech.steps).float().log_softmax(-1).cpu().numpy()
    objective.train(training)
    return [row[:steps] for row, steps in zip(log_probs, speech.lens.tolist(), strict=True)]


def save_times(
    objective: Objective, corpora: Sequence[Corpus], maker: ExampleMaker, file: Path, share: slice, *, bf16: bool
) -> None:
    """Align a share of every corpus and write the word times, unless an earlier start of the run wrote them.

    The file has JSON lines `{"where": ..., "word_times": [[start, end], ...]}` and is written at once.
    """
    if file.is_file():
        return
    lines, wanted = [], 0
    for corpus in corpora:
        rows = np.arange(len(corpus))[share]
        wanted += rows.size
        for where, spans in align(objective, corpus, maker, rows, bf16=bf16):
            lines.append(json.dumps({"where": where, "word_times": spans.round(3).tolist()}) + "\n")
            if len(lines) % LOG_EVERY == 0:
                logger.info("stage %s: words of %d utterances aligned", maker.stage.name, len(lines))
    logger.info("stage %s: words of %d of %d utterances aligned", maker.stage.name, len(lines), wanted)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(lines))


def read_times(files: Sequence[Path]) -> dict[str, Spans]:
    """Return the word times that `save_times` wrote, (words, 2) seconds, by file and line of the utterance.

    Raises:
        ConfigError: if a file is damaged.
    """
    times = {}
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            entry = parse_object(line, f"{file}:{number}")
            try:
                times[entry["where"]] = np.array(entry["word_times"], dtype=np.float64).reshape(-1, 2)
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{file}:{number}: not the times of words ({error}); delete the file") from error
    return times
