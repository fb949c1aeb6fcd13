"""Makes recordings and a manifest of a table's texts, spoken by espeak-ng. Rooms and noise are added in training.

The seed draws the rows and the voice of each row. A recording is written atomically, then its line is appended to
`manifest.partial.jsonl`, which is renamed to `manifest.jsonl` at the end. A stopped run continues after the last line.
"""

from __future__ import annotations

import io
import json
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from bestow_edge.core.errors import ConfigError, ManifestError
from bestow_edge.core.files import sha256, write_atomically
from bestow_edge.core.utterances import read_manifest
from bestow_edge.training.data.corpora.shards import Progress, check_plan
from bestow_edge.training.data.corpora.text_batches import TextFile
from bestow_edge.training.data.corpora.words import plain
from bestow_edge.training.synthesis.voices import BASES, RATE_HZ, Espeak, draw_voice, espeak_library, speak, variants_of

PLAN_FILE, MANIFEST, PARTIAL, AUDIO = "speak.json", "manifest.jsonl", "manifest.partial.jsonl", "audio"
FORMAT = "bestow-edge speech 2"
QUESTION = ("question", "answer")
AHEAD = 4  # finished rows of each worker that may wait for an earlier row
IN_A_FOLDER = 1000
FORMATS = {"flac": (".flac", "FLAC", "PCM_16"), "opus": (".ogg", "OGG", "OPUS")}  # suffix, and soundfile's names


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaking:
    """Texts, voices and format of the speech."""

    column: str
    """Column of the texts to speak."""
    language: str
    """Its language."""
    translations: tuple[str, ...] = ()
    """Columns, named by their language, that are kept as translations."""
    count: int = 0
    """Rows to speak; 0 = all that can be spoken."""
    voices: str = "train"
    """`train`, `test`, or names of variants."""
    seed: int = 0
    """Draws the rows, and the voice of each row."""
    format: Literal["flac", "opus"] = "flac"
    """Of the recordings."""

    def __post_init__(self) -> None:
        """Check languages and voices."""
        if self.language not in BASES:
            raise ConfigError(
                f"--lang {self.language}: no voices for it; expected one of {', '.join(BASES)}, the language of "
                f"column {self.column}"
            )
        variants_of(self.voices)


@dataclass(frozen=True, slots=True)
class Spoken:
    """The result of `speak_texts`."""

    utterances: int
    """Number of utterances."""
    seconds: float
    """Audio in them."""
    made_before: int
    """Utterances of earlier runs among them."""
    voices: int
    """Voices among them."""
    left_out: int
    """Rows of the table that have more than plain words."""


def speak_texts(
    path: Path,
    out: Path,
    settings: Speaking,
    *,
    workers: int = 1,
    progress: Progress = lambda _done, _all: None,
) -> Spoken:
    """Speak a column of a table (.tsv) or of JSON lines, gzipped or not. A stopped run is continued.

    `out` gets the manifest and its recordings. `workers` texts are spoken at once, and `progress` is called after each.

    Raises:
        ManifestError: if the table is wrong, or no row can be spoken.
        ConfigError: if espeak-ng is missing, or `out` holds other speech.
        AudioError: if espeak-ng fails.
    """
    library = espeak_library()
    texts = TextFile(path)
    rows, left_out = _plain_rows(texts, settings)
    rows = rows[np.random.default_rng(settings.seed).permutation(len(rows))][: settings.count or None]
    (out / AUDIO).mkdir(parents=True, exist_ok=True)
    plan = {"format": FORMAT, "texts": [path.name, sha256(path)], **asdict(settings)}
    check_plan(out / PLAN_FILE, plan, "speech")
    done = _complete_lines(out / (MANIFEST if (out / MANIFEST).is_file() else PARTIAL))
    progress(done, len(rows))
    if not (out / MANIFEST).is_file():
        with ExitStack() as stack, (out / PARTIAL).open("a", encoding="utf-8") as partial:
            idle: SimpleQueue[Espeak] = SimpleQueue()
            for _ in range(workers):
                idle.put(stack.enter_context(Espeak(library)))
            entries = _entries(_Speaker(texts, out, settings, idle), rows, done, workers)
            for number, entry in enumerate(entries, done + 1):
                partial.write(json.dumps(entry, ensure_ascii=False) + "\n")
                partial.flush()
                progress(number, len(rows))
        (out / PARTIAL).replace(out / MANIFEST)
    spoken = read_manifest(out / MANIFEST)
    seconds, voices = sum(item.duration_s for item in spoken), {item.speaker for item in spoken}
    return Spoken(len(spoken), seconds, done, len(voices), left_out)


