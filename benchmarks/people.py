"""The embedded model for people beside faster-whisper on the same recordings: a table and one JSON line.

    python benchmarks/people.py --data DATA --rival CT2 [--bundle BUNDLE] [--each 50] [--rows people.jsonl]

DATA holds manifests `human/CORPUS/test.jsonl` as NeMo writes them. CT2 is whisper-base in CTranslate2's form, made by
`ct2-transformers-converter --model openai/whisper-base --output_dir CT2 --quantization int8`. Each system runs in a
process of its own with one thread, so that its memory is its own. Rows are kept in a file: a run that was broken off
goes on. WER is of normalised words with its 95 % interval; digits are the share of recordings that are right.
Needs the extras `cpu` and `eval`, and faster-whisper.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from digit_accuracy import DIGITS
from rich.console import Console
from rich.table import Table

import bestow_edge.runtime as be
from bestow_edge.core.policy import LocalAgreement, Offline, Policy
from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.evaluation.run.listening import listen
from bestow_edge.evaluation.scores.lag import latency_scores, mean_scores
from bestow_edge.evaluation.scores.quality import normalizer, score_texts

RATE_HZ = 16_000
Row = dict[str, Any]  # Any: names and numbers
Hear = Callable[[Utterance, str], tuple[str, float | None]]
"""Takes an utterance and the language of the text; returns the text and its LAAL, milliseconds."""


class TestSet(NamedTuple):
    """Recordings and how they are scored."""

    manifest: str
    metric: str
    most: int
    """Recordings that are taken, spread over the manifest."""


SETS = {
    "LibriSpeech": TestSet("librispeech/test.jsonl", "wer", 134),
    "Common Voice, English": TestSet("common_voice_en/test.jsonl", "wer", 200),
    "Common Voice, German": TestSet("common_voice_de/test.jsonl", "wer", 200),
    "AN4": TestSet("an4/test.jsonl", "wer", 200),
    "Common Voice, German to English": TestSet("manifests/st_sentences_de-en_test.jsonl", "chrf", 200),
    "Free Spoken Digits": TestSet("fsdd/test.jsonl", "right", 200),
    "Heidelberg digits": TestSet("hd_digits/test.jsonl", "right", 200),
    "Speech Commands": TestSet("speech_commands/test.jsonl", "right", 200),
}
STREAMS: dict[str, Policy] = {
    "people, every 0.48 s": LocalAgreement(2, 6),
    "people, every 0.64 s (default)": LocalAgreement(2, 8),
    "people, every 0.96 s": LocalAgreement(2, 12),
    "people, every 1.44 s": LocalAgreement(2, 18),
    "people, offline": Offline(),
}
BEAMS = {"faster-whisper, 1 beam, offline": 1, "faster-whisper, 5 beams, offline": 5}


def main() -> None:
    """Run what is not in the file of rows yet."""
    options = _arguments()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    done = {(row["system"], row["set"]) for row in rows}
    systems = [*STREAMS, *(BEAMS if options.rival else {})]
    context = multiprocessing.get_context("spawn")
    with options.rows.open("a") as file:
        for system in [name for name in systems if name.startswith(options.only)]:
            wanted = [name for name in SETS if (system, name) not in done]
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                for name in wanted:
                    row = pool.submit(run, system, name, options.bundle, options.rival, options.data, options.each)
                    rows.append(row.result())
                    print(json.dumps(rows[-1]), file=file, flush=True)
    show(rows)
    print(json.dumps({"benchmark": "people", "rows": rows}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rival", type=Path, help="folder of whisper-base for faster-whisper")
    parser.add_argument("--bundle", help="a bundle; by default the embedded model")
    parser.add_argument("--each", type=int, default=1000, help="most recordings of a set")
    parser.add_argument("--only", default="", help="systems whose names begin so")
    parser.add_argument("--rows", type=Path, default=Path("people.jsonl"), help="file that keeps the rows")
    return parser.parse_args()


def run(system: str, name: str, bundle: str | None, rival: Path, data: Path, each: int) -> Row:
    """Return the row of a system and a test set."""
    test = SETS[name]
    items = read_manifest(data / "human" / test.manifest)
    most = min(test.most, each)
    items = items[:: max(1, len(items) // most)][:most]
    hear = stream(bundle, STREAMS[system]) if system in STREAMS else faster_whisper(rival, BEAMS[system])
    languages = ["en" if test.metric == "chrf" else item.source_lang for item in items]
    cpu_s, audio_s = time.process_time(), sum(item.duration_s for item in items)
    heard = [hear(item, language) for item, language in zip(items, languages, strict=True)]
    cpu_s = time.process_time() - cpu_s
    lags = [lag for _, lag in heard if lag is not None]
    wanted = [item.texts[language] for item, language in zip(items, languages, strict=True)]
    score, low, high = scored(test, wanted, [text for text, _ in heard], languages)
    return {
        "system": system,
        "set": name,
        "metric": test.metric,
        "recordings": len(items),
        "score": score,
        "low": low,
        "high": high,
        "laal_s": round(sum(lags) / len(lags) / 1000, 3) if lags else None,
        "cpu_s_per_s": round(cpu_s / audio_s, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def stream(bundle: str | None, policy: Policy) -> Hear:
    """Return how a bundle hears."""
    model = be.load(bundle, threads=1)

    def hear(item: Utterance, language: str) -> tuple[str, float | None]:
        waveform = be.read_audio(item.path, RATE_HZ)
        with model.multi_session([(f"{item.source_lang}-{language}", policy)]) as session:
            heard = listen(session, waveform, RATE_HZ)
        scores = mean_scores([latency_scores(heard.instance(0, item.texts[language], str(item.path)))])
        return heard.text, None if isinstance(policy, Offline) else scores.get("LAAL")

    return hear


def faster_whisper(folder: Path, beams: int) -> Hear:
    """Return how faster-whisper hears with all of the recording at hand."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)

    def hear(item: Utterance, language: str) -> tuple[str, None]:
        task = "transcribe" if language == item.source_lang else "translate"
        waveform = be.read_audio(item.path, RATE_HZ)
        segments, _ = whisper.transcribe(
            waveform, language=item.source_lang, task=task, beam_size=beams, without_timestamps=True
        )
        return "".join(segment.text for segment in segments), None

    return hear


