"""A fake PortAudio: microphone logic is tested in this process, on any machine."""

import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

SPOKEN = np.random.default_rng(0).integers(-8_000, 8_000, 100_000).astype(np.int16)


class PortAudioError(Exception):
    """Stands for sounddevice's error."""


class FakeStream:
    """Delivers `SPOKEN` in all channels, then does what the fake says."""

    def __init__(self, fake: "FakePortAudio", channels: int) -> None:
        self.fake, self.channels, self.position = fake, channels, 0
        self.read_available = fake.held_frames

    def start(self) -> None:
        if self.fake.busy:
            raise PortAudioError("Device unavailable")

    def read(self, frames: int) -> tuple[bytes, bool]:
        turn = self.fake.num_reads
        self.fake.num_reads += 1
        if turn == self.fake.lost_at:
            self.fake.plugged_in_at = self.fake.lost_for
            raise PortAudioError("device lost")
        if turn == self.fake.crash_at:
            raise MemoryError
        if turn == self.fake.hang_at:
            self.fake.released.wait(10)
        samples = SPOKEN[self.position : self.position + frames]
        self.position += frames
        return np.repeat(samples, self.channels).tobytes(), turn in self.fake.overflows_at

    def close(self) -> None:
        self.fake.num_closed += 1


class FakePortAudio(ModuleType):
    """As much of sounddevice as is used."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.devices = [self.entry("Built-in", 2, 44_100), self.entry("HDMI", 0, 48_000), self.entry("USB mic", 1)]
        self.default = SimpleNamespace(device=(2, 1))
        self.refused: set[tuple[int, int]] = set()
        self.busy = False
        self.lost_at = self.crash_at = self.hang_at = -1
        self.overflows_at: set[int] = set()
        self.held_frames = self.num_reads = self.num_closed = 0
        self.num_starts, self.plugged_in_at, self.lost_for = 1, 0, 0  # in starts of PortAudio
        self.released = threading.Event()
        self.opened: dict[str, object] = {}

    def entry(self, name: str, channels: int, rate_hz: float = 16_000) -> dict[str, object]:
        return {"name": name, "hostapi": 0, "max_input_channels": channels, "default_samplerate": float(rate_hz)}

    def _terminate(self) -> None:
        self.num_starts -= 1

    def _initialize(self) -> None:
        self.num_starts += 1
        self.plugged_in_at -= 1

    def query_devices(self) -> list[dict[str, object]]:
        if self.plugged_in_at > 0:
            return []
        return [{**device, "index": index} for index, device in enumerate(self.devices)]

    def query_hostapis(self) -> list[dict[str, str]]:
        return [{"name": "ALSA"}]

    def check_input_settings(self, device: int, channels: int, dtype: str, *, samplerate: int) -> None:
        assert dtype == "int16"
        assert self.devices[device]["max_input_channels"] >= channels  # type: ignore[operator]  # it is an int
        if (samplerate, channels) in self.refused:
            raise PortAudioError("Invalid sample rate")

    def RawInputStream(self, **settings: object) -> FakeStream:  # noqa: N802 - sounddevice's name
        self.opened = settings
        return FakeStream(self, int(str(settings["channels"])))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePortAudio]:
    """Put a fake in sounddevice's place; its default device is the one of 16 kHz."""
    fake = FakePortAudio()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    yield fake
    fake.released.set()


def heard(num_samples: int) -> npt.NDArray[np.float32]:
    """Return what a mono recording of `SPOKEN` at its own rate holds."""
    return SPOKEN[:num_samples].astype(np.float32) / np.float32(32_768)
