"""`bestow-edge mic` on virtual microphones: text as it comes, Ctrl-C, limits."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from microphones import PulseMicrophone, VirtualMicrophone, rest_of

from bestow_edge.cli.show.captions import Status, level_db

RUN = [sys.executable, "-c", "from bestow_edge.cli.main import main; main()", "mic"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "digits_en.wav"
RATE_HZ = 16_000
BuildMicrophone = Callable[[npt.NDArray[np.int16]], VirtualMicrophone]


def start(microphone: VirtualMicrophone, *arguments: object) -> subprocess.Popen[str]:
    """Start the command and wait until it listens."""
    process = subprocess.Popen(
        [*RUN, "--mic-device", microphone.name, *map(str, arguments)],
        env=microphone.env | {"PYTHONIOENCODING": "utf-8"},
        cwd=microphone.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("listening to ")
    return process


def expected(bundle: Path, waveform: npt.NDArray[np.float32]) -> str:
    from bestow_edge.runtime import load

    with load(bundle).session(source="en") as session:
        return "".join(event.text for event in [*session.feed(waveform), *session.finish()])


@pytest.mark.mic
@pytest.mark.parametrize("as_json", [False, True])
def test_text_is_the_sessions(
    file_microphone: BuildMicrophone, tiny_bundle: Path, speech: npt.NDArray[np.float32], as_json: bool
) -> None:
    heard = (speech * 32_767).astype(np.int16)
    options = ["--bundle", tiny_bundle, "--device-rate", RATE_HZ, "--seconds", 3, *(["--json"] if as_json else [])]
    process = start(file_microphone(heard), *options)
    out, err = rest_of(process)
    assert (process.returncode, err) == (0, "")
    text = expected(tiny_bundle, heard[: 3 * RATE_HZ].astype(np.float32) / 32_768)
    if as_json:
        events = [json.loads(line) for line in out.splitlines()]
        assert "".join(event.get("text", "") for event in events) == text
        assert events[-1]["audio_s"] == 3.0
        assert set(events[0]) == {"event", "segment", "time_s", "audio_s", "wall_s"}
    else:
        assert out.split() == text.split()


@pytest.mark.mic
def test_several_pairs_and_a_policy(
    file_microphone: BuildMicrophone,
) -> None:  # by the demo: random weights write control characters, which end lines
    from bestow_edge.runtime import AlignAtt, TextEvent, embedded_bundle, load

    heard = pytest.importorskip("soundfile").read(EXAMPLE, dtype="int16")[0][: 3 * RATE_HZ]
    options = ["--bundle", embedded_bundle("demo"), "--device-rate", RATE_HZ, "--seconds", 3, "--policy", "align-att"]
    process = start(file_microphone(heard), *options, "--l", 3, "--lang", "en-en,en-de")
    out, err = rest_of(process)
    assert (process.returncode, err) == (0, "")
    langs, policy = ("en-en", "en-de"), AlignAtt(l=3)
    with load("demo").multi_session([(lang, policy) for lang in langs]) as session:
        events = session.feed(heard.astype(np.float32) / 32_768) + session.finish()
    for number, lang in enumerate(langs):
        told = [line.removeprefix(f"{lang}: ") for line in out.splitlines() if line.startswith(f"{lang}: ")]
        texts = [event.text for event in events if isinstance(event, TextEvent) and event.prompt == number]
        assert "".join(told) == "".join(texts) != ""
    assert len(out.splitlines()) > len(langs)


@pytest.mark.mic
def test_a_question_is_answered_at_the_end(
    file_microphone: BuildMicrophone, asked_bundle: Path, speech: npt.NDArray[np.float32]
) -> None:
    from bestow_edge.runtime import load

    heard = (speech[: 3 * RATE_HZ] * 32_767).astype(np.int16)
    options = ["--bundle", asked_bundle, "--device-rate", RATE_HZ, "--seconds", 3, "--lang", "en-en", "--json"]
    process = start(file_microphone(heard), *options, "--ask", "What was found?")
    out, err = rest_of(process)
    assert (process.returncode, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    answer = [event for event in events if event.get("question") == "What was found?"]
    assert {(event["lang"], event["audio_s"]) for event in answer} == {("en", 3.0)}
    assert any(event.get("lang") == "en-en" and "question" not in event for event in events)
    with load(asked_bundle).session(source="en", ask="What was found?") as session:
        alone = session.feed(heard.astype(np.float32) / 32_768) + session.finish()
    assert "".join(event["text"] for event in answer) == "".join(event.text for event in alone) != ""


@pytest.mark.mic
@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code", "said"), [(signal.SIGINT, 0, ""), (signal.SIGTERM, 143, "stopped by SIGTERM\n")]
)
def test_a_signal_flushes_and_ends_well(
    pulse_microphone: PulseMicrophone,
    tiny_bundle: Path,
    speech: npt.NDArray[np.float32],
    signum: int,
    code: int,
    said: str,
) -> None:
    pulse_microphone.speak((speech * 32_767).astype(np.int16), after_s=0)
    process = start(pulse_microphone, "--bundle", tiny_bundle, "--json", "--device-rate", RATE_HZ)
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while json.loads(lines[-1])["event"] != "text":
        lines.append(process.stdout.readline())
    process.send_signal(signum)
    out, err = rest_of(process)
    assert (process.returncode, err) == (code, said)
    events = [json.loads(line) for line in [*lines, *out.splitlines()]]
    # The last look-ahead of 1.1 s is encoded by finish() alone: its events see more audio than the first one could.
    assert len(events) > 1
    heard = [event["heard_s"] for event in events if event["event"] == "text"]
    assert heard[-1] > heard[0]
    assert events[-1]["wall_s"] < 30


@pytest.mark.mic
@pytest.mark.slow
def test_an_unplugged_microphone_is_waited_for_without_noise(
    pulse_microphone: PulseMicrophone, tiny_bundle: Path
) -> None:
    pulse_microphone.speak(np.zeros(0, np.int16), after_s=0)
    options = ["--bundle", tiny_bundle, "--device-rate", RATE_HZ, "--seconds", 4, "--wait", "--json"]
    process = start(pulse_microphone, *options)
    time.sleep(2)
    pulse_microphone.restart()
    _, err = rest_of(process)
    assert process.returncode == 0
    lost, back = err.splitlines()  # PortAudio printed `Expression ... failed in ...`
    assert "stopped delivering (" in lost
    assert lost.endswith("; waiting for it")
    assert back.endswith("is back")


@pytest.mark.mic
def test_unknown_device(file_microphone: BuildMicrophone, tiny_bundle: Path) -> None:
    microphone = file_microphone(np.zeros(100, np.int16))
    done = subprocess.run(
        [*RUN, "--mic-device", "no such", "--bundle", str(tiny_bundle)],
        env=microphone.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "there is none for input device 'no such'; give the index or name of one of: 0: wavmic" in done.stderr


def test_status_line() -> None:
    assert str(Status(-30.0, 0.2, 12.34)) == "[##########----------]  -30 dB  lag 0.2 s  keeping up  heard 12.3 s"
    late = str(Status(-90.0, 2.0, 60.0, num_overflows=3))
    assert late == "[--------------------]  -60 dB  lag 2.0 s  falling behind, audio lost 3 times  heard 60.0 s"
    assert level_db(np.full(100, 0.1, np.float32)) == pytest.approx(-20.0, abs=0.01)
    assert level_db(np.zeros(100, np.float32)) == -120.0