def scored(
    test: TestSet, wanted: Sequence[str], texts: Sequence[str], languages: Sequence[str]
) -> tuple[float, float, float]:
    """Return the score of texts and its interval, percent."""
    if test.metric == "right":
        pairs = zip(wanted, texts, languages, strict=True)
        right = sum(digits(one, language) == digits(other, language) for one, other, language in pairs)
        share = round(100 * right / len(wanted), 1)
        return share, share, share
    name = "wer_normalized" if test.metric == "wer" else test.metric
    found = score_texts(wanted, texts, language=languages[0]).corpus[name]
    return round(found.value, 2), round(found.low, 2), round(found.high, 2)


def digits(text: str, language: str) -> list[str]:
    """Return the words of a text, digits as words."""
    spelt = dict(zip("0123456789", DIGITS[language], strict=True))
    return [spelt.get(word, word) for word in normalizer(language)(text).split()]


def show(rows: Sequence[Row]) -> None:
    """Print a line for each system and a column for each set."""
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    table = Table("system", *(f"{name}, {SETS[name].metric}" for name in names), "LAAL, s", "CPU s/s", "peak MB")
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["set"]: row for row in rows if row["system"] == system}
        lags = [row["laal_s"] for row in own.values() if row["laal_s"] is not None]
        spans = f"{min(lags):.1f} to {max(lags):.1f}" if lags else ""
        costs = [row["cpu_s_per_s"] for row in own.values()]
        cells = [f"{own[name]['score']:.1f}" if name in own else "" for name in names]
        peak = max(row["peak_mb"] for row in own.values())
        table.add_row(system, *cells, spans, f"{min(costs):.2f} to {max(costs):.2f}", str(peak))
    Console(width=240).print(table)


if __name__ == "__main__":
    main()
