"""`--trace` of `run` and `mic`, and `bestow-edge replay`: the recorded text, other settings, exit codes."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from commands import run_demo, run_here
from microphones import PulseMicrophone, rest_of

from bestow_edge.runtime import AlignAtt, Event, Session, embedded_bundle
from bestow_edge.runtime.records.trace import Tracer, read_trace

soundfile = pytest.importorskip("soundfile")
RUN = (sys.executable, "-c", "from bestow_edge.cli.main import main; main()")
ALIGN_ATT = {"name": "align-att", **asdict(AlignAtt())}
EXAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "digits_en.wav"


@pytest.fixture
def trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    path = tmp_path / "talk.trace"
    assert run_demo(capsys, "run", EXAMPLE, "--stream", "--k", 4, "--trace", path)[0] == 0
    return path


def test_the_recorded_text_comes_again(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    _, text, _ = run_demo(capsys, "run", EXAMPLE, "--stream", "--k", 4)
    assert len(text) > 10
    assert run_demo(capsys, "replay", trace) == (0, f"{text}same text as recorded\n", "")
    assert set(read_trace(trace).feeds["samples"][:-2]) == {1280}
    code, out, err = run_demo(capsys, "replay", trace, "--k", 4, "--json")
    record = json.loads(out)
    assert (code, err, record["changed"], record["difference"]) == (0, "", False, None)
    assert (record["file"], record["finished"]) == (str(trace), True)
    (both,) = record["texts"]
    assert both["recorded"] == both["replayed"]
    assert both["recorded"]["policy"] == {"name": "wait-k", "k": 4, "l": 4, "lookahead": 13}
    assert (both["lang"], both["recorded"]["text"] + "\n") == ("en-en", text)


def test_other_settings_show_both_texts(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    code, out, err = run_demo(capsys, "replay", trace, "--l", 3, "--lookahead", 1)
    recorded, replayed, difference = out.splitlines()
    assert (code, err.count("\n")) == (0, 0)
    assert err.startswith("warning: K=4, L=3: models are trained with L=4")
    _, text, _ = run_demo(capsys, "run", EXAMPLE, "--stream", "--k", 4, "--l", 3, "--lookahead", 1)
    assert recorded.startswith("recorded, en-en wait-k k=4 l=4 look-ahead 13: ")
    assert replayed + "\n" == f"replayed, en-en wait-k k=4 l=3 look-ahead 1: {text}"
    assert difference.startswith("first difference: event ")
    for policy, shown in [
        (["offline"], {"name": "offline"}),
        (["align-att", "--threshold", 6], ALIGN_ATT | {"threshold": 6}),
        (["local-agreement", "--l", 6], {"name": "local-agreement", "n": 2, "l": 6}),
        (["wait-k", "--k", 5], {"name": "wait-k", "k": 5, "l": 4}),
    ]:
        code, out, err = run_demo(capsys, "replay", trace, "--json", "--policy", *policy)
        record = json.loads(out)
        assert (code, err, record["changed"]) == (0, "", True)
        assert record["texts"][0]["replayed"]["policy"] == shown | {"lookahead": 13}


def test_a_difference_is_shown_and_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Tracer._note

    def forgetful(self: Tracer, samples: np.ndarray, started_s: float, events: list) -> None:
        note(self, samples, started_s, events[:-2])

    monkeypatch.setattr(Tracer, "_note", forgetful)
    other = tmp_path / "other.trace"
    run_demo(capsys, "run", EXAMPLE, "--stream", "--k", 4, "--trace", other)
    code, out, err = run_demo(capsys, "replay", other)
    assert (code, err) == (1, "")
    assert "\nfirst difference: event " in out
    assert out.startswith("recorded, en-en wait-k k=4 l=4 look-ahead 13: ")
    code, out, _ = run_demo(capsys, "replay", other, "--json")
    assert (code, json.loads(out)["changed"]) == (1, False)


def test_wrong_use(capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.trace"
    for arguments, message in [
        (["run", EXAMPLE, EXAMPLE, "--stream", "--trace", new], "--trace records one file with --stream: give one"),
        (["run", EXAMPLE, "--trace", new], "--trace records one file with --stream: give one FILE and --stream"),
        (["run", EXAMPLE, "--stream", "--trace", trace], "talk.trace exists; a trace replaces no file"),
        (["replay", new], "new.trace: no such file; expected a trace"),
        (["replay", EXAMPLE], "digits_en.wav: not a trace"),
        (
            ["replay", trace, "--policy", "offline", "--k", 3],
            "k: policy offline has none; leave it out or choose another",
        ),
        (["replay", trace, "--lookahead", 5], "lookahead 5: this model has"),
        (["replay", trace, "--policy", "wait"], "'--policy'"),
    ]:
        code, out, err = run_demo(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), arguments
        assert message in err
    assert not new.exists()


def test_ctrl_c_in_run_leaves_what_was_heard(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, fed = Session.feed, []

    def interrupted(self: Session, samples: np.ndarray) -> list[Event]:
        fed.append(samples)
        if len(fed) > 35:
            raise KeyboardInterrupt
        return feed(self, samples)

    path = tmp_path / "cut.trace"
    with monkeypatch.context() as patch:
        patch.setattr(Session, "feed", interrupted)
        code, text, _ = run_demo(capsys, "run", EXAMPLE, "--stream", "--k", 4, "--trace", path)
    assert code == 130
    assert (len(read_trace(path).feeds), read_trace(path).header.finished) == (35, False)
    assert run_demo(capsys, "replay", path) == (0, f"{text}same text as recorded\n", "")
    assert len(text) > 3


def test_another_bundle_is_compared_if_wanted(capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(embedded_bundle("demo"), copy)
    manifest = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    (copy / "bundle.json").write_text(json.dumps(manifest | {"checkpoint_sha256": "0" * 64}), encoding="utf-8")
    code, out, err = run_demo(capsys, "replay", trace, "--bundle", copy)
    assert (code, out) == (2, "")
    assert "recorded with checkpoint " in err
    assert err.endswith("name the recorded one with --bundle, or compare the two with --any-bundle")
    code, out, err = run_demo(capsys, "replay", trace, "--bundle", copy, "--any-bundle")
    assert (code, err, out.splitlines()[-1]) == (0, "", "same text as recorded")
    assert [line.split(",")[0] for line in out.splitlines()[:-1]] == ["recorded", "replayed"]
    assert run_demo(capsys, "replay", trace, "--any-bundle")[1].count("\n") == 2  # it is the recorded one


@pytest.mark.mic
@pytest.mark.slow
def test_ctrl_c_in_mic_leaves_a_complete_trace(
    capsys: pytest.CaptureFixture[str], pulse_microphone: PulseMicrophone, tmp_path: Path
) -> None:
    spoken, rate_hz = soundfile.read(EXAMPLE, dtype="int16")
    assert rate_hz == pulse_microphone.rate_hz
    pulse_microphone.speak(spoken, after_s=0)
    path = tmp_path / "mic.trace"
    process = subprocess.Popen(
        [*RUN, "mic", "--json", "--trace", path, "--mic-device", pulse_microphone.name, "--device-rate", str(rate_hz)],
        env=pulse_microphone.env | {"PYTHONIOENCODING": "utf-8"},
        cwd=pulse_microphone.folder,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = rest_of(process)
    assert process.returncode == 0
    text = "".join(json.loads(line).get("text", "") for line in (first + out).splitlines())
    assert read_trace(path).header.finished
    # without --bundle: the embedded model that recorded it is found by its manifest's hash
    assert run_here(capsys, "replay", path) == (0, f"{text}\nsame text as recorded\n", "")
    assert [item.name for item in tmp_path.iterdir() if "trace" in item.name] == ["mic.trace"]
