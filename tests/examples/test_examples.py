"""The programs in `examples/` run as they are, on the embedded model and without a microphone or a display."""

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import ENGLISH, served

import bestow_edge as be
from bestow_edge.core.utterances import read_manifest

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADLESS = ("captions_asyncio.py", "transcribe_file.py")  # run to the end without a device
DEVICES = ("microphone.py",)
SPEAKERS = ("accented_digits.py",)  # need espeak-ng
CLIENTS = ("stream_client.py",)  # need a server
ELSEWHERE = ("caption_overlay.py", "public_data.py", "simuleval_agent.py")  # tried in tests of their names


def run(name: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, from another directory."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(
        command, cwd=EXAMPLES.parent.parent, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_example_is_tried() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(
        HEADLESS + DEVICES + SPEAKERS + CLIENTS + ELSEWHERE
    )


@pytest.mark.parametrize("name", HEADLESS)
def test_an_example_prints_text_and_no_complaint(name: str) -> None:
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


def test_the_client_prints_two_texts_of_a_server() -> None:
    with served() as server:
        done = run("stream_client.py", ENGLISH, "en-en,en-de", server.ws)
    assert done.returncode == 0, done.stderr
    assert "en-en:nine\n" in done.stdout
    assert "en-de:neun\n" in done.stdout


def test_the_client_says_that_there_is_no_server() -> None:
    pytest.importorskip("websockets")
    done = run("stream_client.py", ENGLISH, "en-de", "ws://127.0.0.1:1")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("recording", "source"), [("digits_de.wav", "de"), ("digits_en_48k_stereo.flac", "en")])
def test_every_recording_beside_the_examples_gives_text(recording: str, source: str) -> None:
    done = run("transcribe_file.py", EXAMPLES / "audio" / recording, source, "en")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("arguments", [("no_such.wav",), (EXAMPLES / "audio" / "digits_en.wav", "en", "xx")])
def test_wrong_arguments_end_with_one_sentence(arguments: tuple[object, ...]) -> None:
    done = run("transcribe_file.py", *arguments)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.mic
def test_the_microphone_example_hears_a_recording_and_ends_at_ctrl_c(pulse_microphone: Any) -> None:
    waveform = be.read_audio(EXAMPLES / "audio" / "digits_en.wav", pulse_microphone.rate_hz)
    command, pipe = [sys.executable, str(EXAMPLES / "microphone.py")], subprocess.PIPE
    with subprocess.Popen(command, env=pulse_microphone.env, stdout=pipe, stderr=pipe, text=True) as example:
        assert example.stderr is not None
        assert example.stderr.readline().startswith("listening to")
        pulse_microphone.speak((waveform * 32767).astype(np.int16), after_s=0.5)
        time.sleep(0.5 + len(waveform) / pulse_microphone.rate_hz + 1.0)
        example.send_signal(signal.SIGINT)
        text, complaints = example.communicate(timeout=60)
    assert example.returncode == 0, complaints
    assert text.strip()
    assert "Traceback" not in complaints


@pytest.fixture
def accented_digits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module that speaks two accents once."""
    spec = importlib.util.spec_from_file_location("accented_digits", EXAMPLES / "accented_digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("TAKES", 1), ("ENGLISH", ["en-gb"]), ("SPELLED", {"el": module.SPELLED["el"]})):
        monkeypatch.setattr(module, name, value)
    return module


def test_every_accent_spells_ten_digits(accented_digits: Any) -> None:
    assert len(accented_digits.DIGITS) == len(accented_digits.GERMAN) == 10
    assert {len(words.split()) for words in accented_digits.SPELLED.values()} == {10}


def test_spoken_digits_are_a_manifest_to_train_on(accented_digits: Any, tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    accented_digits.main(tmp_path)
    spoken = read_manifest(tmp_path / "synthetic" / "digits" / "train.jsonl")
    assert [item.texts for item in spoken[1::10]] == [{"en": "one", "de": "eins"}] * 2
    assert len({item.speaker for item in spoken}) == 2
    for item in spoken:
        waveform = be.read_audio(item.path, 16_000)
        assert 0.15 < item.duration_s == pytest.approx(len(waveform) / 16_000, abs=1e-3)
        assert np.sqrt(np.mean(waveform**2)) > 0.005


def test_without_espeak_it_says_what_to_install(
    accented_digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="espeak-ng is not on the path; install it"):
        accented_digits.main(tmp_path)
    assert not list(tmp_path.iterdir())
