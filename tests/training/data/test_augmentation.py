"""Changes made to training audio: shapes, ranges, and nothing but the generator decides."""

import numpy as np
import pytest

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.features import log_mel, mel_centres
from bestow_edge.training.data.augmentation import augment, change_speed, mask_features, scaled, warp_features
from bestow_edge.training.recipe.data import AugmentRecipe

RATE_HZ = 16000
FULL = AugmentRecipe(speed=0.2, narrow=1.0, room=1.0, filter=1.0, noise=1.0, gain_db=20.0, mask_bins=10, mask_frames=12)
NONE = AugmentRecipe()


@pytest.mark.parametrize("num_samples", [1, 160, 4096, 20000])
@pytest.mark.parametrize("with_noises", [False, True])
def test_audio_keeps_its_shape_and_range(speech: np.ndarray, num_samples: int, with_noises: bool) -> None:
    noises = [np.ones(100, dtype=np.float32), speech[:999]] if with_noises else []
    for seed in range(10):
        out = augment(10 * speech[:num_samples], np.random.default_rng(seed), FULL, noises, RATE_HZ)
        assert out.shape == (num_samples,)
        assert out.dtype == np.float32
        assert np.abs(out).max() <= 1
        assert np.isfinite(out).all()


def test_the_generator_decides_everything(speech: np.ndarray) -> None:
    before = speech.copy()
    outs = [augment(speech, np.random.default_rng(seed), FULL, [speech], RATE_HZ) for seed in (1, 1, 2)]
    assert np.array_equal(outs[0], outs[1])
    assert not np.allclose(outs[0], outs[2], atol=1e-3)
    assert np.array_equal(speech, before)


def test_a_recipe_of_zeros_changes_nothing(speech: np.ndarray) -> None:
    assert np.array_equal(augment(speech, np.random.default_rng(0), NONE, [], RATE_HZ), speech)
    mel = np.random.default_rng(0).standard_normal((50, 80)).astype(np.float32)
    assert np.array_equal(mask_features(mel, np.random.default_rng(0), NONE), mel)


def test_silence_gets_noise() -> None:
    recipe = AugmentRecipe(noise=1.0)
    out = augment(np.zeros(16000, dtype=np.float32), np.random.default_rng(0), recipe, [], RATE_HZ)
    assert 1e-5 < np.abs(out).max() < 0.1


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    out = change_speed(tone, factor, RATE_HZ)
    assert out.dtype == np.float32
    assert abs(out.size - RATE_HZ / factor) <= 2
    spectrum = np.abs(np.fft.rfft(out * np.hanning(out.size)))
    assert spectrum.argmax() * RATE_HZ / out.size == pytest.approx(500 * factor, abs=3)


def tone(hz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)


def test_a_narrow_band_keeps_what_lies_below_4_khz_only() -> None:
    recipe = AugmentRecipe(narrow=1.0)
    low, high = (augment(tone(hz), np.random.default_rng(0), recipe, [], RATE_HZ) for hz in (1000, 5000))
    assert low.shape == high.shape == (RATE_HZ,)
    np.testing.assert_allclose(low[2000:-2000], tone(1000)[2000:-2000], atol=0.01)
    assert np.abs(high[2000:-2000]).max() < 0.01


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
@pytest.mark.parametrize("hz", [700.0, 2500.0])
def test_a_warp_moves_a_tone_in_the_features_alone(hz: float, factor: float) -> None:
    config = FeatureConfig()
    mel = log_mel(tone(hz), config)
    warped = warp_features(mel, factor, config)
    assert warped.shape == mel.shape
    assert warped.dtype == np.float32
    centres = mel_centres(config)
    assert centres[warped[50].argmax()] == pytest.approx(hz * factor, rel=0.06)  # a bin is 3 to 5 % wide
    if factor == 1.0:
        np.testing.assert_allclose(warped, mel, atol=1e-5)


@pytest.mark.parametrize("frames", [0, 1, 5, 300])
def test_masks_are_no_wider_than_they_may_be(frames: int) -> None:
    mel = np.random.default_rng(0).standard_normal((frames, 80)).astype(np.float32)
    for seed in range(20):
        out = mask_features(mel, np.random.default_rng(seed), FULL)
        assert out.shape == mel.shape
        changed = out != mel
        assert changed.all(axis=0).sum() <= 20 or frames < 25
        assert changed.all(axis=1).sum() <= 24


def test_strength_scales_everything() -> None:
    half = scaled(FULL, 0.5)
    assert (half.speed, half.room, half.filter, half.noise, half.gain_db) == (0.1, 0.5, 0.5, 0.5, 10.0)
    assert (half.mask_bins, half.mask_frames) == (5, 6)
    assert scaled(FULL, 0.0) == NONE
    assert scaled(FULL, 1.0) == FULL
