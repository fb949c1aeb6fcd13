"""`examples/public_data.py` against a mirror with archives in the corpora's own layouts."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import soundfile

from bestow_edge.core.utterances import read_manifest

ROOT = Path(__file__).parents[2]
AUDIO = ROOT / "tests" / "audio"
FSDD = {"train": "jackson", "dev": "theo", "test": "george"}
HEIDELBERG = {"train": "00", "dev": "06", "test": "02"}


def recording(source: Path, kind: str) -> bytes:
    """Return a recording of the repository as WAV or FLAC."""
    samples, rate_hz = soundfile.read(source, dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind)
    return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> str:
    """Write an archive and return its checksum."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def archives(folder: Path) -> dict[str, str]:
    """Write one archive for each corpus and return their checksums."""
    seven = recording(AUDIO / "fsdd" / "7_george_37.ogg", "WAV")
    eight = recording(AUDIO / "hd_digits" / "de_s02_t21_d8.ogg", "FLAC")
    five = recording(AUDIO / "speech_commands" / "five_35d1b6ee_nohash_4.ogg", "WAV")
    speakers = (*FSDD.values(), "lucas")
    fsdd = {f"free-spoken-digit-dataset-1.0.10/recordings/7_{name}_3.wav": seven for name in speakers}
    heidelberg = {
        f"audio/lang-{language}_speaker-{speaker}_trial-3_digit-8.flac": eight
        for speaker in (*HEIDELBERG.values(), "11")
        for language in ("english", "german")
    }
    commands = {f"./five/{speaker}_nohash_0.wav": five for speaker in ("aa", "bb", "cc")}
    commands |= {"./five/bb_nohash_1.wav": five, "./bird/aa_nohash_0.wav": five}
    commands |= {"./validation_list.txt": b"five/bb_nohash_0.wav\nfive/bb_nohash_1.wav\n"}
    commands |= {"./testing_list.txt": b"five/cc_nohash_0.wav\n", "./_background_noise_/README.md": b"noise"}
    read = {f"LibriSpeech/train-clean-5/{name}/1/{name}-1-0000.flac": eight for name in ("19", "118")}
    read |= {
        f"LibriSpeech/train-clean-5/{name}/1/{name}-1.trans.txt": f"{name}-1-0000 GOOD DAY\n".encode()
        for name in ("19", "118")
    }
    return {
        "fsdd": pack(folder / "v1.0.10.tar.gz", fsdd),
        "hd_digits": pack(folder / "hd_audio.tar.gz", heidelberg),
        "speech_commands": pack(folder / "speech_commands_v0.02.tar.gz", commands),
        "librispeech": pack(folder / "train-clean-5.tar.gz", read),
    }


