"""Virtual microphones, so that microphone tests run where there is no sound card and no kernel module.

PortAudio reads `ALSA_CONFIG_PATH` when it is loaded, once per process: the recording side is therefore a Python
subprocess. Both fixtures leave $HOME alone. Linux only.

- `file_microphone`: ALSA's `file` plugin on `null`. No daemon and bit exact, but no clock: it delivers as fast as it is
  read, and zeros after the end of the file. Whatever rate is asked for, samples come unresampled.
- `pulse_microphone`: a private PulseAudio with `module-pipe-source`. It has a clock, resamples, and can be killed.
"""

import ctypes.util
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

ALSA_DEFAULTS = "</usr/share/alsa/alsa.conf>\n"
PULSE_PLUGIN = "*/alsa-lib/libasound_module_pcm_pulse.so"


@dataclass(frozen=True, kw_only=True)
class VirtualMicrophone:
    """What a subprocess needs to record from it."""

    name: str
    folder: Path
    env: dict[str, str]

    def record(self, script: str, *arguments: object, timeout_s: float = 60) -> dict[str, Any]:
        """Run a Python script with the device's name and `arguments` in sys.argv; return its last line as JSON.

        `microphone_samples.npy`, if the script leaves it in its working directory, is the entry `samples`.
        """
        done = subprocess.run(
            [sys.executable, "-c", script, self.name, *map(str, arguments)],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        samples = self.folder / "microphone_samples.npy"
        if samples.exists():
            result["samples"] = np.load(samples)
        result["stderr"] = done.stderr
        return result


@dataclass(frozen=True, kw_only=True)
class PulseMicrophone(VirtualMicrophone):
    """A microphone with a clock, that hears silence until something is spoken."""

    server: "subprocess.Popen[bytes]"
    fifo: Path
    rate_hz: int
    ended: threading.Event = field(default_factory=threading.Event)
    later: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def speak(self, samples: npt.NDArray[np.int16], *, after_s: float) -> None:
        """Play silence, `samples` in real time, then silence until the test ends; from a thread, returns at once."""
        step = self.rate_hz // 50  # 20 ms
        played = np.concatenate([np.zeros(round(after_s * self.rate_hz), np.int16), samples])
        played = np.pad(played, (0, -len(played) % step))

        def play() -> None:
            with suppress(BrokenPipeError), self.fifo.open("wb", buffering=0) as pipe:
                start_s, turn = time.monotonic(), 0
                while not self.ended.is_set():
                    block = played[turn * step : (turn + 1) * step]
                    pipe.write(block.tobytes() or bytes(2 * step))
                    turn += 1
                    time.sleep(max(0.0, start_s + turn * 0.02 - time.monotonic()))

        threading.Thread(target=play, daemon=True).start()

    def restart(self) -> None:
        """Kill the server, as if the device was unplugged, and start another a second later; it hears silence."""
        self.server.kill()
        self.server.wait()
        time.sleep(1)
        for leftover in (self.fifo, self.folder / "native"):
            leftover.unlink(missing_ok=True)
        self.later.append(_start_pulse(self.folder, self.rate_hz).server)
        self.speak(np.zeros(0, np.int16), after_s=0)


def rest_of(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[str, str]:
    """Return what a process still writes to stdout and stderr until it ends.

    `communicate` reads the file descriptors, so it loses what `readline` took from them beyond its line.
    """
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    with process:  # waits, and closes what it was read from
        out = process.stdout.read() if process.stdout else ""
        err = process.stderr.read() if process.stderr else ""
    killer.cancel()
    return out, err


@pytest.fixture
def file_microphone(tmp_path: Path) -> Callable[[npt.NDArray[np.int16]], VirtualMicrophone]:
    """Return a function from int16 samples, shape (samples,), to a microphone that hears them; it is the default."""
    _skip_without_portaudio()

    def build(samples: npt.NDArray[np.int16]) -> VirtualMicrophone:
        raw, config = tmp_path / "heard.raw", tmp_path / "asound.conf"
        raw.write_bytes(samples.tobytes())
        plugin = f'type file slave.pcm "null" file "/dev/null" infile "{raw}" format "raw"'
        config.write_text(f"{ALSA_DEFAULTS}pcm.wavmic {{ {plugin} }}\n")
        env = dict(os.environ, ALSA_CONFIG_PATH=str(config))
        return VirtualMicrophone(name="wavmic", folder=tmp_path, env=env)

    return build


@pytest.fixture
def pulse_microphone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulseMicrophone]:
    """Yield a real-time microphone of 16 kHz behind a PulseAudio server of its own."""
    _skip_without_portaudio()
    if shutil.which("pulseaudio") is None or not any(Path("/usr/lib").glob(PULSE_PLUGIN)):
        pytest.skip("no PulseAudio or no ALSA plugin for it: apt install pulseaudio libasound2-plugins")
    folder = tmp_path_factory.mktemp("pulse")  # short: a socket's path has at most 107 characters
    folder.chmod(0o700)
    microphone = _start_pulse(folder, rate_hz=16_000)
    try:
        yield microphone
    finally:
        microphone.ended.set()
        for server in (microphone.server, *microphone.later):
            server.terminate()
            server.wait(5)


def _skip_without_portaudio() -> None:
    if sys.platform != "linux":
        pytest.skip("virtual microphones are made with ALSA, which is Linux only")
    if importlib.util.find_spec("sounddevice") is None:
        pytest.skip("sounddevice is not installed: pip install 'bestow-edge[mic]'")
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("no PortAudio: apt install libportaudio2")


def _start_pulse(folder: Path, rate_hz: int) -> PulseMicrophone:
    config, fifo, socket, log = (folder / name for name in ("asound.conf", "mic.fifo", "native", "log"))
    config.write_text(f'{ALSA_DEFAULTS}pcm.pulsemic {{ type pulse device "vmic" }}\npcm.pulse {{ type pulse }}\n')
    own = {f"PULSE_{kind}_PATH": str(folder) for kind in ("RUNTIME", "STATE")}
    env = dict(os.environ, **own, XDG_RUNTIME_DIR=str(folder), PULSE_COOKIE=str(folder / "cookie"))
    source = f"module-pipe-source source_name=vmic file={fifo} format=s16le rate={rate_hz} channels=1"
    options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--log-target=stderr"]
    sinks = [f"module-null-sink sink_name={name}" for name in ("headset", "speakers")]
    protocol = f"module-native-protocol-unix auth-anonymous=1 socket={socket}"
    modules = [option for module in (protocol, source, *sinks) for option in ("-L", module)]
    with log.open("wb") as errors:
        server = subprocess.Popen(["pulseaudio", *options, *modules], env=env, stdout=errors, stderr=errors)  # noqa: S607
    deadline_s = time.monotonic() + 10
    while not (fifo.exists() and socket.exists()):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.05)
    env.update(PULSE_SERVER=f"unix:{socket}", ALSA_CONFIG_PATH=str(config))
    return PulseMicrophone(name="pulsemic", folder=folder, env=env, server=server, fifo=fifo, rate_hz=rate_hz)
