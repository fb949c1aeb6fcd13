"""Log-mel front-end in numpy: waveform in, log-mel frames out, whole or block by block.

It is the first stage of the flow, and the only one that training, export and runtime all run from the same code, so
that a frame is the same number everywhere.

Frame `i` is centred on sample `i * hop_samples`; it exists once `(i + 1) * hop_samples` samples do. The Hann window is
shorter than the FFT, therefore the window, not the FFT, determines how much of the future a frame needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.errors import AudioError

FRAMES_PER_TILE = 512  # frames transformed at once, bounds the memory of long recordings

STD_GUARD = 1e-5  # added to the deviation that normalisation divides by; transformers' value
PEAK_DECADES = 8.0  # dynamic range that Whisper's front-end keeps, powers of ten (80 dB)

_MEL_KNEE_HZ = 1000.0  # Slaney's scale is linear below, logarithmic above
_MEL_KNEE = 15.0
_MEL_PER_HZ = 3.0 / 200.0
_MEL_LOG_STEP = np.log(6.4) / 27.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureState:
    """State of the block-wise front-end between two blocks."""

    samples: npt.NDArray[np.float32]  # (samples,)
    """Pre-emphasised samples from the start of the next frame's window on, read-only; before `started` those of the
    waveform."""
    last_sample: float
    """Last sample of the waveform so far, before pre-emphasis."""
    num_samples: int
    """Samples fed so far."""
    num_frames: int
    """Frames emitted so far."""
    started: bool
    """Whether `samples` begins with the samples before the waveform."""


def log_mel(waveform: npt.NDArray[np.float32], config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Compute the log-mel frames of a whole waveform.

    Args:
        waveform: shape (samples,), floating point, nominally within -1 and 1.
        config: the front-end.

    Returns:
        Shape (samples // hop_samples, num_mel_bins), natural logarithm, normalised over the whole waveform if
        `config.normalize` says so.

    Raises:
        AudioError: if the waveform is not one-dimensional or not floating point.

    Source: transformers `NemotronAsrStreamingFeatureExtractor` and, with `normalize="peak"`,
        `WhisperFeatureExtractor`. Both are float32 and differ by less than 1e-4 on noise and speech; in bins 80 dB
        below a loud tone each is off by up to 1e-3 from exact arithmetic.
    """
    frames, state = feed_features(waveform, initial_feature_state(config), config)
    return normalize_frames(np.concatenate([frames, finish_features(state, config)]), config)


def level(frames: npt.NDArray[np.float32]) -> float:
    """Return how loud frames are: the median of their mean log-mel, nats; -inf for none.

    Args:
        frames: (frames, mel_bins) before any normalisation.
    """
    return float(np.median(frames.mean(axis=1))) if frames.size else -np.inf


def normalize_frames(
    frames: npt.NDArray[np.float32], config: FeatureConfig, *, loudest: float | None = None
) -> npt.NDArray[np.float32]:
    """Normalise frames that are encoded together, if `config.normalize` says so.

    Mean and deviation of `per_feature`, and the loudest bin of `peak`, are those of exactly these frames: an utterance
    in training, the window that is encoded again in a stream. So a frame's values depend on the window it is seen in.

    Args:
        frames: shape (frames, num_mel_bins), from `feed_features` and `finish_features`; real frames, no padding.
        config: the front-end.
        loudest: for `peak`, the loudest bin of all that belongs together; None for that of these frames.

    Returns:
        Shape (frames, num_mel_bins).

    Source: transformers `ParakeetFeatureExtractor`, `WhisperFeatureExtractor`. Sums are float64 here, so that digital
        silence gives exact zeros and not rounding errors over the guard; a single frame, for which there is no
        deviation, gives zeros too.
    """
    if config.normalize == "none" or not len(frames):
        return frames
    if config.normalize == "peak":
        decades = frames / np.float32(np.log(10))
        top = decades.max() if loudest is None else np.float32(loudest) / np.float32(np.log(10))
        raised: npt.NDArray[np.float32] = np.maximum(decades, top - np.float32(PEAK_DECADES))
        return (raised + np.float32(4)) / np.float32(4)
    centred = frames - frames.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt((centred**2).sum(axis=0) / max(1, len(frames) - 1))
    normalised: npt.NDArray[np.float32] = (centred / (deviation + STD_GUARD)).astype(np.float32)
    return normalised


