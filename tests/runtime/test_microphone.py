"""Microphone: logic against a fake PortAudio in this process, recording from virtual microphones in subprocesses."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bestow_edge.errors import AudioDeviceError, MissingExtraError, SessionError
from bestow_edge.runtime import microphone as module
from bestow_edge.runtime.audio import StreamResampler
from bestow_edge.runtime.microphone import Device, Microphone, find_device, list_devices

SPOKEN = np.random.default_rng(0).integers(-8_000, 8_000, 100_000).astype(np.int16)
BLOCK = 1_280  # 80 ms at 16 kHz

VirtualMicrophones = Any  # what the fixtures of conftest.py give: pytest's importlib mode cannot import it from there
PulseMicrophone = Any


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
        self.released = threading.Event()
        self.opened: dict[str, object] = {}

    def entry(self, name: str, channels: int, rate_hz: float = 16_000) -> dict[str, object]:
        return {"name": name, "hostapi": 0, "max_input_channels": channels, "default_samplerate": float(rate_hz)}

    def query_devices(self) -> list[dict[str, object]]:
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


# --- devices ---


def test_only_input_devices_are_listed(fake: FakePortAudio) -> None:
    built_in = Device(index=0, name="Built-in", host_api="ALSA", channels=2, default_rate_hz=44_100, is_default=False)
    usb = Device(index=2, name="USB mic", host_api="ALSA", channels=1, default_rate_hz=16_000, is_default=True)
    assert list_devices() == [built_in, usb]
    assert str(usb) == "2: USB mic (ALSA)"
    fake.devices = []
    assert list_devices() == []


@pytest.mark.parametrize("wanted", [None, 2, "2", "USB mic", "usb"])
@pytest.mark.usefixtures("fake")
def test_device_is_found(wanted: str | int | None) -> None:
    assert find_device(wanted).index == 2


def test_exact_name_wins_over_part(fake: FakePortAudio) -> None:
    fake.devices.append(fake.entry("USB mic 2", 1))
    assert find_device("USB mic").index == 2


@pytest.mark.parametrize("wanted", ["webcam", 1, "7"])
@pytest.mark.usefixtures("fake")
def test_unknown_device_lists_the_known(wanted: str | int) -> None:
    expected = (
        f"microphone: there is none for input device {wanted!r}; give the index or name of one of: "
        "0: Built-in (ALSA); 2: USB mic (ALSA)"
    )
    with pytest.raises(AudioDeviceError) as caught:
        find_device(wanted)
    assert str(caught.value) == expected


@pytest.mark.usefixtures("fake")
def test_ambiguous_device_lists_the_known() -> None:
    with pytest.raises(AudioDeviceError, match=r"several fit for input device 'i'; give .*: 0: Built-in \(ALSA\); 2: "):
        find_device("i")


def test_no_default_device(fake: FakePortAudio) -> None:
    fake.default.device = (-1, 1)
    with pytest.raises(AudioDeviceError, match="there is none for the default input device; give the index or name"):
        find_device()


def test_no_input_device(fake: FakePortAudio) -> None:
    fake.devices = fake.devices[1:2]
    with pytest.raises(AudioDeviceError, match="no microphone: PortAudio lists no input device; connect one and check"):
        find_device()


def test_sounddevice_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"sounddevice is not installed; run: pip install 'bestow-edge\[mic\]'"):
        list_devices()


@pytest.mark.parametrize(
    ("platform", "remedy"), [("linux", "run: apt install libportaudio2"), ("darwin", "reinstall sounddevice with pip")]
)
def test_portaudio_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, remedy: str) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(AudioDeviceError, match=f"the PortAudio library was not found; {remedy}"):
        list_devices()


# --- opening ---


def test_opened_at_the_devices_own_rate_and_resampled(fake: FakePortAudio) -> None:
    with Microphone(0, seconds=1) as microphone:
        waveform = np.concatenate(list(microphone))
    assert microphone.device_rate_hz == 44_100
    assert microphone.device.name == "Built-in"
    expected = {"device": 0, "samplerate": 44_100, "channels": 1, "dtype": "int16", "latency": 0.2}
    assert fake.opened == expected
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, StreamResampler(44_100, 16_000).feed(heard(100_000))[:16_000])


def test_stereo_only_hardware_is_averaged(fake: FakePortAudio) -> None:
    fake.refused = {(44_100, 1)}
    with Microphone(0, device_rate_hz=44_100, sample_rate_hz=44_100, seconds=0.5) as microphone:
        waveform = np.concatenate(list(microphone))
    assert fake.opened["channels"] == 2
    np.testing.assert_array_equal(waveform, heard(22_050))


def test_refused_rate_falls_back_with_a_warning(fake: FakePortAudio, caplog: pytest.LogCaptureFixture) -> None:
    fake.refused = {(44_100, 1), (44_100, 2)}
    with Microphone(0, seconds=0.1) as microphone:
        assert microphone.device_rate_hz == 48_000
        assert sum(map(len, microphone)) == 1_600
    assert caplog.messages == ["microphone 0: Built-in (ALSA): refused 44100 Hz, opened at 48000 Hz"]


def test_no_rate_is_taken(fake: FakePortAudio) -> None:
    fake.refused = {(rate_hz, 1) for rate_hz in (16_000, 32_000, 44_100, 48_000)}
    expected = r"2: USB mic \(ALSA\): cannot be opened at 16000, 48000, 44100, 32000 Hz \(Invalid sample rate\); "
    with pytest.raises(AudioDeviceError, match=expected), Microphone():
        pass


def test_rate_asked_for_is_not_replaced(fake: FakePortAudio) -> None:
    fake.refused = {(96_000, 1)}
    with (
        pytest.raises(AudioDeviceError, match=r"cannot be opened at 96000 Hz \(Invalid"),
        Microphone(device_rate_hz=96_000),
    ):
        pass


def test_busy_device(fake: FakePortAudio) -> None:
    fake.busy = True
    expected = r"cannot be opened at 16000 Hz \(Device unavailable\); close other programs that record, check"
    with pytest.raises(AudioDeviceError, match=expected), Microphone():
        pass


@pytest.mark.usefixtures("fake")
def test_opened_once() -> None:
    with Microphone(seconds=0.1) as microphone:
        pass
    with pytest.raises(SessionError, match="was opened before; make a new Microphone"), microphone:
        pass


def test_iterating_needs_an_open_microphone(fake: FakePortAudio) -> None:
    with pytest.raises(SessionError, match=r"is not open; iterate inside `with Microphone\(\) as microphone:`"):
        next(iter(Microphone()))
    assert fake.opened == {}


# --- recording ---


@pytest.mark.parametrize("seconds", [0, 0.01, 0.08, 1.234])
def test_limit_of_seconds_is_exact(fake: FakePortAudio, seconds: float) -> None:
    with Microphone(seconds=seconds) as microphone:
        waveform = np.concatenate([np.empty(0, np.float32), *microphone])
        assert list(microphone) == []
    np.testing.assert_array_equal(waveform, heard(round(seconds * 16_000)))
    assert (fake.num_closed, microphone.num_dropped_blocks, microphone.num_overflows) == (1, 0, 0)


def test_overflows_are_counted(fake: FakePortAudio) -> None:
    fake.overflows_at = {1, 4, 100}
    with Microphone(seconds=0.8) as microphone:
        assert len(list(microphone)) == 10
    assert microphone.num_overflows == 2


def test_full_queue_holds_the_reader_back(fake: FakePortAudio) -> None:
    with Microphone(queue_blocks=3) as microphone:
        first = next(microphone)
        time.sleep(0.3)
        assert fake.num_reads == 5  # one taken, three wait, one in the reader's hand
        assert len(first) == BLOCK
    assert microphone.num_dropped_blocks == 4
    assert fake.num_closed == 1


def test_stop_loses_nothing_recorded(fake: FakePortAudio) -> None:
    """The queue, the block in the reader's hand, what PortAudio holds, and what the resampler holds back."""
    fake.held_frames = 1_000
    with Microphone(0, queue_blocks=3) as microphone:
        parts = [next(microphone)]
        time.sleep(0.3)
        microphone.stop()
        parts.extend(microphone)
        assert list(microphone) == []
    num_frames = (fake.num_reads - 1) * 3_528 + 1_000
    resampler = StreamResampler(44_100, 16_000)
    expected = np.concatenate([resampler.feed(heard(num_frames)), resampler.finish()])
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert microphone.num_dropped_blocks == 0


