"""Fetches public corpora that examples/digits.yaml trains on, from their own addresses, and writes their manifests.

    python examples/public_data.py DATA [--only fsdd,hd_digits]

Writes DATA/human/CORPUS/{train,dev,test}.jsonl and audio/. A broken download goes on where it stopped; a corpus that is
there is not fetched again. The archives have checksums that others publish. Where none is published,
DATA/downloads.json keeps that of the first download, and later ones must equal it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import soundfile
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from bestow_edge.core.errors import BestowEdgeError, ConfigError
from bestow_edge.core.files import atomic_directory, only_writer, write_atomically

ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
GERMAN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
WORDS = dict(zip(ENGLISH, GERMAN, strict=True)) | {
    "left": "links", "right": "rechts", "up": "hoch", "down": "runter", "go": "los", "stop": "stopp", "tree": "baum",
    "off": "aus", "bed": "bett", "on": "an", "wow": "wow", "house": "haus", "cat": "katze", "yes": "ja",
    "happy": "glücklich", "marvin": "marvin", "dog": "hund",
}  # fmt: skip
MOST = 200  # recordings of a word of Speech Commands in a split: all would outnumber the other corpora
FSDD = {"jackson": "train", "nicolas": "train", "yweweler": "train", "theo": "dev", "george": "test"}
HEIDELBERG = {"00": "train", "01": "train", "03": "train", "07": "train", "06": "dev", "02": "test"}
LIBRISPEECH_DEV = {"118", "1737", "2416", "3242"}
TRIES = 3
BLOCK = 1 << 20
Texts = dict[str, str]  # name of a text file of the archive: its content


@dataclass(frozen=True)
class Take:
    """A recording to unpack: its split, its name among the recordings of the corpus, and its line in the manifest."""

    split: str
    name: str
    line: dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """A corpus: the address of its archive, the archive's checksum ("sha256:..."), what to take of it, splits."""

    url: str
    checksum: str | None
    choose: Callable[[list[str], Texts], dict[str, Take]]
    splits: tuple[str, ...] = ("train", "dev", "test")


def _english(word: str, speaker: str) -> dict[str, Any]:
    return {"text": word, "source_lang": "en", "translations": {"de": WORDS[word]}, "speaker": speaker}


def fsdd(names: list[str], _: Texts) -> dict[str, Take]:
    """Choose by speaker; speakers without a split are left out."""
    takes = {}
    for name in names:
        match = re.search(r"/recordings/((\d)_([a-z]+)_\d+)\.wav$", name)
        if match and match[3] in FSDD:
            line = _english(ENGLISH[int(match[2])], f"fsdd_{match[3]}")
            takes[name] = Take(FSDD[match[3]], f"{match[1]}.wav", line)
    return takes


def hd_digits(names: list[str], _: Texts) -> dict[str, Take]:
    """Choose by speaker: six of twelve."""
    takes = {}
    for name in names:
        match = re.search(r"lang-(english|german)_speaker-(\d\d)_trial-(\d+)_digit-(\d)\.flac$", name)
        if not match or match[2] not in HEIDELBERG:
            continue
        line = _english(ENGLISH[int(match[4])], f"hd_{match[2]}")
        if match[1] == "german":
            word = GERMAN[int(match[4])]
            line |= {"text": word, "source_lang": "de", "translations": {"en": line["text"]}}
        short = f"{line['source_lang']}_s{match[2]}_t{match[3]}_d{match[4]}.flac"
        takes[name] = Take(HEIDELBERG[match[2]], short, line)
    return takes


def speech_commands(names: list[str], texts: Texts) -> dict[str, Take]:
    """Choose by the corpus's own lists, at most `MOST` recordings of a word in a split."""
    lists = {"dev": "validation_list.txt", "test": "testing_list.txt"}
    splits = {clip: split for split, name in lists.items() for clip in texts.get(name, "").split()}
    taken: Counter[tuple[str, str]] = Counter()
    takes = {}
    for name in sorted(names):
        match = re.search(r"(?:^|/)([a-z]+)/(([0-9a-f]+)_nohash_\d+\.wav)$", name)
        if not match or match[1] not in WORDS:
            continue
        split = splits.get(f"{match[1]}/{match[2]}", "train")
        taken[split, match[1]] += 1
        if taken[split, match[1]] <= MOST:
            takes[name] = Take(split, f"{match[1]}_{match[2]}", _english(match[1], f"sc_{match[3]}"))
    return takes


def librispeech(names: list[str], texts: Texts) -> dict[str, Take]:
    """Choose all; four speakers are dev."""
    lines = (line.partition(" ") for text in texts.values() for line in text.splitlines())
    said = {name: words for name, _, words in lines}
    takes = {}
    for name in names:
        match = re.search(r"(?:^|/)((\d+)-\d+-\d+)\.flac$", name)
        if match and match[1] in said:
            line = {"text": said[match[1]].lower(), "source_lang": "en", "speaker": f"ls_{match[2]}"}
            takes[name] = Take("dev" if match[2] in LIBRISPEECH_DEV else "train", f"{match[1]}.flac", line)
    return takes


CORPORA = {
    "fsdd": Corpus("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.tar.gz", None, fsdd),
    "hd_digits": Corpus("https://zenkelab.org/datasets/hd_audio.tar.gz", None, hd_digits),
    "speech_commands": Corpus(  # the checksum is torchaudio's and TensorFlow Datasets'
        "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        speech_commands,
    ),
    "librispeech": Corpus(  # the checksum is in https://www.openslr.org/resources/31/md5sum.txt
        "https://www.openslr.org/resources/31/train-clean-5.tar.gz",
        "md5:5df7d4e78065366204ca6845bb08f490",
        librispeech,
        ("train", "dev"),
    ),
}