def _plain_rows(texts: TextFile, settings: Speaking) -> tuple[npt.NDArray[np.int64], int]:
    """Return (rows, 2) first byte and number of the lines that can be spoken, and the number of the others."""
    found, left_out = array("q"), 0
    for number, offset, row in texts.rows():
        translated = all(texts.cell(row, column, number) for column in settings.translations)
        if translated and plain(texts.cell(row, settings.column, number)):
            found.extend((offset, number))
        else:
            left_out += 1
    if not found:
        raise ManifestError(f"{texts.path}: no row to speak; expected plain words in column {settings.column}")
    return np.frombuffer(found, dtype=np.int64).reshape(-1, 2), left_out


def _complete_lines(path: Path) -> int:
    """Return the number of complete lines. An incomplete last line is removed."""
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        write_atomically(path, content[:whole])
    return content.count(b"\n")


def _entries(
    speaker: _Speaker, rows: npt.NDArray[np.int64], done: int, workers: int
) -> Iterator[dict[str, Any]]:  # Any: values of a manifest's line
    """Yield the manifest lines of the rows from `done` on, in order. Workers speak the next rows meanwhile."""
    pool = ThreadPoolExecutor(workers)  # threads suffice: espeak-ng is another process, and most of the rest is C
    waiting: deque[Future[dict[str, Any]]] = deque()
    try:
        for index, (offset, number) in enumerate(rows[done:].tolist(), done):
            waiting.append(pool.submit(speaker, index, offset, number))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Speaker:
    """Speaks rows of a table."""

    texts: TextFile
    out: Path
    settings: Speaking
    idle: SimpleQueue[Espeak]
    """An espeak-ng for each worker that does not speak now."""

    def __call__(self, index: int, offset: int, number: int) -> dict[str, Any]:  # Any: values of a manifest's line
        """Speak a row, write the recording and return its line."""
        settings, cell = self.settings, self.texts.cell
        row = self.texts.row(offset, number)
        written = cell(row, settings.column, number)
        rng = np.random.default_rng([settings.seed, number])
        voice = draw_voice(rng, settings.language, variants_of(settings.voices))
        espeak = self.idle.get()
        try:
            speech = speak(written, voice, rng, espeak)
        finally:
            self.idle.put(espeak)
        suffix, container, subtype = FORMATS[settings.format]
        name = f"{AUDIO}/{index // IN_A_FOLDER:03d}/{index:06d}{suffix}"
        recording = io.BytesIO()
        soundfile.write(recording, speech.samples, RATE_HZ, format=container, subtype=subtype)
        (self.out / name).parent.mkdir(exist_ok=True)
        write_atomically(self.out / name, recording.getvalue())
        entry: dict[str, Any] = {
            "audio_filepath": name,
            "duration": round(speech.samples.size / RATE_HZ, 3),
            "text": plain(written),
            "text_raw": written,
            "word_times": [[round(start, 3), round(end, 3)] for start, end in speech.word_times],
            "source_lang": settings.language,
            "target_lang": settings.language,
            "speaker": voice.name,
        }
        if settings.translations:
            entry["translations"] = {column: cell(row, column, number) for column in settings.translations}
        if all(row.get(column, "").strip() for column in QUESTION):
            entry |= {column: cell(row, column, number) for column in QUESTION}
        return entry