@pytest.mark.usefixtures("fake")
def test_second_loop_goes_on() -> None:
    with Microphone(seconds=0.8) as microphone:
        parts = [block for block, _ in zip(microphone, range(2), strict=False)]
        parts.extend(microphone)
    assert sum(map(len, parts)) == 12_800 - BLOCK  # zip takes one block more than it gives


def test_lost_device_is_raised_after_what_was_recorded(fake: FakePortAudio) -> None:
    fake.lost_at = 3
    with Microphone() as microphone:
        parts = [next(microphone) for _ in range(3)]
        with pytest.raises(AudioDeviceError, match=r"USB mic \(ALSA\): stopped delivering \(device lost\); check that"):
            next(microphone)
        assert list(microphone) == []
    np.testing.assert_array_equal(np.concatenate(parts), heard(3 * BLOCK))
    assert fake.num_closed == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failure_of_the_thread_is_not_taken_for_the_end(fake: FakePortAudio) -> None:
    fake.crash_at = 0
    with Microphone() as microphone, pytest.raises(AudioDeviceError, match="the reading thread failed; its error is"):
        next(microphone)


def test_silent_device_is_an_error(fake: FakePortAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.2)
    fake.hang_at = 1
    with Microphone() as microphone:
        assert len(next(microphone)) == BLOCK
        with pytest.raises(AudioDeviceError, match="delivered no samples for 0 s; check that it is connected"):
            next(microphone)
        fake.released.set()


