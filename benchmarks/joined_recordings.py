"""A test set for streaming out of short recordings: joins recordings of one speaker into longer utterances.

    python benchmarks/joined_recordings.py OUT MANIFEST [MANIFEST ...] [--count 100] [--most 8] [--seed 1]

Each utterance has 2 to MOST recordings of one speaker and language, brought to one level, with up to 0.3 s of silence
between them. OUT gets 16 kHz wav files and `manifest.jsonl` in NeMo's format with the joined texts and translations,
for `bestow-edge eval`, and SimulEval's lists, such as `source.en.txt`, `target.en-en.txt` and `target.en-de.txt`. The
same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.runtime import read_audio

RATE_HZ = 16_000
LEVEL = 0.08  # RMS of each recording, full scale 1


def silence(rng: np.random.Generator, least_s: float, most_s: float) -> np.ndarray:
    """Return samples of a length drawn between two."""
    return np.zeros(int(RATE_HZ * rng.uniform(least_s, most_s)), np.float32)


def joined(rng: np.random.Generator, items: list[Utterance], most: int) -> tuple[np.ndarray, list[Utterance]]:
    """Draw recordings and join them."""
    drawn = [items[rng.integers(len(items))] for _ in range(rng.integers(2, most + 1))]
    parts = [silence(rng, 0.1, 0.4)]
    for item in drawn:
        waveform = read_audio(item.path, RATE_HZ)
        parts += [waveform * (LEVEL / (np.sqrt(np.mean(waveform**2)) + 1e-9)), silence(rng, 0, 0.3)]
    return np.clip(np.concatenate(parts), -1, 1), drawn


def add_line(path: Path, text: str) -> None:
    """Append to a list."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def main() -> None:
    """Write the recordings and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="new directory")
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST", help="NeMo's JSON lines")
    parser.add_argument("--count", type=int, default=100, help="utterances for each language of the speech")
    parser.add_argument("--most", type=int, default=8, help="recordings in one utterance, at most")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    speakers: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for item in (item for path in args.manifests for item in read_manifest(path)):
        speakers[item.source_lang][item.speaker].append(item)
    args.out.mkdir(parents=True)
    rng = np.random.default_rng(args.seed)
    lines = []
    for language in sorted(speakers):
        names = sorted(speakers[language])
        for number in range(args.count):
            speaker = names[rng.integers(len(names))]
            waveform, drawn = joined(rng, speakers[language][speaker], args.most)
            name = f"{language}_{number:04d}.wav"
            soundfile.write(args.out / name, waveform, RATE_HZ, subtype="PCM_16")
            texts = {code: " ".join(item.texts[code] for item in drawn) for code in drawn[0].texts}
            add_line(args.out / f"source.{language}.txt", str((args.out / name).resolve()))
            for code, text in texts.items():
                add_line(args.out / f"target.{language}-{code}.txt", text)
            line = {"audio_filepath": name, "duration": round(len(waveform) / RATE_HZ, 4), "source_lang": language}
            line |= {"text": texts.pop(language), "translations": texts, "speaker": speaker}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    (args.out / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} utterances in {args.out / 'manifest.jsonl'}")


if __name__ == "__main__":
    main()
