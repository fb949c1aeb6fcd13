"""Log-mel front-end: parity with transformers, equality of whole and block-wise output, timing, error messages."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import AudioError
from bestow_edge.core.features import (
    FRAMES_PER_TILE,
    FeatureState,
    feed_features,
    finish_features,
    initial_feature_state,
    log_mel,
    mel_filters,
    normalize_frames,
)

DEFAULT = FeatureConfig()
PER_FEATURE = FeatureConfig(normalize="per_feature")
CONFIGS = {
    "80 bins": DEFAULT,
    "128 bins": FeatureConfig(num_mel_bins=128),
    "8 kHz": FeatureConfig(sample_rate_hz=8_000, n_fft=256, window_samples=200, hop_samples=80, num_mel_bins=40),
    "odd window": FeatureConfig(window_samples=401),
    "window is FFT": FeatureConfig(window_samples=512),
    "window is hop": FeatureConfig(window_samples=160),
    "no pre-emphasis": FeatureConfig(preemphasis=0.0),
}
# 16-bit steps, so that the waveform survives any container, and of a size that spans several FFT windows
NOISE = (np.round(np.random.default_rng(0).normal(0, 0.1, 8_000) * 32_767) / 32_768).astype(np.float32)


def speech_like(num_samples: int, sample_rate_hz: int = 16_000) -> npt.NDArray[np.float32]:
    """Return a gliding harmonic tone with pauses over faint noise, shape (samples,)."""
    time_s = np.arange(num_samples) / sample_rate_hz
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * time_s)) / sample_rate_hz
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 3 * time_s), 0, None)
    noise = np.random.default_rng(1).normal(0, 0.002, num_samples)
    return (0.2 * voice * syllables + noise).astype(np.float32)


def streamed(
    waveform: npt.NDArray[np.float32], sizes: list[int], config: FeatureConfig = DEFAULT
) -> npt.NDArray[np.float32]:
    """Return the frames of a waveform fed in blocks of `sizes`, which are repeated until it ends."""
    state = initial_feature_state(config)
    frames, start, turn = [], 0, 0
    while start < len(waveform):
        new, state = feed_features(waveform[start : start + sizes[turn % len(sizes)]], state, config)
        frames.append(new)
        start += sizes[turn % len(sizes)]
        turn += 1
    return np.concatenate([*frames, finish_features(state, config)])


def exact_mel(waveform: npt.NDArray[np.float32], config: FeatureConfig) -> npt.NDArray[np.float64]:
    """Return mel power in float64, frame by frame as the formula says, shape (frames, num_mel_bins)."""
    emphasised = waveform.astype(np.float64)
    emphasised[1:] -= config.preemphasis * waveform[:-1].astype(np.float64)
    padded = np.pad(emphasised, config.n_fft // 2)
    window = np.zeros(config.n_fft)
    start = (config.n_fft - config.window_samples) // 2
    window[start : start + config.window_samples] = np.hanning(config.window_samples)
    power = [
        np.abs(np.fft.rfft(padded[first : first + config.n_fft] * window)) ** 2
        for first in range(0, len(waveform) // config.hop_samples * config.hop_samples, config.hop_samples)
    ]
    return np.array(power) @ mel_filters(config).astype(np.float64)


# --- parity ---


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("waveform", [NOISE, speech_like(16_000)], ids=["noise", "speech-like"])
def test_equals_formula_in_float64(waveform: npt.NDArray[np.float32], config: FeatureConfig) -> None:
    exact = np.log(exact_mel(waveform, config) + config.log_guard)
    np.testing.assert_allclose(log_mel(waveform, config), exact, rtol=0, atol=1e-4)  # float32 rounding


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_mel_filters_equal_transformers(num_mel_bins: int) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    expected = audio_utils.mel_filter_bank(
        257, num_mel_bins, 0.0, 8_000.0, 16_000, norm="slaney", mel_scale="slaney", dtype=np.float32
    )
    filters = mel_filters(FeatureConfig(num_mel_bins=num_mel_bins))
    assert filters.dtype == np.float32
    np.testing.assert_array_equal(filters, expected)


WHISPER = FeatureConfig(
    n_fft=400, window="periodic", preemphasis=0.0, start="mirrored", log_guard=1e-10, guard="least", normalize="peak"
)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize(
    "waveform",
    [NOISE, NOISE[:7_999], NOISE[:320], NOISE[:170], speech_like(64_000), np.zeros(3_200, np.float32)],
    ids=["noise", "ragged", "two frames", "shorter than a window", "long", "silence"],
)
def test_peak_equals_whisper(waveform: npt.NDArray[np.float32], num_mel_bins: int) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=num_mel_bins)
    expected = extractor(waveform, sampling_rate=16_000, return_tensors="np")["input_features"][0].T
    config = replace(WHISPER, num_mel_bins=num_mel_bins)
    padded = np.zeros(480_000, np.float32)
    padded[: len(waveform)] = waveform
    np.testing.assert_allclose(log_mel(padded, config), expected, rtol=0, atol=1e-4)
    frames = log_mel(waveform, config)  # the silence behind is never the loudest
    np.testing.assert_allclose(frames, expected[: len(frames)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sizes", [[1], [160], [199, 1, 1], [5_000]], ids=str)
@pytest.mark.parametrize("num_samples", [0, 159, 170, 200, 201, 2_000])
def test_blocks_of_a_mirrored_start(num_samples: int, sizes: list[int]) -> None:
    frames = streamed(NOISE[:num_samples], sizes, WHISPER)
    np.testing.assert_array_equal(normalize_frames(frames, WHISPER), log_mel(NOISE[:num_samples], WHISPER))


def transformers_log_mel(waveform: npt.NDArray[np.float32], config: FeatureConfig) -> npt.NDArray[np.float32]:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    extractor = transformers.NemotronAsrStreamingFeatureExtractor(
        feature_size=config.num_mel_bins,
        sampling_rate=config.sample_rate_hz,
        hop_length=config.hop_samples,
        n_fft=config.n_fft,
        win_length=config.window_samples,
        preemphasis=config.preemphasis,
    )
    features = extractor(waveform, sampling_rate=config.sample_rate_hz, return_tensors="np")
    return np.asarray(features["input_features"])[0, : int(features["attention_mask"].sum())]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    "waveform",
    [NOISE, NOISE[:7_999], speech_like(16_000), NOISE * np.float32(1e-4), np.zeros(3_200, np.float32)],
    ids=["noise", "ragged", "speech-like", "faint", "silence"],
)
def test_equals_transformers(waveform: npt.NDArray[np.float32], config: FeatureConfig) -> None:
    expected = transformers_log_mel(waveform, config)
    frames = log_mel(waveform, config)
    assert frames.shape == expected.shape
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize(
    "waveform",
    [NOISE, NOISE[:7_999], NOISE[:320], speech_like(16_000), speech_like(64_000)],
    ids=["noise", "ragged", "two frames", "speech-like", "long"],
)
def test_per_feature_equals_transformers(waveform: npt.NDArray[np.float32], num_mel_bins: int) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    extractor = transformers.ParakeetFeatureExtractor(feature_size=num_mel_bins)
    features = extractor(waveform, sampling_rate=16_000, return_tensors="np")
    expected = np.asarray(features["input_features"])[0, : int(features["attention_mask"].sum())]
    frames = log_mel(waveform, FeatureConfig(normalize="per_feature", num_mel_bins=num_mel_bins))
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-4)


def test_per_feature_gives_each_bin_zero_mean_and_unit_variance() -> None:
    frames = log_mel(speech_like(16_000), PER_FEATURE)
    np.testing.assert_allclose(frames.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(frames.std(axis=0, ddof=1, dtype=np.float64), 1, atol=1e-4)


def test_per_feature_without_any_change_gives_zeros() -> None:
    assert not log_mel(np.zeros(16_000, np.float32), PER_FEATURE).any()
    assert not log_mel(NOISE[:160], PER_FEATURE).any()  # one frame has no deviation
    assert log_mel(NOISE[:159], PER_FEATURE).shape == (0, 80)


def test_frames_that_come_block_by_block_are_normalised_by_the_caller() -> None:
    np.testing.assert_array_equal(streamed(NOISE, [777]), log_mel(NOISE, DEFAULT))
    frames, state = feed_features(NOISE, initial_feature_state(PER_FEATURE), PER_FEATURE)
    frames = np.concatenate([frames, finish_features(state, PER_FEATURE)])
    np.testing.assert_array_equal(frames, log_mel(NOISE, DEFAULT))
    np.testing.assert_array_equal(normalize_frames(frames, PER_FEATURE), log_mel(NOISE, PER_FEATURE))
    assert normalize_frames(frames, DEFAULT) is frames


@pytest.mark.parametrize("hz", [100, 440, 3_000])
def test_loud_tones_equal_transformers_in_power(hz: int) -> None:
    """In bins far below a tone float32 rounding dominates, in both; there the power is compared, not its logarithm."""
    waveform = np.sin(2 * np.pi * hz * np.arange(8_000) / 16_000).astype(np.float32)
    expected = np.exp(transformers_log_mel(waveform, DEFAULT))
    scale = expected.max(axis=1, keepdims=True)
    assert np.max(np.abs(np.exp(log_mel(waveform, DEFAULT)) - expected) / scale) < 2e-6


# --- whole and block-wise ---


@given(
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=12).filter(any),
    num_samples=st.integers(0, 4_000),
    name=st.sampled_from(sorted(CONFIGS)),
)
def test_any_blocks_equal_the_whole_bit_for_bit(sizes: list[int], num_samples: int, name: str) -> None:
    config, waveform = CONFIGS[name], NOISE[:num_samples]
    frames = streamed(waveform, sizes, config)
    assert frames.shape == (num_samples // config.hop_samples, config.num_mel_bins)
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, log_mel(waveform, config))


@pytest.mark.parametrize("size", [1, 160, 1_280])
def test_common_blocks_equal_the_whole_bit_for_bit(size: int) -> None:
    np.testing.assert_array_equal(streamed(NOISE, [size]), log_mel(NOISE, DEFAULT))


def test_long_waveform_is_cut_into_equal_tiles() -> None:
    waveform = speech_like((2 * FRAMES_PER_TILE + 3) * 160)
    np.testing.assert_array_equal(log_mel(waveform, DEFAULT), streamed(waveform, [1_280]))


@pytest.mark.parametrize("num_samples", [0, 1, 159])
def test_less_than_a_hop_has_no_frames(num_samples: int) -> None:
    assert log_mel(NOISE[:num_samples], DEFAULT).shape == (0, 80)
    assert streamed(NOISE[:num_samples], [7]).shape == (0, 80)


@pytest.mark.parametrize("frame", [0, 1, 7])
def test_frame_comes_with_the_last_sample_of_its_window(frame: int) -> None:
    needed = frame * 160 + 200  # centre and half a window
    early, state = feed_features(NOISE[: needed - 1], initial_feature_state(DEFAULT), DEFAULT)
    assert len(early) == frame
    (new,), _ = feed_features(NOISE[needed - 1 : needed], state, DEFAULT)
    np.testing.assert_array_equal(new, log_mel(NOISE, DEFAULT)[frame])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_later_audio_never_changes_a_frame(config: FeatureConfig) -> None:
    state = initial_feature_state(config)
    frames, _ = feed_features(NOISE[:2_000], state, config)
    other = np.concatenate([NOISE[:2_000], -NOISE[2_000:]])
    np.testing.assert_array_equal(frames, log_mel(other, config)[: len(frames)])


def test_state_is_not_changed_and_can_be_used_again() -> None:
    _, state = feed_features(NOISE[:1_000], initial_feature_state(DEFAULT), DEFAULT)
    first, after_first = feed_features(NOISE[1_000:2_000], state, DEFAULT)
    feed_features(-NOISE, state, DEFAULT)
    finish_features(state, DEFAULT)
    again, after_again = feed_features(NOISE[1_000:2_000], state, DEFAULT)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(after_first.samples, after_again.samples)
    assert isinstance(state, FeatureState)
    with pytest.raises(ValueError, match="read-only"):
        state.samples[0] = 1


def test_state_does_not_grow() -> None:
    state = initial_feature_state(DEFAULT)
    for _ in range(20):
        _, state = feed_features(NOISE, state, DEFAULT)
        assert len(state.samples) < 400
        assert state.samples.base is None  # a copy, not a view that keeps the block alive


def test_input_is_not_changed() -> None:
    waveform = NOISE.copy()
    log_mel(waveform, DEFAULT)
    np.testing.assert_array_equal(waveform, NOISE)


def test_silent_frames_hold_the_guard() -> None:
    assert np.unique(log_mel(np.zeros(1_600, np.float32), DEFAULT)) == np.log(np.float32(2.0**-24))


def test_constants_are_shared_and_read_only() -> None:
    assert mel_filters(DEFAULT) is mel_filters(FeatureConfig())
    with pytest.raises(ValueError, match="read-only"):
        mel_filters(DEFAULT)[0, 0] = 1


# --- messages ---


def test_two_dimensions_are_refused() -> None:
    with pytest.raises(AudioError, match=r"expected shape \(samples,\), got \(2, 1600\); average the channels"):
        log_mel(np.zeros((2, 1_600), np.float32), DEFAULT)


def test_integers_are_refused() -> None:
    with pytest.raises(AudioError, match=r"expected floating-point samples .* got int16; divide"):
        log_mel(np.zeros(1_600, np.int16), DEFAULT)


def test_float64_is_taken_as_float32() -> None:
    np.testing.assert_array_equal(log_mel(NOISE.astype(np.float64), DEFAULT), log_mel(NOISE, DEFAULT))