def _append(url: str, part: Path, progress: Progress) -> bool:
    """Fetch what `part` lacks; return whether that was all."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310 - addresses of this file or the user's
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # it has all; the checksum tells whether that is right
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        task = progress.add_task(part.stem, total=total, completed=have)
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                progress.advance(task, len(block))
            return total is None or file.tell() == total


def download(url: str, path: Path) -> None:
    """Download a file, beginning where an earlier download stopped.

    Raises:
        ConfigError: if the address does not answer or the connection breaks again and again.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    problem: Exception | str = "the connection broke"
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for _ in range(TRIES):
            try:
                if _append(url, part, progress):
                    part.replace(path)
                    return
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = error
    raise ConfigError(f"{url}: not downloaded ({problem}); run the command again, it goes on where it stopped")


def check(path: Path, url: str, expected: str | None, records: Path) -> None:
    """Compare an archive's checksum with the published one, or with that of the first download, and record it.

    Raises:
        ConfigError: if it differs; the archive is removed then.
    """
    known: dict[str, str] = json.loads(records.read_text(encoding="utf-8")) if records.exists() else {}
    expected = expected or known.get(url)
    kind = expected.partition(":")[0] if expected else "sha256"
    with path.open("rb") as file:
        got = f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"
    if expected and got != expected:
        path.unlink()
        raise ConfigError(f"{url}: checksum {got}, expected {expected}; the download was removed, try again later")
    write_atomically(records, json.dumps(known | {url: got}, indent=2) + "\n")


@contextmanager
def _members(path: Path, folder: Path) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]]:
    """Yield the files of an archive; refuse one that is damaged or has a path out of the folder."""

    def files() -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                tarfile.data_filter(member, str(folder))
                if member.isfile():
                    yield archive, member

    try:
        yield files()
    except tarfile.FilterError as error:
        raise ConfigError(f"{path}: refused, {error}; remove the file and fetch it from a place you trust") from error
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise ConfigError(f"{path}: not a readable archive ({error}); remove it and run the command again") from error


def unpack(path: Path, corpus: Corpus, folder: Path) -> Counter[str]:
    """Unpack the chosen recordings and write the manifests into an empty folder; return how many each split has."""
    names: list[str] = []
    texts: Texts = {}
    with _members(path, folder) as members:
        for archive, member in members:
            names.append(member.name)
            file = archive.extractfile(member) if member.name.endswith((".trans.txt", "_list.txt")) else None
            if file is not None:
                texts[Path(member.name).name] = file.read().decode()
    takes = corpus.choose(names, texts)
    lines: dict[str, list[str]] = {split: [] for split in corpus.splits}
    for split in corpus.splits:
        (folder / "audio" / split).mkdir(parents=True)
    with _members(path, folder) as members:
        for archive, member in members:
            if (take := takes.get(member.name)) and (file := archive.extractfile(member)):
                name = f"audio/{take.split}/{take.name}"
                (folder / name).write_bytes(file.read())
                duration = round(soundfile.info(str(folder / name)).duration, 3)
                line = {"audio_filepath": name, "duration": duration} | take.line
                lines[take.split].append(json.dumps(line, ensure_ascii=False) + "\n")
    for split, entries in lines.items():
        if not entries:
            raise ConfigError(f"{path}: no recordings for {split} in it; the archive is another one than expected")
        (folder / f"{split}.jsonl").write_text("".join(sorted(entries)), encoding="utf-8")
    return Counter({split: len(entries) for split, entries in lines.items()})


def fetch(name: str, data: Path, mirror: str | None, checksum: str | None) -> str:
    """Fetch one corpus unless it is there; return what was done, in words."""
    corpus = CORPORA[name]
    folder = data / "human" / name
    if all((folder / f"{split}.jsonl").is_file() for split in corpus.splits):
        return "is there"
    file = corpus.url.rpartition("/")[2]
    url = f"{mirror.rstrip('/')}/{file}" if mirror else corpus.url
    archive = data / "downloads" / f"{name}-{file}"
    if not archive.is_file():
        download(url, archive)
    check(archive, url, checksum or corpus.checksum, data / "downloads.json")
    with atomic_directory(folder, replace=False) as partial:
        counts = unpack(archive, corpus, partial)
    archive.unlink()
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def main(
    data: Path,
    only: Annotated[str, typer.Option(help="Corpora, with commas between them.")] = ",".join(CORPORA),
    mirror: Annotated[str | None, typer.Option(help="Address of a folder that has the same archives.")] = None,
    checksum: Annotated[
        list[str] | None, typer.Option(help="CORPUS=sha256:HEX in place of the known one, such as for a mirror's own.")
    ] = None,
) -> None:
    """Fetch public corpora into DATA/human."""
    try:
        names = only.split(",")
        checksums = dict(entry.partition("=")[::2] for entry in checksum or [])
        for name in [*names, *checksums]:
            if name not in CORPORA:
                raise ConfigError(f"{name!r} is no corpus of this script; choose among {', '.join(CORPORA)}")
        for name, value in checksums.items():
            if not re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", value):
                raise ConfigError(f"--checksum {name}={value}: expected sha256: or md5: and hexadecimal digits")
        with only_writer(data):
            for name in names:
                print(f"{name}: {fetch(name, data, mirror, checksums.get(name))}")
    except (BestowEdgeError, OSError, soundfile.LibsndfileError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    typer.run(main)