def initial_feature_state(config: FeatureConfig) -> FeatureState:
    """Return the state before the first sample: zeros where the first window reaches before the waveform."""
    started = config.start == "zeros"
    zeros = _read_only(np.zeros(_reach_samples(config)[0] if started else 0, np.float32))
    return FeatureState(samples=zeros, last_sample=0.0, num_samples=0, num_frames=0, started=started)


def feed_features(
    samples: npt.NDArray[np.float32], state: FeatureState, config: FeatureConfig
) -> tuple[npt.NDArray[np.float32], FeatureState]:
    """Take the next block of a waveform and return each frame it completes.

    Frame `i` is returned as soon as its window is full, `window_samples / 2` samples after its centre (12.5 ms by
    default, where half an FFT would be 16 ms).

    Args:
        samples: shape (samples,), floating point; any length, also 0.
        state: from `initial_feature_state` or the call before; it is not changed.
        config: the front-end, the same in all calls.

    Returns:
        The new frames, shape (frames, num_mel_bins), frames >= 0, not normalised, and the next state. All frames of
        all calls and of `finish_features` together, passed through `normalize_frames`, equal `log_mel` of the whole
        waveform bit for bit.

    Raises:
        AudioError: if the samples are not one-dimensional or not floating point.
    """
    samples = _checked(samples)
    previous = np.concatenate([np.array([state.last_sample], np.float32), samples[:-1]])[: len(samples)]
    emphasised = samples - np.float32(config.preemphasis) * previous
    pending = np.concatenate([state.samples, emphasised])
    num_samples = state.num_samples + len(samples)
    started = state.started or num_samples > _reach_samples(config)[0]
    if started and not state.started:
        pending = _mirrored(pending, config)
    num_full = (len(pending) - config.window_samples) // config.hop_samples + 1
    # The second bound matters only where half a window is shorter than a hop.
    num_new = max(0, min(num_full, num_samples // config.hop_samples - state.num_frames)) if started else 0
    following = FeatureState(
        samples=_read_only(pending[num_new * config.hop_samples :].copy()),
        last_sample=float(samples[-1]) if len(samples) else state.last_sample,
        num_samples=num_samples,
        num_frames=state.num_frames + num_new,
        started=started,
    )
    return _frames(pending, num_new, config), following


def finish_features(state: FeatureState, config: FeatureConfig, *, further: int = 0) -> npt.NDArray[np.float32]:
    """Return the frames whose windows reach past the end of the waveform.

    Args:
        state: the state after the last block.
        config: the front-end.
        further: frames of silence that follows in any case; the first of them still hear the waveform. With 0, the
            waveform is followed by the samples that `config.end` names.

    Returns:
        Shape (frames, num_mel_bins): the last 0 to `window_samples // hop_samples` frames, and the further ones.
    """
    num_left = state.num_samples // config.hop_samples - state.num_frames + further
    behind = np.zeros(sum(_reach_samples(config)) + further * config.hop_samples, np.float32)
    if config.end == "mirrored" and not further:
        backwards = state.samples[-2::-1][: len(behind)]
        behind[: len(backwards)] = backwards
    padded = np.concatenate([state.samples, behind])
    return _frames(padded if state.started else _mirrored(padded, config), num_left, config)


@lru_cache(maxsize=8)
def mel_filters(config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Return the triangular filters that turn a power spectrum into mel bins.

    Returns:
        Shape (n_fft // 2 + 1, num_mel_bins), read-only; Slaney scale and area norm, 0 Hz to half the sample rate,
        rounded to `config.constants`.

    Source: transformers `audio_utils.mel_filter_bank` with Slaney norm and scale in float32, equal bit for bit.
    """
    bins_hz = np.linspace(0, config.sample_rate_hz // 2, config.n_fft // 2 + 1)
    corners_hz = _corners_hz(config)
    slopes = corners_hz[None, :] - bins_hz[:, None]  # (bins, mel_bins + 2)
    widths_hz = np.diff(corners_hz)
    rising = -slopes[:, :-2] / widths_hz[:-1]
    falling = slopes[:, 2:] / widths_hz[1:]
    filters: npt.NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    filters *= 2.0 / (corners_hz[2:] - corners_hz[:-2])
    return _read_only(_rounded(filters, config))


def mel_centres(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """Return the centre frequencies of the mel bins, Hz, shape (num_mel_bins,)."""
    return _corners_hz(config)[1:-1]


def _corners_hz(config: FeatureConfig) -> npt.NDArray[np.float64]:
    return _mel_to_hz(np.linspace(0.0, _hz_to_mel(config.sample_rate_hz / 2), config.num_mel_bins + 2))


@lru_cache(maxsize=8)
def hann_window(config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Return the Hann window, shape (window_samples,), read-only, rounded to `config.constants`.

    Source: torch's `hann_window`, with which encoders are trained and which `.nemo` files hold. It is computed in
    float32 and up to 2e-7 off; so is this one, to 6e-8. That shows in bins 80 dB below the loudest.
    """
    intervals = config.window_samples - (config.window == "symmetric")
    angles = np.arange(config.window_samples, dtype=np.float32) * np.float32(2 * np.pi / intervals)
    return _read_only(_rounded(np.float32(0.5) - np.float32(0.5) * np.cos(angles), config))


def _rounded(constants: npt.NDArray[np.float32], config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Round to the type that the checkpoint holds constants in."""
    if config.constants == "float32":
        return constants
    bits = constants.astype(np.float32).view(np.uint32)
    to_even = (bits >> 16 & 1) + np.uint32(0x7FFF)  # half of the last bit that is kept; a tie goes to the even number
    return (bits + to_even & np.uint32(0xFFFF0000)).view(np.float32)


def _reach_samples(config: FeatureConfig) -> tuple[int, int]:
    """Return how many samples before its centre, and from it on, a frame's window covers."""
    before = config.n_fft // 2 - (config.n_fft - config.window_samples) // 2
    return before, config.window_samples - before


def _mirrored(samples: npt.NDArray[np.float32], config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Return samples from the waveform's first on with those behind it, backwards, before it."""
    return np.concatenate([samples[_reach_samples(config)[0] : 0 : -1], samples])


def _frames(pending: npt.NDArray[np.float32], num_frames: int, config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Transform the first `num_frames` windows of pre-emphasised samples to shape (frames, num_mel_bins)."""
    if num_frames == 0:
        return np.empty((0, config.num_mel_bins), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(pending, config.window_samples)
    windows = windows[:: config.hop_samples][:num_frames]  # (frames, window_samples)
    edges = [*range(0, num_frames, FRAMES_PER_TILE), num_frames]
    return np.concatenate([_transform(windows[start:end], config) for start, end in pairwise(edges)])


def _transform(windows: npt.NDArray[np.float32], config: FeatureConfig) -> npt.NDArray[np.float32]:
    """Turn windows, shape (frames, window_samples), into log-mel frames, shape (frames, num_mel_bins).

    The window starts at the FFT's first sample instead of its middle: that changes phases, which the power drops.
    """
    spectrum = np.fft.rfft(windows * hann_window(config), n=config.n_fft)  # (frames, bins)
    power = spectrum.real**2 + spectrum.imag**2
    # One vector product per frame, not one matrix product: BLAS adds up in another order for other numbers of rows,
    # and a frame must not depend on the block it came in.
    mel: npt.NDArray[np.float32] = np.matmul(power[:, None, :], mel_filters(config))[:, 0]  # (frames, mel_bins)
    guard = np.float32(config.log_guard)
    frames: npt.NDArray[np.float32] = np.log(mel + guard if config.guard == "added" else np.maximum(mel, guard))
    return frames


def _hz_to_mel(hz: float) -> float:
    if hz < _MEL_KNEE_HZ:
        return _MEL_PER_HZ * hz
    return float(_MEL_KNEE + np.log(hz / _MEL_KNEE_HZ) * (27.0 / np.log(6.4)))


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = 200.0 * mel / 3.0  # not mel / _MEL_PER_HZ, which rounds differently from upstream
    return np.where(mel >= _MEL_KNEE, _MEL_KNEE_HZ * np.exp(_MEL_LOG_STEP * (mel - _MEL_KNEE)), linear)


def _checked(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if samples.ndim != 1:
        raise AudioError(f"waveform: expected shape (samples,), got {samples.shape}; average the channels first")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"waveform: expected floating-point samples within -1 and 1, got {samples.dtype}; "
            "divide integer samples by their full scale, 32768 for int16"
        )
    return samples.astype(np.float32, copy=False)


def _read_only(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    array.flags.writeable = False
    return array