@dataclass
class Mirror:
    """A local server: its address, its folder, the ranges asked for, and how many answers break off."""

    url: str
    folder: Path
    checksums: dict[str, str]
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    breaks: int = 0

    def fetch(self, data: Path, *options: str, **checksums: str) -> subprocess.CompletedProcess[str]:
        """Run the script as a user does; give the checksums of the mirror's own archives if no others are given."""
        pairs = (checksums or self.checksums).items()
        options += tuple(part for name, value in pairs for part in ("--checksum", f"{name}={value}"))
        command = [sys.executable, str(ROOT / "examples" / "public_data.py"), str(data), "--mirror", self.url, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Handler(SimpleHTTPRequestHandler):
    """Serves files and ranges of them; breaks off in the middle when the mirror says so."""

    def __init__(self, *args: object, mirror: Mirror, **options: object) -> None:
        self.mirror = mirror
        super().__init__(*args, directory=str(mirror.folder), **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range")
        self.mirror.asked.append((path.name, asked))
        if not path.is_file():
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = path.read_bytes()[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        broken = self.mirror.breaks > 0
        self.mirror.breaks -= broken
        self.wfile.write(content[: len(content) // 2] if broken else content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    made = Mirror("", folder, archives(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, mirror=made)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}"
        yield made
        server.shutdown()
        thread.join()


def lines(data: Path, corpus: str, split: str) -> list[dict[str, object]]:
    text = (data / "human" / corpus / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_manifests_of_all_corpora(mirror: Mirror, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = mirror.fetch(data)
    assert done.returncode == 0, done.stderr
    for split, speaker in FSDD.items():
        (line,) = lines(data, "fsdd", split)
        assert line["speaker"] == f"fsdd_{speaker}"
        assert (line["text"], line["translations"]) == ("seven", {"de": "sieben"})
    for split, speaker in HEIDELBERG.items():
        german, english = lines(data, "hd_digits", split)
        assert german["speaker"] == english["speaker"] == f"hd_{speaker}"
        assert (german["text"], german["translations"]) == ("acht", {"en": "eight"})
        assert (english["text"], english["source_lang"]) == ("eight", "en")
    for split, speakers in {"train": ["aa"], "dev": ["bb", "bb"], "test": ["cc"]}.items():
        assert [line["speaker"] for line in lines(data, "speech_commands", split)] == [f"sc_{s}" for s in speakers]
    assert [line["speaker"] for line in lines(data, "librispeech", "dev")] == ["ls_118"]
    assert [line["text"] for line in lines(data, "librispeech", "train")] == ["good day"]
    manifest = data / "human" / "fsdd" / "test.jsonl"
    (utterance,) = read_manifest(manifest)
    seconds = soundfile.info(str(AUDIO / "fsdd" / "7_george_37.ogg")).duration
    assert utterance.duration_s == pytest.approx(seconds, abs=0.001)
    assert not list((data / "downloads").iterdir())


def test_a_second_run_fetches_nothing(mirror: Mirror, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert mirror.fetch(data).returncode == 0
    mirror.asked.clear()
    done = mirror.fetch(data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is there") == 4
    assert mirror.asked == []


def test_a_wrong_checksum_is_named_and_nothing_is_written(mirror: Mirror, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = mirror.fetch(data, "--only", "fsdd", fsdd=f"sha256:{'0' * 64}")
    assert done.returncode == 2
    assert mirror.checksums["fsdd"] in done.stderr
    assert "0" * 64 in done.stderr
    assert not list((data / "downloads").iterdir())
    assert not (data / "human").exists()


def test_a_checksum_of_the_first_download_is_kept(mirror: Mirror, tmp_path: Path) -> None:
    data = tmp_path / "data"
    other = mirror.checksums["hd_digits"]  # so that no checksum is given for fsdd
    assert mirror.fetch(data, "--only", "fsdd", hd_digits=other).returncode == 0
    (data / "human" / "fsdd" / "train.jsonl").unlink()
    pack(mirror.folder / "v1.0.10.tar.gz", {"changed": b""})
    done = mirror.fetch(data, "--only", "fsdd", hd_digits=other)
    assert done.returncode == 2
    assert mirror.checksums["fsdd"] in done.stderr


@pytest.mark.parametrize(("breaks", "runs"), [(1, 1), (3, 2)])
def test_a_broken_download_goes_on(mirror: Mirror, tmp_path: Path, breaks: int, runs: int) -> None:
    mirror.breaks = breaks
    for _ in range(runs - 1):
        done = mirror.fetch(tmp_path / "data", "--only", "fsdd")
        assert done.returncode == 2
        assert "goes on where it stopped" in done.stderr
    done = mirror.fetch(tmp_path / "data", "--only", "fsdd")
    assert done.returncode == 0, done.stderr
    (_, first), *later = mirror.asked
    assert first is None
    assert len(later) == breaks
    assert all(asked and int(asked[6:-1]) > 0 for _, asked in later)


@pytest.mark.parametrize("name", ["../outside/recordings/7_theo_1.wav", "a/../../recordings/7_theo_1.wav"])
def test_a_path_out_of_the_folder_is_refused(mirror: Mirror, tmp_path: Path, name: str) -> None:
    checksum = pack(mirror.folder / "v1.0.10.tar.gz", {name: b"x"})
    done = mirror.fetch(tmp_path / "data", "--only", "fsdd", fsdd=checksum)
    assert done.returncode == 2
    assert "refused" in done.stderr
    assert not (tmp_path / "data" / "human" / "fsdd").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "nothing"), "'nothing' is no corpus"),
        (("--checksum", "hd_digits=12"), "expected sha256: or md5:"),
    ],
)
def test_wrong_options(mirror: Mirror, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = mirror.fetch(tmp_path / "data", *options, fsdd=mirror.checksums["fsdd"])
    assert done.returncode == 2
    assert message in done.stderr


def test_an_archive_that_the_mirror_lacks(mirror: Mirror, tmp_path: Path) -> None:
    (mirror.folder / "hd_audio.tar.gz").unlink()
    done = mirror.fetch(tmp_path / "data", "--only", "hd_digits")
    assert done.returncode == 2
    assert "hd_audio.tar.gz: not downloaded (HTTP Error 404" in done.stderr