def test_stop_and_close_do_not_wait_for_a_hanging_device(
    fake: FakePortAudio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.2)
    fake.hang_at = 1
    with Microphone() as microphone:
        next(microphone)
        microphone.stop()
        assert list(microphone) == []
    assert "did not answer when it was stopped" in caplog.messages[0]
    assert "does not answer; its reading thread is left behind" in caplog.messages[1]


def test_error_in_the_loop_closes_the_device(fake: FakePortAudio) -> None:
    with pytest.raises(ZeroDivisionError), Microphone() as microphone:
        _ = 1 / len(next(microphone)[:0])
    assert fake.num_closed == 1


# --- virtual microphones ---

RECORD = """
import json, os, signal, sys
import numpy as np
from bestow_edge.errors import AudioDeviceError
from bestow_edge.runtime.microphone import Microphone, list_devices

name, rate_hz, seconds, interrupt_after = sys.argv[1], int(sys.argv[2]) or None, float(sys.argv[3]), int(sys.argv[4])
blocks, error = [], None
with Microphone(name, device_rate_hz=rate_hz, seconds=seconds, queue_blocks=16) as microphone:
    signal.signal(signal.SIGINT, lambda *_: microphone.stop())
    print("recording", flush=True)
    try:
        for block in microphone:
            blocks.append(block)
            if len(blocks) == interrupt_after:
                os.kill(os.getpid(), signal.SIGINT)
    except AudioDeviceError as raised:
        error = str(raised)
np.save("microphone_samples.npy", np.concatenate(blocks))
print(json.dumps({
    "devices": [str(device) for device in list_devices()], "error": error, "num_blocks": len(blocks),
    "rate_hz": microphone.device_rate_hz, "is_default": microphone.device.is_default,
    "num_overflows": microphone.num_overflows, "num_dropped_blocks": microphone.num_dropped_blocks}))
"""

FIND = """
import json
from bestow_edge.errors import AudioDeviceError
from bestow_edge.runtime.microphone import find_device, list_devices

try:
    find_device("no such")
except AudioDeviceError as error:
    print(json.dumps({"devices": [str(device) for device in list_devices()], "error": str(error)}))
"""


