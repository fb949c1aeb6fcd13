"""Recording from virtual microphones, in subprocesses."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fake_portaudio import SPOKEN, heard
from microphones import PulseMicrophone, VirtualMicrophone

from bestow_edge.runtime.audio.resampling import StreamResampler

RECORD = """
import json, logging, os, signal, sys
import numpy as np
from bestow_edge.core.errors import AudioDeviceError
from bestow_edge.runtime.audio.microphone import Microphone, list_devices

logging.basicConfig()
name, rate_hz, seconds, interrupt_after = sys.argv[1], int(sys.argv[2]) or None, float(sys.argv[3]), int(sys.argv[4])
blocks, error = [], None
with Microphone(name, device_rate_hz=rate_hz, seconds=seconds, queue_blocks=16, wait=len(sys.argv) > 5) as microphone:
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
from bestow_edge.core.errors import AudioDeviceError
from bestow_edge.runtime.audio.microphone import find_device, list_devices

try:
    find_device("no such")
except AudioDeviceError as error:
    print(json.dumps({"devices": [str(device) for device in list_devices()], "error": str(error)}))
"""


@pytest.mark.mic
def test_file_microphone_is_bit_exact_at_its_own_rate(
    file_microphone: Callable[[npt.NDArray[np.int16]], VirtualMicrophone],
) -> None:
    result = file_microphone(SPOKEN).record(RECORD, 0, 2, 0)
    assert result["devices"] == ["0: wavmic (ALSA)"]
    assert result["is_default"]
    assert result["rate_hz"] == 44_100
    expected = StreamResampler(44_100, 16_000).feed(heard(100_000))[:32_000]
    np.testing.assert_array_equal(result["samples"], expected)
    assert (result["num_overflows"], result["num_dropped_blocks"]) == (0, 0)


@pytest.mark.mic
def test_file_microphone_interrupted_loses_nothing(
    file_microphone: Callable[[npt.NDArray[np.int16]], VirtualMicrophone],
) -> None:
    result = file_microphone(SPOKEN).record(RECORD, 16_000, 60, 10)
    samples = result["samples"]
    assert 10 < result["num_blocks"] <= 10 + 16 + 3  # queue, reader's hand, PortAudio's buffer
    np.testing.assert_array_equal(samples, heard(len(samples)))
    assert (result["error"], result["num_dropped_blocks"]) == (None, 0)


@pytest.mark.mic
def test_unknown_virtual_microphone(file_microphone: Callable[[npt.NDArray[np.int16]], VirtualMicrophone]) -> None:
    result = file_microphone(SPOKEN).record(FIND)
    assert result["error"].endswith(
        "there is none for input device 'no such'; give the index or name of one of: 0: wavmic (ALSA)"
    )


@pytest.mark.mic
def test_machine_without_microphone(file_microphone: Callable[[npt.NDArray[np.int16]], VirtualMicrophone]) -> None:
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


@pytest.mark.mic
@pytest.mark.slow
def test_pulse_server_killed_and_started_again(pulse_microphone: PulseMicrophone) -> None:
    """The recording goes on when the device is back."""
    pulse_microphone.speak(SPOKEN, after_s=0)
    timer = threading.Timer(3, pulse_microphone.restart)
    timer.start()
    result = pulse_microphone.record(RECORD, 16_000, 6, 0, "wait")
    timer.join()
    assert result["error"] is None
    assert len(result["samples"]) == 96_000
    assert "stopped delivering (" in result["stderr"]
    assert "is back" in result["stderr"]


@pytest.mark.mic
@pytest.mark.slow
def test_a_monitor_hears_what_a_program_plays(pulse_microphone: PulseMicrophone) -> None:
    if shutil.which("pactl") is None or shutil.which("pacat") is None:
        pytest.skip("no pactl: apt install pulseaudio-utils")
    pulse_microphone.speak(np.zeros(0, np.int16), after_s=0)
    tone = (8_000 * np.sin(2 * np.pi * 440 * np.arange(160_000) / 16_000)).astype(np.int16)
    command = ["pacat", "--device=speakers", "--rate=16000", "--format=s16le", "--channels=1"]
    levels = {}
    with subprocess.Popen(command, env=pulse_microphone.env, stdin=subprocess.PIPE) as player:
        assert player.stdin is not None
        threading.Thread(target=player.communicate, args=[tone.tobytes()], daemon=True).start()
        for name in ("speakers", "headset.monitor"):
            result = replace(pulse_microphone, name=name).record(RECORD, 16_000, 2, 0)
            levels[name] = float(np.sqrt(np.mean(result["samples"][8_000:] ** 2)))
        player.terminate()
    assert {"speakers.monitor (PulseAudio)", "headset.monitor (PulseAudio)"} < set(result["devices"])
    assert levels["speakers"] > 0.1
    assert levels["headset.monitor"] == 0
