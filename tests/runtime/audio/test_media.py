"""Sound tracks of films and recordings of phones, by PyAV and by the program ffmpeg."""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bestow_edge.core.errors import AudioError
from bestow_edge.runtime.audio.files import open_audio, read_audio, read_waveform

av: Any = pytest.importorskip("av")  # an extra without types for all of it
RATE_HZ = 16_000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * 48_000) / 48_000)).astype(np.float32)
FFMPEG = shutil.which("ffmpeg")
PROGRAMS = ["PyAV", pytest.param("ffmpeg", marks=pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed"))]
KINDS = ["m4a aac", "mp4 aac", "adts aac", "matroska libopus", "webm libopus", "mov pcm_s16le"]


def film(path: Path, kind: str, **options: str) -> Path:
    """Write a tone of two seconds, stereo of 48 kHz."""
    container, codec = kind.split()
    container = {"m4a": "ipod"}.get(container, container)
    with av.open(path, "w", format=container, options=options) as file:
        track = file.add_stream(codec, rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([TONE, TONE]), format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        fifo = av.AudioFifo()
        for part in av.AudioResampler(track.codec_context.format, "stereo", 48_000).resample(frame):
            fifo.write(part)
        while (part := fifo.read(track.codec_context.frame_size or 1024, partial=True)) is not None:
            file.mux(track.encode(part))
        file.mux(track.encode(None))
    return path


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The decoder that is used."""
    if request.param == "ffmpeg":
        monkeypatch.setitem(sys.modules, "av", None)
    else:
        monkeypatch.setenv("PATH", "")
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_track(tmp_path: Path, kind: str, program: str) -> None:
    path = film(tmp_path / "film", kind)
    waveform = read_audio(path, RATE_HZ)
    assert len(waveform) == pytest.approx(2 * RATE_HZ, abs=1600)  # coders pad to whole blocks
    spectrum = np.abs(np.fft.rfft(waveform[8_000:24_000]))
    assert np.argmax(spectrum) == 440
    assert np.std(waveform[8_000:24_000]) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    if program == "PyAV":
        with open_audio(path) as audio:
            assert audio.rate_hz == 48_000
            assert audio.length_s == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("kind", ["adts aac", "matroska libopus", "mp4 aac"])
@pytest.mark.usefixtures("program")
def test_through_a_pipe(tmp_path: Path, kind: str) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"} if kind == "mp4 aac" else {}
    path = film(tmp_path / "film", kind, **options)
    with open_audio(io.FileIO(path), RATE_HZ, name="pipe") as audio:
        np.testing.assert_allclose(audio.read(), read_audio(path, RATE_HZ), atol=1e-4)


@pytest.mark.usefixtures("program")
def test_a_part(tmp_path: Path) -> None:
    path = film(tmp_path / "film", "mov pcm_s16le")
    whole, rate_hz = read_waveform(path)
    part, _ = read_waveform(path, offset_s=0.5, duration_s=0.25)
    np.testing.assert_array_equal(part, whole[rate_hz // 2 : rate_hz * 3 // 4])


@pytest.mark.usefixtures("program")
def test_a_damaged_film(tmp_path: Path) -> None:
    path = film(tmp_path / "film", "mp4 aac")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(AudioError, match=r"film: (cannot be read as audio|ffmpeg cannot decode it) \(.*nvalid data"):
        read_audio(path, RATE_HZ)


def test_an_index_at_the_end(tmp_path: Path) -> None:
    path = film(tmp_path / "film", "mp4 aac")
    with (
        open_audio(io.FileIO(path), RATE_HZ, name="pipe") as audio,
        pytest.raises(AudioError, match=r"^pipe: .+; give the file itself, not a pipe: it may say at its end where"),
    ):
        audio.read()


@pytest.mark.usefixtures("program")
def test_a_film_without_sound(tmp_path: Path) -> None:
    with av.open(tmp_path / "silent.mkv", "w") as file:
        track = file.add_stream("mpeg4", rate=25)
        track.width = track.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    with pytest.raises(AudioError, match=r"silent.mkv: (has no sound track|ffmpeg cannot decode it)"):
        read_audio(tmp_path / "silent.mkv", RATE_HZ)


def test_nothing_to_decode_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "film.m4a", "m4a aac")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", "")
    problem = (
        r"film.m4a: is mp4, which needs PyAV or ffmpeg, and neither is installed; run: pip install 'bestow-edge.media.'"
    )
    with pytest.raises(AudioError, match=problem):
        read_audio(path, RATE_HZ)
    with open_audio(io.FileIO(path), RATE_HZ, name="pipe") as audio, pytest.raises(AudioError, match="neither is"):
        audio.read()
