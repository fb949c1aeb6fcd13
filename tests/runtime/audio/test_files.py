"""Files of every container and sample format, channel mixing, resampling, and the error messages."""

import io
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.errors import AudioError, MissingExtraError, SessionError
from bestow_edge.runtime.audio.files import blocks, read_audio
from bestow_edge.runtime.audio.resampling import StreamResampler

soundfile = pytest.importorskip("soundfile")
soxr = pytest.importorskip("soxr")

RATE_HZ = 16_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 4_000).astype(np.float32)


def tone(rate_hz: int, seconds: float = 1.0, hz: float = 440.0) -> npt.NDArray[np.float32]:
    """Return a sine of half the full scale, shape (samples,)."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate_hz * seconds)) / rate_hz)).astype(np.float32)


# --- formats ---


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 2**-7),
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "PCM_32", 2**-24),
        ("wav", "FLOAT", 0.0),
        ("wav", "DOUBLE", 0.0),
        ("flac", "PCM_16", 2**-15),
        ("flac", "PCM_24", 2**-23),
    ],
)
def test_lossless_formats(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, NOISE, RATE_HZ, subtype=subtype)
    waveform = read_audio(path, RATE_HZ)
    assert waveform.dtype == np.float32
    assert waveform.shape == NOISE.shape
    np.testing.assert_allclose(waveform, NOISE, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")])
def test_lossy_formats(tmp_path: Path, suffix: str, subtype: str) -> None:
    path, expected = tmp_path / f"tone.{suffix}", tone(RATE_HZ)
    soundfile.write(path, expected, RATE_HZ, format=suffix.upper(), subtype=subtype)
    waveform = read_audio(path, RATE_HZ)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - len(expected)) <= 2_400  # coders pad to whole blocks
    spectrum = np.abs(np.fft.rfft(waveform[4_000:12_000]))
    assert np.argmax(spectrum) == 220  # 440 Hz in half a second
    assert np.std(waveform[4_000:12_000]) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([NOISE, np.zeros_like(NOISE)], axis=1), RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, RATE_HZ), NOISE / 2)


def test_silence_is_audio(tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(1_000), RATE_HZ)
    np.testing.assert_array_equal(read_audio(str(path), RATE_HZ), np.zeros(1_000, np.float32))


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_files_are_resampled(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate_hz), rate_hz, subtype="FLOAT")
    waveform = read_audio(path, RATE_HZ)
    assert len(waveform) == RATE_HZ
    np.testing.assert_allclose(waveform[1_000:-1_000], tone(RATE_HZ)[1_000:-1_000], rtol=0, atol=1e-4)


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_flac.wav"
    soundfile.write(path, NOISE, RATE_HZ, format="FLAC", subtype="PCM_24")
    assert read_audio(path, RATE_HZ).shape == NOISE.shape


# --- file errors ---


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: no such file; expected an audio file; check the path"):
        read_audio(tmp_path / "gone.wav", RATE_HZ)


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a directory, expected an audio file; name one file in it"):
        read_audio(tmp_path, RATE_HZ)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty\.wav: is empty \(0 bytes\), expected audio; record"):
        read_audio(tmp_path / "empty.wav", RATE_HZ)


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "header.wav", np.zeros(0), RATE_HZ)
    with pytest.raises(AudioError, match=r"header\.wav: has no samples, expected at least one; record"):
        read_audio(tmp_path / "header.wav", RATE_HZ)


@pytest.mark.parametrize("name", ["notes.txt", "notes.wav", "notes.raw", "notes.mp3", "notes"])
def test_not_audio(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is a text about audio, not audio\n" * 50)
    with pytest.raises(AudioError, match=r"cannot be read as audio \(.+\); expected wav, flac, ogg or mp3; convert it"):
        read_audio(tmp_path / name, RATE_HZ)


def test_damaged_header(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, NOISE, RATE_HZ)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(AudioError, match=r"cut\.wav: "):
        read_audio(path, RATE_HZ)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    samples = NOISE.copy()
    samples[[1_600, 2_000]] = bad
    soundfile.write(tmp_path / "bad.wav", samples, RATE_HZ, subtype="FLOAT")
    expected = r"bad\.wav: the sample at 0\.100 s is NaN or infinite; expected finite samples; export it again"
    with pytest.raises(AudioError, match=expected):
        read_audio(tmp_path / "bad.wav", RATE_HZ)


def test_soundfile_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r"soundfile is not installed; run: pip install 'bestow-edge'$"):
        read_audio(tmp_path / "a.wav", RATE_HZ)


# --- resampling ---


@given(
    sizes=st.lists(st.integers(0, 700), min_size=1, max_size=8).filter(any),
    rates_hz=st.sampled_from([(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (16_000, 16_000)]),
)
def test_blocks_do_not_change_the_result(sizes: list[int], rates_hz: tuple[int, int]) -> None:
    resampler = StreamResampler(*rates_hz)
    parts, start, turn = [], 0, 0
    while start < len(NOISE):
        parts.append(resampler.feed(NOISE[start : start + sizes[turn % len(sizes)]]))
        start += sizes[turn % len(sizes)]
        turn += 1
    whole = soxr.resample(NOISE, *rates_hz, quality="HQ")
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.finish()]), whole)


def test_equal_rates_pass_samples_through_without_soxr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    resampler = StreamResampler(RATE_HZ, RATE_HZ)
    np.testing.assert_array_equal(resampler.feed(NOISE), NOISE)
    assert resampler.finish().shape == (0,)


def test_result_is_float32_mono_even_when_empty() -> None:
    resampler = StreamResampler(48_000, RATE_HZ)
    for samples in (resampler.feed(np.empty(0, np.float32)), resampler.feed(NOISE[::2]), resampler.finish()):
        assert samples.dtype == np.float32
        assert samples.ndim == 1


@pytest.mark.parametrize("rates_hz", [(0, 16_000), (16_000, -1), (3_999, 16_000), (16_000, 768_001)])
def test_rates_that_no_recording_has(rates_hz: tuple[int, int]) -> None:
    with pytest.raises(AudioError, match=r"sampling rate of \S+ Hz, expected 4000 to 768000 Hz; its header is damaged"):
        StreamResampler(*rates_hz)


def test_soxr_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingExtraError, match=r"soxr is not installed; run: pip install 'bestow-edge'$"):
        StreamResampler(48_000, RATE_HZ)


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 48_000])
def test_finished_resampler(rate_hz: int) -> None:
    resampler = StreamResampler(rate_hz, RATE_HZ)
    resampler.finish()
    for use in (resampler.finish, lambda: resampler.feed(NOISE)):
        with pytest.raises(SessionError, match="the stream was finished; start a new StreamResampler"):
            use()


# --- blocks ---


@given(num_samples=st.integers(0, 500), block_samples=st.integers(1, 600))
def test_blocks_are_the_waveform_cut(num_samples: int, block_samples: int) -> None:
    cut = list(blocks(NOISE[:num_samples], block_samples))
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.float32), *cut]), NOISE[:num_samples])
    assert all(len(block) == block_samples for block in cut[:-1])
    assert all(len(block) > 0 for block in cut)


def test_blocks_need_a_size() -> None:
    with pytest.raises(AudioError, match="expected at least 1 sample per block, got 0"):
        blocks(NOISE, 0)


def test_a_header_that_points_before_the_first_byte_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    content = io.BytesIO()
    soundfile.write(content, NOISE, RATE_HZ, format="AIFF")
    with pytest.raises(AudioError, match="bytes: cannot be read as audio"):
        read_audio(io.BytesIO(content.getvalue()[:29]), RATE_HZ)
    assert capfd.readouterr().err == ""
