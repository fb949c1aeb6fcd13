"""Input devices listed and found in a fake PortAudio, and what is said when there are none."""

import sys
from pathlib import Path

import pytest
from fake_portaudio import FakePortAudio

from bestow_edge.core.errors import AudioDeviceError, MissingExtraError
from bestow_edge.runtime.audio.microphone import Device, find_device, list_devices


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
