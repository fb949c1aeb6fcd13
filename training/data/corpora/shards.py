"""Shards: tars of recordings, each with an index, written from manifests for storage where small reads are slow.

`shard-000000.tar` holds `KEY.json` and the recording `KEY.flac` (or its original format) of each utterance. This is the
WebDataset format, whose library can read these tars too. The index `shard-000000.jsonl` beside it is a manifest whose
lines have the position of the recording in the tar. With it a batch is a function of seed and number, as with loose
files. The WebDataset library and lhotse Shar do not offer that: they read a shard from start to end, and a run resumed
within an epoch has to skip through everything read before.

A shard is written atomically, its index last. A stopped run continues after the last complete shard.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from bestow_edge.core.errors import AudioError, ConfigError, ManifestError
from bestow_edge.core.files import sha256, write_atomically
from bestow_edge.core.utterances import LINES, Utterance, numbered_lines, parse_object, parse_utterance
from bestow_edge.runtime.audio.files import open_recording
from bestow_edge.training.data.corpora.recordings import decode
from bestow_edge.training.data.corpora.text_files import LineFile

logger = logging.getLogger(__name__)
PLAN_FILE = "shards.json"
WHOLE_S = 0.05
"""An utterance that leaves out less of its file than this is the whole file, whose bytes are copied."""
Progress = Callable[[int, int], None]
"""Called with the number of finished utterances and of all."""


@dataclass(frozen=True, slots=True)
class Written:
    """The result of `write_shards`."""

    shards: int
    """Number of shards."""
    utterances: int
    """Utterances in them."""
    made_before: int
    """Shards of earlier runs among them."""
    bad: int
    """Unreadable recordings that this run left out."""


def shard_indexes(directory: Path) -> list[Path]:
    """Return the indexes of a directory's shards, in order.

    Raises:
        ManifestError: if there is no complete set of shards.
    """
    plan_path = directory / PLAN_FILE
    if not plan_path.is_file():
        raise ManifestError(f"{directory}: no {PLAN_FILE}; expected a directory that `bestow-edge data shard` wrote")
    plan = _read_plan(plan_path)
    if "shards" not in plan:
        raise ManifestError(f"{directory}: its shards are not complete; run the same `bestow-edge data shard` again")
    indexes = [directory / f"{shard_name(number)}.jsonl" for number in range(plan["shards"])]
    for path in indexes:
        if not path.is_file() or not path.with_suffix(".tar").is_file():
            raise ManifestError(
                f"{path}: no such shard, but {PLAN_FILE} counts {plan['shards']}; make the shards again"
            )
    return indexes


def shard_name(number: int) -> str:
    """Return the name of a shard without its suffix."""
    return f"shard-{number:06d}"


def write_shards(
    manifests: Sequence[Path],
    out: Path,
    *,
    size_bytes: int,
    seed: int,
    max_bad: int = 0,
    progress: Progress = lambda _done, _all: None,
) -> Written:
    """Write the recordings of manifests as shards in random order, which the seed decides. A stopped run is continued.

    A shard is full at `size_bytes`. Up to `max_bad` unreadable recordings are logged and left out. `progress` is called
    after each utterance.

    Raises:
        ManifestError: if a manifest is missing or has a bad line, or more than `max_bad` recordings are unreadable.
        ConfigError: if `out` holds shards of other manifests or settings.
    """
    files = [LineFile(path, LINES) for path in manifests]
    places = ((file_id, offset, number) for file_id, file in enumerate(files) for number, offset, _ in file.lines())
    lines = np.fromiter(chain.from_iterable(places), dtype=np.int64).reshape(-1, 3)
    if not lines.size:
        raise ManifestError(f"{', '.join(map(str, manifests))}: no lines; nothing to make shards of")
    lines = lines[np.random.default_rng(seed).permutation(len(lines))]
    plan = {
        "format": "bestow-edge shards 1",
        "manifests": [[path.name, sha256(path)] for path in manifests],
        "size_bytes": size_bytes,
        "seed": seed,
    }
    out.mkdir(parents=True, exist_ok=True)
    check_plan(out / PLAN_FILE, plan, "shards")
    number, utterances, done = _complete(out)
    packer = _Packer(out, files, lines, size_bytes, max_bad, progress)
    made_before = number
    progress(done, len(lines))
    while done < len(lines):
        done, packed = packer.pack(number, done)
        utterances += packed
        number += bool(packed)
    write_atomically(out / PLAN_FILE, json.dumps(plan | {"shards": number, "utterances": utterances}, indent=1))
    return Written(number, utterances, made_before, packer.bad)


def check_plan(path: Path, plan: dict[str, Any], content: str) -> None:  # Any: plain values for JSON
    """Write the plan of a directory's content, or compare it with that of an earlier run.

    Raises:
        ConfigError: if they differ.
    """
    if not path.exists():
        write_atomically(path, json.dumps(plan, indent=1))
        return
    earlier, plan = _read_plan(path), json.loads(json.dumps(plan))
    if changed := [key for key, value in plan.items() if earlier.get(key) != value]:
        hint = "choose another directory or delete it"
        raise ConfigError(f"{path.parent}: holds {content} with another {', '.join(changed)}; {hint}")


def _read_plan(path: Path) -> dict[str, Any]:
    return parse_object(path.read_text(encoding="utf-8").replace("\n", " "), str(path))


def _complete(out: Path) -> tuple[int, int, int]:
    """Return the number of complete shards, the utterances in them, and the line to continue with."""
    number = utterances = done = 0
    while (index := out / f"{shard_name(number)}.jsonl").exists():
        last = ""
        for _, line in numbered_lines(index, LINES):
            utterances, last = utterances + 1, line
        done = int(Path(parse_object(last, str(index))["member"]).stem) + 1
        number += 1
    return number, utterances, done


@dataclass(slots=True)
class _Packer:
    """Writes shard after shard."""

    out: Path
    files: Sequence[LineFile]
    lines: npt.NDArray[np.int64]
    """(lines, 3) file, first byte and number of each line, in the order of the shards."""
    size_bytes: int
    max_bad: int
    progress: Progress
    bad: int = 0

    def pack(self, number: int, done: int) -> tuple[int, int]:
        """Write one shard from line `done` on. Return the line after its last one, and its number of utterances."""
        name = shard_name(number)
        partial = self.out / f".{name}.tar.partial"
        index: list[str] = []
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            while done < len(self.lines) and (tar.offset < self.size_bytes or not index):
                index += self._add(tar, done, name)
                done += 1
                self.progress(done, len(self.lines))
        if index:
            partial.replace(self.out / f"{name}.tar")
            write_atomically(self.out / f"{name}.jsonl", "".join(index))
        else:
            partial.unlink()
        return done, len(index)

    def _add(self, tar: tarfile.TarFile, done: int, name: str) -> list[str]:
        """Add an utterance. Return its line of the index, or no line if its recording is unreadable."""
        file_id, offset, number = self.lines[done].tolist()
        file = self.files[file_id]
        line, where = file.read(offset, number), file.where(number)
        try:
            content, suffix = recording_bytes(parse_utterance(line, file.path, number))
        except AudioError as error:
            self.bad += 1
            if self.bad > self.max_bad:
                hint = "`bestow-edge data check` lists all such lines, --max-bad allows some"
                raise ManifestError(f"{where}: {error}; {hint}") from error
            logger.warning("%s: %s; left out, %d of at most %d", where, error, self.bad, self.max_bad)
            return []
        member = f"{done:09d}{suffix}"
        entry = parse_object(line, where) | {"audio_filepath": member, "offset": 0}
        _add_file(tar, f"{done:09d}.json", json.dumps(entry, ensure_ascii=False).encode())
        begins = tar.offset + tarfile.BLOCKSIZE  # the next file begins after its header
        _add_file(tar, member, content)
        entry |= {"audio_filepath": f"{name}.tar", "audio_bytes": [begins, len(content)], "member": member}
        return [json.dumps(entry, ensure_ascii=False) + "\n"]


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)  # without time and owner, so that equal input gives equal bytes
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def recording_bytes(item: Utterance) -> tuple[bytes, str]:
    """Return the recording of an utterance and its suffix: a whole file as it is, a part of a file as 16-bit FLAC.

    Raises:
        AudioError: if it is missing or not audio.
    """
    if not item.path.is_file():
        raise AudioError(f"{item.path}: no such file; expected an audio file")
    with open_recording(item.path) as audio:
        whole = audio.length_s is not None and audio.length_s - item.duration_s < WHOLE_S
    if not item.offset_s and whole:
        return item.path.read_bytes(), item.path.suffix.lower()
    samples, rate_hz, _ = decode(item.path, item)
    packed = io.BytesIO()
    soundfile.write(packed, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return packed.getvalue(), ".flac"
