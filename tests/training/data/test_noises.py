"""Sounds that are not speech: levels, lengths, and what tells one kind from the other."""

import numpy as np
import pytest

from bestow_edge.training.data.noises import clatter, coloured, melody, sound

RATE_HZ = 16_000


@pytest.mark.parametrize("count", [1, 1600, 48_000])
@pytest.mark.parametrize("recorded", [False, True])
def test_every_kind_has_the_level_of_one(count: int, recorded: bool) -> None:
    recordings = [np.sin(np.arange(999)).astype(np.float32)] if recorded else []
    for seed in range(12):
        drawn = sound(count, np.random.default_rng(seed), recordings, RATE_HZ)
        assert (drawn.shape, drawn.dtype) == ((count,), np.float32)
        assert np.isfinite(drawn).all()
        rms = np.sqrt(np.mean(drawn**2))
        assert rms == pytest.approx(1, abs=1e-3) or not drawn.any()  # a blow or a note may miss so short a cut


def test_the_generator_decides_everything() -> None:
    first, again, other = (sound(8000, np.random.default_rng(seed), [], RATE_HZ) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)


def peak_db(samples: np.ndarray) -> float:
    """Return how far the strongest tone stands out of its neighbourhood of 200 Hz."""
    power = np.abs(np.fft.rfft(samples * np.hanning(samples.size))) ** 2 + 1e-12
    top = 100 + int(power[100:-100].argmax())
    around = round(100 * samples.size / RATE_HZ)
    return float(10 * np.log10(power[top] / np.median(power[max(0, top - around) : top + around])))


def test_melodies_are_tones_and_clatter_comes_in_blows() -> None:
    rng = np.random.default_rng(0)
    tones, hisses = zip(
        *((peak_db(melody(32_000, rng, RATE_HZ)), peak_db(coloured(32_000, rng))) for _ in range(8)), strict=True
    )
    assert min(tones) > max(hisses) + 5
    loud = [np.abs(clatter(32_000, np.random.default_rng(seed), RATE_HZ)) for seed in range(20)]
    assert np.mean([np.mean(blows > 0.1 * blows.max()) for blows in loud if blows.any()]) < 0.3
