"""Recording from a fake PortAudio: opening, limits, overflows, stopping, and devices that fail."""

import time

import numpy as np
import pytest
from fake_portaudio import FakePortAudio, heard

from bestow_edge.core.errors import AudioDeviceError, SessionError
from bestow_edge.runtime.audio import microphone as module
from bestow_edge.runtime.audio.microphone import Microphone
from bestow_edge.runtime.audio.resampling import StreamResampler

BLOCK = 1_280  # 80 ms at 16 kHz

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


# --- waiting ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_device_that_is_not_there_yet_is_waited_for(fake: FakePortAudio, caplog: pytest.LogCaptureFixture) -> None:
    fake.plugged_in_at = 3
    with Microphone(seconds=0.5, wait=True) as microphone:
        np.testing.assert_array_equal(np.concatenate(list(microphone)), heard(8_000))
    assert (fake.num_starts, fake.plugged_in_at) == (1, 0)
    (message,) = caplog.messages
    assert message.startswith("no microphone: ")
    assert message.endswith("; waiting for it")


@pytest.mark.usefixtures("impatient")
def test_a_device_that_was_unplugged_comes_back(
    fake: FakePortAudio, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.05)
    fake.lost_at, fake.lost_for = 3, 20  # no samples for longer than a device may be silent
    with Microphone(seconds=0.5, wait=True) as microphone:
        blocks = list(microphone)
    before = heard(3 * BLOCK)
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate([before, heard(8_000 - 3 * BLOCK)]))
    assert (fake.num_starts, fake.num_closed, fake.plugged_in_at) == (1, 2, 0)
    assert [message.split("): ")[-1] for message in caplog.messages] == [
        "stopped delivering (device lost); check that it is still connected; waiting for it",
        "is back",
    ]


@pytest.mark.usefixtures("impatient")
def test_stop_ends_a_wait(fake: FakePortAudio) -> None:
    fake.lost_at, fake.lost_for = 1, 10**9
    with Microphone(wait=True) as microphone:
        next(microphone)
        microphone.stop()
        assert list(microphone) == []
    assert fake.num_closed == 1
