"""Live sound from a microphone, through PortAudio: float32 mono blocks at the model's rate.

A thread reads the device and puts blocks into a bounded queue. PortAudio is loaded at the first use of a device.

The reads block: PortAudio's callback runs on a thread where Python must not be late, and some virtual devices call it
without pacing. If the consumer is too slow, the queue fills, then PortAudio's buffer; PortAudio reports lost samples,
which `num_overflows` counts. (PulseAudio keeps a backlog of its own and reports no loss.)
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioDeviceError, MissingExtraError, SessionError
from bestow_edge.runtime.audio.pulse import chosen_source, monitors
from bestow_edge.runtime.audio.resampling import StreamResampler
from bestow_edge.runtime.audio.samples import Mixer

BLOCK_MS = 80  # one encoder step
BUFFER_S = 0.2  # PortAudio's own "high" latency of 35 ms overflows whenever Python is that late
FALLBACK_RATES_HZ = (48_000, 44_100, 32_000, 16_000)
POLL_S = 0.1  # interval at which a waiting thread checks for its end
STALL_S = 5.0  # a device without samples for so long has failed
WAIT_S = 0.5  # interval at which a device that is not there is looked for
STOP_S = 1.0  # longest wait for a read to end

logger = logging.getLogger(__name__)


InputStream = Any  # `sounddevice.RawInputStream`, which has no types
Opened = tuple[InputStream, int, StreamResampler]
"""A stream of a device, its channels, and what brings its samples to the model's rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """An input device as PortAudio lists it."""

    index: int
    """PortAudio's number, valid until devices are added or removed."""
    name: str
    """The device's name; several host APIs may list the same one."""
    host_api: str
    """Host API of PortAudio, such as `ALSA`."""
    channels: int
    """Most input channels it offers."""
    default_rate_hz: int
    """Its default sampling rate."""
    is_default: bool
    """Whether it is the default input device."""
    source: str = ""
    """Source of PulseAudio or PipeWire that the device `index` opens; only of monitors, which have no number."""

    def __str__(self) -> str:
        """Return index, name and host API, as error messages list them."""
        return f"{self.name} ({self.host_api})" if self.source else f"{self.index}: {self.name} ({self.host_api})"


def list_devices() -> list[Device]:
    """Return all input devices in PortAudio's order, then the monitors of Linux; an empty list if there are none.

    Raises:
        AudioDeviceError: if the PortAudio library is missing.
        MissingExtraError: if sounddevice is not installed.
    """
    portaudio = _portaudio()
    host_apis = portaudio.query_hostapis()
    default = portaudio.default.device[0]
    devices = [
        Device(
            index=device["index"],
            name=device["name"],
            host_api=host_apis[device["hostapi"]]["name"],
            channels=device["max_input_channels"],
            default_rate_hz=round(device["default_samplerate"]),
            is_default=device["index"] == default,
        )
        for device in portaudio.query_devices()
        if device["max_input_channels"] > 0
    ]
    return devices + monitors(devices)


def find_device(device: str | int | None = None) -> Device:
    """Return the input device with an index, a name or a unique part of a name; None means the default.

    Raises:
        AudioDeviceError: if no device fits, or several do; the message lists all devices.
        MissingExtraError: if sounddevice is not installed.
    """
    devices = list_devices()
    if not devices:
        raise AudioDeviceError(
            "no microphone: PortAudio lists no input device; connect one and check that this user may record"
        )
    matches = _matches(devices, device)
    if len(matches) == 1:
        return matches[0]
    wanted = "the default input device" if device is None else f"input device {device!r}"
    problem = "several fit" if matches else "there is none"
    listed = "; ".join(str(known) for known in devices)
    raise AudioDeviceError(f"microphone: {problem} for {wanted}; give the index or name of one of: {listed}")


