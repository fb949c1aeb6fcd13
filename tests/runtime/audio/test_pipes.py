"""Audio that comes through pipes, and headers that are unfinished, damaged or hostile."""

import io
import os
import resource
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bestow_edge.core.errors import AudioError
from bestow_edge.runtime.audio.files import open_audio, read_audio
from bestow_edge.runtime.audio.samples import check_block

soundfile = pytest.importorskip("soundfile")
RATE_HZ = 16_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000).astype(np.float32)
KINDS = ("wav PCM_16", "wav PCM_24", "wav FLOAT", "wav ULAW", "wav IMA_ADPCM", "flac PCM_16", "ogg VORBIS", "ogg OPUS",
         "mp3 MPEG_LAYER_III", "aiff PCM_16", "w64 PCM_16", "rf64 PCM_16", "au PCM_16")  # fmt: skip


def wav(
    samples: bytes, *, size: int | None = None, riff: int = 0, rate_hz: int = RATE_HZ, behind: bytes = b""
) -> bytes:
    """Return a wav of 16-bit mono samples with any sizes in its header, as ffmpeg writes it: a list comes first."""
    size = len(samples) if size is None else size
    form = struct.pack("<HHIIHH", 1, 1, rate_hz, 2 * rate_hz & 0xFFFFFFFF, 2, 16)
    title = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + title + b"data" + struct.pack("<I", size) + samples + behind
    return b"RIFF" + struct.pack("<I", riff) + chunks


PCM = (NOISE * 32767).astype("<i2").tobytes()
WANTED = np.frombuffer(PCM, "<i2").astype(np.float32) / 32768


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A named pipe."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def written(fifo: Path, content: bytes) -> threading.Thread:
    """Write into a named pipe, in a thread."""

    def write() -> None:
        try:
            fifo.write_bytes(content)
        except BrokenPipeError:
            return

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_is_as_the_file(tmp_path: Path, fifo: Path, kind: str) -> None:
    container, subtype = kind.split()
    path = tmp_path / f"noise.{container}"
    soundfile.write(path, np.stack([NOISE, NOISE / 2], axis=1), 48_000, format=container.upper(), subtype=subtype)
    thread = written(fifo, path.read_bytes())
    np.testing.assert_array_equal(read_audio(fifo, RATE_HZ), read_audio(path, RATE_HZ))
    thread.join()


@pytest.mark.parametrize(("size", "riff"), [(0, 0), (0, 62), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0), (90_000, 0)])
@pytest.mark.parametrize("piped", [True, False])
def test_an_unfinished_recording_is_read_to_its_end(
    tmp_path: Path, fifo: Path, size: int, riff: int, piped: bool
) -> None:
    path = fifo if piped else tmp_path / "unfinished.wav"
    if piped:
        written(path, wav(PCM, size=size, riff=riff))
    else:
        path.write_bytes(wav(PCM, size=size, riff=riff))
    np.testing.assert_array_equal(read_audio(path, RATE_HZ), WANTED)


@pytest.mark.parametrize("piped", [True, False])
def test_what_stands_behind_the_samples_is_no_sound(tmp_path: Path, fifo: Path, piped: bool) -> None:
    behind = b"LIST" + struct.pack("<I", 4000) + bytes(range(250)) * 16
    path = fifo if piped else tmp_path / "title.wav"
    for samples in (PCM, b""):
        content = wav(samples, riff=62 + len(samples) + len(behind), behind=behind)
        thread = written(path, content) if piped else path.write_bytes(content)
        if samples:
            np.testing.assert_array_equal(read_audio(path, RATE_HZ), WANTED)
        else:
            with pytest.raises(AudioError, match="has no samples, expected at least one"):
                read_audio(path, RATE_HZ)
        if isinstance(thread, threading.Thread):
            thread.join()


def test_samples_without_a_header(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "a.pcm").write_bytes(PCM)
    written(fifo, PCM)
    for path in (tmp_path / "a.pcm", fifo):
        with open_audio(path, raw_rate_hz=RATE_HZ) as audio:
            np.testing.assert_array_equal(audio.read(), WANTED)
    with open_audio(io.FileIO(tmp_path / "a.pcm"), 8_000, raw_rate_hz=RATE_HZ) as audio:
        assert len(audio.read()) == len(WANTED) // 2


