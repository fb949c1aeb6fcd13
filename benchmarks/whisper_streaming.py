"""A whole Whisper streamed by us beside faster-whisper offline, on recordings of people: a table and one JSON line.

    python benchmarks/whisper_streaming.py BUNDLE --data DIR --rival CT2 --each 25

BUNDLE comes from `bestow-edge init --from` and `export`. CT2 is the same model in CTranslate2's form, made by
`ct2-transformers-converter --model openai/whisper-base --output_dir CT2 --quantization int8`; faster-whisper decodes it
in this process with one beam. DIR holds manifests `CORPUS/test.jsonl` as NeMo writes them. WER is of normalised words.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from rich.console import Console
from rich.table import Table

import bestow_edge.runtime as be
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy
from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.evaluation.run.listening import listen
from bestow_edge.evaluation.scores.lag import latency_scores, mean_scores
from bestow_edge.evaluation.scores.quality import normalizer
from bestow_edge.runtime.model import Model

RATE_HZ = 16_000
CORPORA = ("librispeech", "common_voice_en", "common_voice_de", "common_voice_fr", "common_voice_es", "an4")
POLICIES: dict[str, Policy] = {
    "offline": Offline(),
    "align-att, threshold 6": AlignAtt(6, l=12, pool=1, least_share=0.5),
    "align-att, threshold 8": AlignAtt(8, l=12, pool=1, least_share=0.5),
    "align-att, threshold 12": AlignAtt(12, l=12, pool=1, least_share=0.5),
    "local agreement": LocalAgreement(2, 12),
}


def main() -> None:
    """Run all systems on all corpora."""
    arguments = _arguments()
    rows: list[dict[str, Any]] = []  # Any: names and numbers

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)

    model = be.load(arguments.bundle, threads=arguments.threads)
    wanted = {name: one for name, one in POLICIES.items() if arguments.only is None or name.startswith(arguments.only)}
    for corpus in arguments.corpora.split(","):
        items = _some(read_manifest(arguments.data / corpus / "test.jsonl"), arguments.each)
        for name, policy in wanted.items():
            add(_ours(model, name, policy, corpus, items))
        if arguments.rival is not None:
            add(_rival(arguments.rival, corpus, items, arguments.threads))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    _show(rows)
    print(json.dumps({"rows": rows, "peak_gb": round(peak, 3), "threads": arguments.threads}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rival", type=Path, help="folder of the model for faster-whisper")
    parser.add_argument("--corpora", default=",".join(CORPORA))
    parser.add_argument("--each", type=int, default=25, help="recordings of each corpus")
    parser.add_argument("--only", help="policies whose names begin so")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _some(items: Sequence[Utterance], number: int) -> list[Utterance]:
    """Return that many, spread over the manifest."""
    return list(items[:: max(1, len(items) // number)][:number])


def _ours(model: Model, name: str, policy: Policy, corpus: str, items: Sequence[Utterance]) -> dict[str, Any]:
    texts, lags = [], []
    computing_s = audio_s = 0.0
    for item in items:
        waveform = be.read_audio(item.path, RATE_HZ)
        pair = f"{item.source_lang}-{item.source_lang}"
        with model.multi_session([(pair, policy)]) as session:
            heard = listen(session, waveform, RATE_HZ)
        texts.append(heard.text)
        lags.append(latency_scores(heard.instance(0, item.transcript or "", str(item.path))))
        computing_s, audio_s = computing_s + heard.computing_ms / 1000, audio_s + len(waveform) / RATE_HZ
    lag_s = None if isinstance(policy, Offline) else mean_scores(lags)["LAAL"] / 1000
    return _row(name, corpus, items, texts, lag_s, computing_s / audio_s)


def _rival(folder: Path, corpus: str, items: Sequence[Utterance], threads: int) -> dict[str, Any]:
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
    texts, computing_s, audio_s = [], 0.0, 0.0
    for item in items:
        waveform = be.read_audio(item.path, RATE_HZ)
        started = time.perf_counter()
        segments, _ = whisper.transcribe(waveform, language=item.source_lang, beam_size=1, without_timestamps=True)
        texts.append("".join(segment.text for segment in segments))
        computing_s, audio_s = computing_s + time.perf_counter() - started, audio_s + len(waveform) / RATE_HZ
    return _row("faster-whisper int8, offline", corpus, items, texts, None, computing_s / audio_s)


def _row(
    system: str, corpus: str, items: Sequence[Utterance], texts: Sequence[str], lag_s: float | None, rtf: float
) -> dict[str, Any]:
    normalize = normalizer(items[0].source_lang)
    wer = jiwer.wer([normalize(item.transcript or "") for item in items], [normalize(text) for text in texts])
    rounded = None if lag_s is None else round(float(np.round(lag_s, 3)), 3)
    return {"system": system, "corpus": corpus, "wer": round(100 * wer, 2), "laal_s": rounded, "rtf": round(rtf, 3)}


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("corpus", "system", "WER, %", "LAAL, s", "RTF")
    for row in rows:
        lag = "-" if row["laal_s"] is None else f"{row['laal_s']:.2f}"
        table.add_row(row["corpus"], row["system"], f"{row['wer']:.1f}", lag, f"{row['rtf']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