class Microphone:
    """Records during its `with` block; iterating yields the recorded blocks in order and without gaps.

    A block is float32 of shape (samples,), never empty, usually 80 ms long. To end without a loss, call `stop` from any
    thread or from a signal handler and continue to iterate: the iteration ends after the last recorded sample.
    """

    def __init__(
        self,
        device: str | int | None = None,
        *,
        sample_rate_hz: int = 16_000,
        device_rate_hz: int | None = None,
        seconds: float | None = None,
        queue_blocks: int = 64,
        wait: bool = False,
    ) -> None:
        """Choose a device; the `with` block opens it.

        Args:
            device: index, name or part of a name as in `list_devices`; None is the default device.
            sample_rate_hz: rate of the blocks.
            device_rate_hz: rate at which to open the device; None takes its default rate or, if that is refused, the
                first rate of `FALLBACK_RATES_HZ` that it accepts.
            seconds: length of the audio after which the iteration ends; None sets no limit.
            queue_blocks: blocks of 80 ms that wait for a slow consumer.
            wait: wait for a device that is not there yet or was unplugged, instead of raising an error; the blocks go
                on without the time between. Other streams of PortAudio in the program end when it looks for devices.
        """
        self.num_overflows = 0
        """Reads before which PortAudio had lost samples, because its buffer was full."""
        self.num_dropped_blocks = 0
        """Recorded blocks that were not read before the end of the `with` block."""
        self._wanted = device
        self._sample_rate_hz = sample_rate_hz
        self._wanted_rate_hz = device_rate_hz
        self._samples_left = None if seconds is None else round(seconds * sample_rate_hz)
        self._queue: queue.Queue[npt.NDArray[np.float32] | AudioDeviceError | None] = queue.Queue(queue_blocks)
        self._thread: threading.Thread | None = None
        # Plain flags, not Events: `stop` must be safe in a signal handler, which an Event's lock is not.
        self._stopping = False
        self._closed = False
        self._ended = False
        self._waits, self._absent = wait, False

    def __enter__(self) -> Microphone:
        """Open the device and start recording.

        Raises:
            AudioDeviceError: if there is no such device, or it cannot be opened; not with `wait`.
            MissingExtraError: if sounddevice is not installed, or soxr is not and the device has another rate.
            SessionError: if the microphone was opened before.
        """
        if self._thread is not None:
            raise SessionError("microphone: was opened before; make a new Microphone for each recording")
        try:
            opened: Opened | None = self._open_device()
        except AudioDeviceError as error:
            if not self._waits:
                raise
            logger.warning("%s; waiting for it", error)
            opened = self._open_when_there()
        if opened is None:
            raise SessionError("microphone: was stopped while it waited for a device")
        self._thread = threading.Thread(target=self._record, args=(opened,), name="microphone", daemon=True)
        self._thread.start()
        return self

    def _open_device(self) -> Opened:
        """Find the device and begin to record."""
        self.device = find_device(self._wanted)
        self.device_rate_hz, channels = self._supported_settings()
        resampler = StreamResampler(self.device_rate_hz, self._sample_rate_hz)
        return self._open(channels), channels, resampler

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop recording and close the device; blocks that were not read count as dropped."""
        self._stopping = self._closed = self._ended = True
        if self._thread is None:
            return
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            logger.warning("microphone %s: does not answer; its reading thread is left behind", self.device)
        with contextlib.suppress(queue.Empty):
            while True:
                self.num_dropped_blocks += isinstance(self._queue.get_nowait(), np.ndarray)

    @property
    def waiting_s(self) -> float:
        """Seconds of recorded audio that wait to be read, in whole blocks."""
        return self._queue.qsize() * BLOCK_MS / 1000

    def stop(self) -> None:
        """Stop recording; the blocks recorded so far can still be read."""
        self._stopping = True

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Return itself: a second loop continues where the first one stopped."""
        return self

    def __next__(self) -> npt.NDArray[np.float32]:
        """Wait for the next block, shape (samples,), and return it.

        Raises:
            AudioDeviceError: if the device was removed or delivers no samples; the blocks before come first.
            SessionError: if the microphone was not opened.
        """
        if self._thread is None:
            raise SessionError("microphone: is not open; iterate inside `with Microphone() as microphone:`")
        if self._ended:
            raise StopIteration
        item = self._take()
        if isinstance(item, np.ndarray):
            return item
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def _take(self) -> npt.NDArray[np.float32] | AudioDeviceError | None:
        """Wait for the next item, in small steps so that Ctrl-C works on every platform."""
        start_s = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=POLL_S)
            waited_s = time.monotonic() - start_s
            if self._stopping and waited_s > STOP_S:
                logger.warning("microphone %s: did not answer when it was stopped", self.device)
                return None
            if self._absent:
                start_s = time.monotonic()
            elif waited_s > STALL_S:
                return AudioDeviceError(
                    f"microphone {self.device}: delivered no samples for {STALL_S:.0f} s; check that it is connected, "
                    "not suspended and not in use by another program"
                )

    def _supported_settings(self) -> tuple[int, int]:
        """Return the first rate in Hz and number of channels that the device takes."""
        portaudio = _portaudio()
        own_hz = self._wanted_rate_hz or self.device.default_rate_hz
        rates_hz = dict.fromkeys([own_hz] if self._wanted_rate_hz else [own_hz, *FALLBACK_RATES_HZ])
        refusals = []
        for rate_hz in rates_hz:
            # Some hardware has stereo only, and arrays of microphones all of their channels only.
            for channels in dict.fromkeys([1, min(2, self.device.channels), self.device.channels]):
                try:
                    portaudio.check_input_settings(self.device.index, channels, "int16", samplerate=rate_hz)
                except portaudio.PortAudioError as error:
                    refusals.append(error)
                    continue
                if rate_hz != own_hz:
                    logger.warning("microphone %s: refused %d Hz, opened at %d Hz", self.device, own_hz, rate_hz)
                return rate_hz, channels
        raise self._cannot_open(f"at {', '.join(map(str, rates_hz))} Hz", refusals[0]) from refusals[0]

    def _open(self, channels: int) -> InputStream:
        portaudio = _portaudio()
        try:
            with chosen_source(self.device.source):
                stream = portaudio.RawInputStream(
                    device=self.device.index,
                    samplerate=self.device_rate_hz,
                    channels=channels,
                    dtype="int16",
                    latency=BUFFER_S,
                )
                stream.start()
        except portaudio.PortAudioError as error:
            raise self._cannot_open(f"at {self.device_rate_hz} Hz", error) from error
        return stream

    def _cannot_open(self, how: str, error: Exception) -> AudioDeviceError:
        return AudioDeviceError(
            f"microphone {self.device}: cannot be opened {how} ({error}); close other programs that record, "
            "check the permissions, or choose another device"
        )

    def _record(self, opened: Opened) -> None:
        """Run in the reading thread: put blocks until the end, then the error that ended it, None without an error."""
        outcome: AudioDeviceError | None
        outcome = AudioDeviceError(f"microphone {self.device}: the reading thread failed; its error is on stderr")
        try:
            while True:
                outcome = self._record_from(*opened)
                if outcome is None or not self._waits:
                    return
                logger.warning("%s; waiting for it", outcome)
                again = self._open_when_there()
                if again is None:
                    outcome = None
                    return
                opened = again
                logger.warning("microphone %s: is back", self.device)
        finally:
            self._put(outcome)

    def _record_from(self, stream: InputStream, channels: int, resampler: StreamResampler) -> AudioDeviceError | None:
        """Put blocks of a device until the end, or until it fails: return the error."""
        block_frames = self.device_rate_hz * BLOCK_MS // 1000
        portaudio_error: type[Exception] = _portaudio().PortAudioError
        mixer = Mixer(f"microphone {self.device}", self.device_rate_hz)
        try:
            while not self._stopping and self._samples_left != 0:
                self._deliver(resampler.feed(self._read(stream, block_frames, channels, mixer)))
            held_frames = stream.read_available  # recorded before `stop`, not read yet
            if held_frames > 0 and self._samples_left != 0:
                self._deliver(resampler.feed(self._read(stream, held_frames, channels, mixer)))
        except portaudio_error as error:
            return AudioDeviceError(
                f"microphone {self.device}: stopped delivering ({error}); check that it is still connected"
            )
        finally:
            stream.close()
            self._deliver(resampler.finish())
        return None

    def _open_when_there(self) -> Opened | None:
        """Try to open the device until it is there; return None if `stop` came before."""
        self._absent = True
        try:
            while not self._stopping:
                time.sleep(WAIT_S)
                portaudio = _portaudio()
                portaudio._terminate()  # PortAudio lists the devices when it starts
                portaudio._initialize()
                with contextlib.suppress(AudioDeviceError, portaudio.PortAudioError):
                    return self._open_device()
        finally:
            self._absent = False
        return None

    def _read(self, stream: InputStream, frames: int, channels: int, mixer: Mixer) -> npt.NDArray[np.float32]:
        """Return the next frames of the device as mono, shape (frames,)."""
        buffer, overflowed = stream.read(frames)
        self.num_overflows += overflowed
        samples = np.frombuffer(buffer, np.int16).reshape(-1, channels)  # (frames, channels)
        return mixer.mix(np.divide(samples, 32_768, dtype=np.float32))

    def _deliver(self, samples: npt.NDArray[np.float32]) -> None:
        """Put samples, shape (samples,), up to the limit of seconds."""
        if self._samples_left is not None:
            samples = samples[: self._samples_left]
            self._samples_left -= len(samples)
        if len(samples):
            self._put(samples)

    def _put(self, item: npt.NDArray[np.float32] | AudioDeviceError | None) -> None:
        """Wait for room in the queue, unless the `with` block has ended."""
        while not self._closed:
            with contextlib.suppress(queue.Full):
                return self._queue.put(item, timeout=POLL_S)
        self.num_dropped_blocks += isinstance(item, np.ndarray)
        return None


def _matches(devices: list[Device], wanted: str | int | None) -> list[Device]:
    if wanted is None:
        return [device for device in devices if device.is_default]
    if isinstance(wanted, int) or wanted.isdecimal():
        return [device for device in devices if device.index == int(wanted) and not device.source]
    exact = [device for device in devices if device.name == wanted]
    return exact or [device for device in devices if wanted.casefold() in device.name.casefold()]


def _portaudio() -> ModuleType:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise MissingExtraError("sounddevice", "mic") from error
    except OSError as error:
        remedy = "run: apt install libportaudio2" if sys.platform == "linux" else "reinstall sounddevice with pip"
        raise AudioDeviceError(f"the PortAudio library was not found; {remedy}") from error
