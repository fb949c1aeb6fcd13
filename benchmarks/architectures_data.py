"""Data of `benchmarks/architectures.py`: fifteen words that people say, joined to utterances with known word times.

The words are the digits and left, right, up, down and go, of speakers of the Free Spoken Digit Dataset, HD digits and
Speech Commands. People of the training and of the test never overlap. Free speech would need far more training than a
comparison of many models can have: at 80 % WER a table says nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.runtime import read_audio

RATE_HZ = 16_000
LEVEL = 0.08  # RMS of each recording, full scale 1
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (*DIGITS, "left", "right", "up", "down", "go")
CORPORA = ("human/fsdd", "human/hd_digits", "human/speech_commands", "human_extra/speech_commands")
CUT_SHARE = 0.3  # of the training: utterances whose last word is cut off, as a stream is while it goes on
LONGEST_S = 7.5


def write_split(data: Path, out: Path, split: str, count: int, seed: int) -> Path:
    """Write `count` utterances of 2 to 7 words and their manifest, and return the manifest.

    Args:
        data: folder with `human` and `human_extra`.
        out: folder to write to; a manifest that is there stays.
        split: train, dev or test.
        count: number of utterances.
        seed: the same numbers give the same files.
    """
    manifest = out / f"{split}.jsonl"
    if manifest.is_file():
        return manifest
    words = recordings(data, split)
    rng = np.random.default_rng(seed)
    (out / split).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        chosen = [words[name][rng.integers(len(words[name]))] for name in rng.choice(WORDS, rng.integers(2, 8))]
        cut = split == "train" and rng.random() < CUT_SHARE
        waveform, texts, times = joined(rng, chosen, cut=cut)
        soundfile.write(out / split / f"{number:04d}.flac", waveform, RATE_HZ, subtype="PCM_16")
        line = {"audio_filepath": f"{split}/{number:04d}.flac", "duration": round(len(waveform) / RATE_HZ, 4)}
        lines.append(json.dumps(line | {"source_lang": "en", "text": " ".join(texts), "word_times": times}) + "\n")
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


def recordings(data: Path, split: str) -> dict[str, list[Utterance]]:
    """Return the recordings of each word."""
    found: dict[str, list[Utterance]] = defaultdict(list)
    for corpus in CORPORA:
        for item in read_manifest(data / corpus / f"{split}.jsonl"):
            if item.source_lang == "en" and item.transcript in WORDS:
                found[item.transcript].append(item)
    return found


def joined(
    rng: np.random.Generator, items: Sequence[Utterance], *, cut: bool
) -> tuple[np.ndarray, list[str], list[list[float]]]:
    """Join recordings with pauses of 0.05 to 0.4 s between them.

    Args:
        rng: draws the pauses and the cut.
        items: the recordings.
        cut: the last recording ends somewhere within its word, and its text is left out.

    Returns:
        Samples, words and the times of each word in seconds.
    """
    parts, texts, times = [np.zeros(int(RATE_HZ * rng.uniform(0.05, 0.4)), np.float32)], [], []
    for item in items:
        waveform = spoken_part(read_audio(item.path, RATE_HZ))
        start = sum(map(len, parts)) / RATE_HZ
        if start + len(waveform) / RATE_HZ > LONGEST_S:
            break
        pause = np.zeros(int(RATE_HZ * rng.uniform(0.05, 0.4)), np.float32)
        parts += [waveform * (LEVEL / (np.sqrt(np.mean(waveform**2)) + 1e-9)), pause]
        texts.append(str(item.transcript))
        times.append([round(start, 3), round(start + len(waveform) / RATE_HZ, 3)])
    if cut and len(texts) > 1:
        start, end = times.pop()
        texts.pop()
        whole = np.concatenate(parts)[: int(RATE_HZ * rng.uniform(start, start + 0.6 * (end - start)))]
        return np.clip(whole, -1, 1), texts, times
    return np.clip(np.concatenate(parts), -1, 1), texts, times


def spoken_part(waveform: np.ndarray) -> np.ndarray:
    """Return the samples between the first and the last 10 ms that are within 30 dB of the loudest ones."""
    hop = RATE_HZ // 100
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    level = np.sqrt((frames**2).mean(1)) + 1e-9
    loud = np.flatnonzero(level > level.max() * 10 ** (-30 / 20))
    return waveform[max(0, loud[0] - 3) * hop : (loud[-1] + 4) * hop]