def test_blocks_come_while_the_audio_does() -> None:
    """The first two seconds are there while the writer still waits."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as sink, open_audio(io.FileIO(reader), RATE_HZ, name="pipe") as audio:
        sink.write(wav(PCM, size=0xFFFFFFFF)[:64_000])
        blocks = iter(audio)
        heard = [next(blocks) for _ in range(24)]
        np.testing.assert_array_equal(np.concatenate(heard), WANTED[: 24 * 1280])
        audio.stop()  # type: ignore[union-attr] # of a pipe
        assert len(list(blocks)) < 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "nothing came, expected audio; check the program that writes it"),
        (b"no audio at all, but a text. " * 400, "cannot be read as audio"),
        (b"RIFF", "cannot be read as audio"),
        (b"fLaC" + bytes(5000), "cannot be read as audio"),
        (wav(b""), "has no samples"),
        (wav(PCM, rate_hz=1), "sampling rate of 1 Hz, expected 4000 to 768000 Hz"),
        (wav(PCM, rate_hz=2**32 - 1), "sampling rate of 4294967295 Hz"),
        (b"RIFF\xff\xff\xff\xffWAVE" + (b"LIST" + struct.pack("<I", 2**20) + bytes(2**20)) * 3, "cannot be read"),
    ],
)
def test_a_pipe_without_audio(fifo: Path, content: bytes, problem: str) -> None:
    thread = written(fifo, content)
    with pytest.raises(AudioError) as refused:
        read_audio(fifo, RATE_HZ)
    assert problem in str(refused.value)
    assert str(refused.value).startswith(f"{fifo}: ")
    thread.join()


def test_a_source_that_fails() -> None:
    class Fails(io.RawIOBase):
        def readinto(self, _buffer: object) -> int:
            raise OSError(5, "Input/output error")

    problem = "^tape: cannot be read further .Input/output error.; try again"
    with open_audio(Fails(), RATE_HZ, name="tape") as audio, pytest.raises(AudioError, match=problem):
        audio.read()


# --- headers and samples that are not right ---


def test_a_rate_that_would_be_a_bomb(tmp_path: Path) -> None:
    (tmp_path / "slow.wav").write_bytes(wav(PCM, rate_hz=1))
    with pytest.raises(AudioError, match=r"slow.wav: sampling rate of 1 Hz, expected 4000 to 768000 Hz; its header is"):
        read_audio(tmp_path / "slow.wav", RATE_HZ)


@pytest.mark.parametrize("rate_hz", [4_000, 6_000, 96_000, 192_000, 768_000])
def test_rates_of_recordings(tmp_path: Path, rate_hz: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(PCM, rate_hz=rate_hz))
    assert len(read_audio(tmp_path / "a.wav", RATE_HZ)) == pytest.approx(len(NOISE) * RATE_HZ / rate_hz, abs=1)


def flac(tmp_path: Path, *, frames: int | None = None) -> Path:
    """Write a flac whose header has another number of frames."""
    path = tmp_path / "noise.flac"
    soundfile.write(path, NOISE, RATE_HZ)
    if frames is not None:
        content = bytearray(path.read_bytes())
        content[21] = content[21] & 0xF0 | frames >> 32
        content[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
        path.write_bytes(content)
    return path


def test_a_length_of_49_days_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"noise.flac: its header says 4294967 s, expected less than 1000000 s"):
        read_audio(flac(tmp_path, frames=2**36 - 1), RATE_HZ)


def test_a_recording_that_lacks_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = read_audio(flac(tmp_path), RATE_HZ)
    path = flac(tmp_path, frames=2**33)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(read_audio(path, RATE_HZ), whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; the header says 34 GB
    assert "ends after 2.5 s, its header says 536870.9 s; the rest is missing" in caplog.text


def test_a_damaged_recording(tmp_path: Path) -> None:
    path = flac(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"noise.flac: is damaged \d.\d\d s from its start .+; export it again"):
        read_audio(path, RATE_HZ)


def test_opposite_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "anti.wav"
    soundfile.write(path, np.stack([NOISE, -NOISE], axis=1), RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, RATE_HZ), NOISE)
    assert caplog.text.count("anti.wav: its channels cancel each other out") == 1
    caplog.clear()
    other = np.random.default_rng(1).uniform(-0.5, 0.5, len(NOISE)).astype(np.float32)
    soundfile.write(path, np.stack([NOISE, other], axis=1), RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, RATE_HZ), (NOISE + other) / 2)
    assert not caplog.text


def test_integers_stored_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(path, NOISE * 32768, RATE_HZ, subtype="FLOAT")
    remedy = "divide them by their full scale"
    with pytest.raises(AudioError, match=rf"loud.wav: has a sample of \S+, expected samples between -1 .+{remedy}"):
        read_audio(path, RATE_HZ)
    soundfile.write(path, NOISE * 4, RATE_HZ, subtype="FLOAT")  # 6 dB over: a mix that was not turned down
    np.testing.assert_array_equal(read_audio(path, RATE_HZ), NOISE * 4)


@pytest.mark.parametrize("block", [[0.0] * 10, None, b"ab", "ab", 1.0])
def test_a_block_that_is_no_array(block: npt.NDArray[np.float32]) -> None:
    with pytest.raises(AudioError, match=r"audio block is \w+; expected a numpy array, float32 .samples,., mono"):
        check_block(block)


def test_a_block_of_integers_as_floats() -> None:
    with pytest.raises(
        AudioError, match=r"audio block has a sample of 14317, .+; divide the samples of int16 .+ 32768"
    ):
        check_block(np.array([0, 14317], np.float32))


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Twenty minutes at 48 kHz stereo, 230 MB on disk; whole they were 0.7 GB."""
    path = tmp_path / "long.wav"
    second = np.tile(NOISE, 3)[: 2 * 48_000].reshape(-1, 2) * 0.1
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
        for _ in range(20 * 60):
            file.write(second)
    script = """
import resource, sys
from bestow_edge.runtime.audio.files import open_audio
with open_audio(sys.argv[1], 16_000) as audio:
    blocks = iter(audio)
    samples = len(next(blocks))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    samples += sum(map(len, blocks))
print(samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    samples, grown_kb = map(int, done.stdout.split())
    assert samples == 20 * 60 * RATE_HZ
    assert grown_kb < 20_000