@pytest.mark.mic
def test_file_microphone_is_bit_exact_at_its_own_rate(file_microphone: VirtualMicrophones) -> None:
    result = file_microphone(SPOKEN).record(RECORD, 0, 2, 0)
    assert result["devices"] == ["0: wavmic (ALSA)"]
    assert result["is_default"]
    assert result["rate_hz"] == 44_100
    expected = StreamResampler(44_100, 16_000).feed(heard(100_000))[:32_000]
    np.testing.assert_array_equal(result["samples"], expected)
    assert (result["num_overflows"], result["num_dropped_blocks"]) == (0, 0)


@pytest.mark.mic
def test_file_microphone_interrupted_loses_nothing(file_microphone: VirtualMicrophones) -> None:
    result = file_microphone(SPOKEN).record(RECORD, 16_000, 60, 10)
    samples = result["samples"]
    assert 10 < result["num_blocks"] <= 10 + 16 + 3  # queue, reader's hand, PortAudio's buffer
    np.testing.assert_array_equal(samples, heard(len(samples)))
    assert (result["error"], result["num_dropped_blocks"]) == (None, 0)


@pytest.mark.mic
def test_unknown_virtual_microphone(file_microphone: VirtualMicrophones) -> None:
    result = file_microphone(SPOKEN).record(FIND)
    assert result["error"].endswith(
        "there is none for input device 'no such'; give the index or name of one of: 0: wavmic (ALSA)"
    )


@pytest.mark.mic
def test_machine_without_microphone(file_microphone: VirtualMicrophones) -> None:
    microphone = file_microphone(SPOKEN)
    config = Path(microphone.env["ALSA_CONFIG_PATH"])
    config.write_text(config.read_text().splitlines()[0])
    result = microphone.record(FIND)
    if result["devices"]:
        pytest.skip("this machine has an input device of its own")
    assert result["error"].startswith("no microphone: PortAudio lists no input device")


def found_at(samples: npt.NDArray[np.float32], spoken: npt.NDArray[np.float32]) -> int:
    """Return where in `samples` the other waveform starts, by cross-correlation."""
    length = 1 << (len(samples) + len(spoken)).bit_length()
    spectrum = np.fft.rfft(samples, length) * np.conj(np.fft.rfft(spoken, length))
    return int(np.argmax(np.fft.irfft(spectrum, length)))


@pytest.mark.mic
@pytest.mark.slow
@pytest.mark.parametrize("rate_hz", [16_000, 0], ids=["the source's rate", "the device's own rate"])
def test_pulse_microphone_in_real_time(pulse_microphone: PulseMicrophone, rate_hz: int) -> None:
    time_s = np.arange(16_000) / 16_000
    chirp = 0.3 * np.sin(2 * np.pi * (200 * time_s + 1_000 * time_s**2))
    pulse_microphone.speak((chirp * 32_767).astype(np.int16), after_s=1.5)
    started_s = time.monotonic()
    result = pulse_microphone.record(RECORD, rate_hz, 4, 0)
    assert time.monotonic() - started_s > 3.5  # it has a clock
    assert (result["num_overflows"], result["num_dropped_blocks"], result["error"]) == (0, 0, None)
    samples = result["samples"]
    assert len(samples) == 64_000
    start = found_at(samples, chirp.astype(np.float32))
    # Resampling twice shifts by fractions of a sample: 0.4 of one is 0.35 rad of a chirp's top 2.2 kHz.
    part = samples[start : start + 16_000]
    assert np.dot(part, chirp) / np.linalg.norm(part) / np.linalg.norm(chirp) > (0.9999 if rate_hz else 0.9)


@pytest.mark.mic
@pytest.mark.slow
def test_pulse_server_killed_while_recording(pulse_microphone: PulseMicrophone) -> None:
    """A server that dies is to PortAudio what an unplugged device is."""
    pulse_microphone.speak(SPOKEN, after_s=0)
    timer = threading.Timer(3, pulse_microphone.server.kill)
    timer.start()
    result = pulse_microphone.record(RECORD, 0, 30, 0)
    timer.join()
    assert "stopped delivering (" in result["error"]
    assert len(result["samples"]) > 16_000
