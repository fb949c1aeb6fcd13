"""`--latency`: what it excludes, the line that tells the choice, and the warnings."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from microphones import VirtualMicrophone
from rich.console import Console

from bestow_edge.cli.show import console, delay
from bestow_edge.core.delay import Choice
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.request import Request
from bestow_edge.runtime import Model, load
from bestow_edge.runtime.calibration import Calibration

CHOSEN = "latency 2.5 s: K=4, L=4, look-ahead 13 (2.32 s)"
RUN = [sys.executable, "-c", "from bestow_edge.cli.main import main; main()", "mic"]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the commands' console writes, with a terminal's colours."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, color_system="standard", highlight=False, markup=False)
    monkeypatch.setattr(console, "err", terminal)
    monkeypatch.setattr(delay, "err", terminal)
    return written


@pytest.mark.parametrize("text", ["2.5s", "2500ms", "2.5"])
def test_run_as_with_the_choice_itself(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path, text: str
) -> None:
    common = ["run", wav, "--bundle", tiny_bundle, "--stream", "--json"]
    code, out, err = run_here(capsys, *common, "--latency", text)
    assert (code, err) == (0, CHOSEN + "\n")
    plain = json.loads(run_here(capsys, *common, "--k", 4, "--l", 4, "--lookahead", 13)[1])
    record = json.loads(out)
    assert (record["policy"], record["events"]) == (plain["policy"], plain["events"])


@pytest.mark.parametrize("command", [["run", "any.wav", "--stream"], ["mic"]])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latency", "2.5s", "--k", 3], "latency chooses k, l and lookahead; leave them out"),
        (["--latency", "2.5s", "--l", 4], "latency chooses k, l and lookahead; leave them out"),
        (["--latency", "2.5s", "--lookahead", 13], "latency chooses k, l and lookahead; leave them out"),
        (["--latency", "2.5s", "--policy", "align-att"], "latency is for wait-k; leave out policy and threshold"),
        (["--latency", "2.5s", "--threshold", 4], "latency is for wait-k; leave out policy and threshold"),
        (["--latency", "soon"], "error: latency 'soon': expected seconds or milliseconds"),
        (["--latency", "50ms"], "error: latency 0.05 s: the shortest possible with this model is K=1, L=1, look-"),
    ],
)
def test_wrong_use(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, command: list[str], options: list[object], message: str
) -> None:
    code, out, err = run_here(capsys, *command, "--bundle", tiny_bundle, *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err


def test_a_choice_outside_of_training_is_said(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path) -> None:
    code, _, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, "--stream", "--latency", "0.5")
    assert code == 0
    chosen, warning = err.splitlines()
    assert chosen == "latency 0.5 s: K=1, L=4, look-ahead 1 (0.40 s)"
    assert warning == "warning: K=1, L=4: models are trained with L=4 and K from 3 to 12; expect more mistakes"


def test_a_bidirectional_encoder_keeps_its_right_context(
    capsys: pytest.CaptureFixture[str], bidirectional_bundle: Path, wav: Path
) -> None:
    common = ["run", wav, "--bundle", bidirectional_bundle, "--stream", "--json"]
    code, out, err = run_here(capsys, *common, "--latency", "2.5s", "--lang", "en-en,en-de")
    assert (code, err) == (0, CHOSEN + "\n")
    assert json.loads(out)["policy"] == {"name": "wait-k", "k": 4, "l": 4, "lookahead": 13}


def choose_on(walls_s: list[float], model_dir: Path, latency: str = "2.5s") -> tuple[Choice | None, list[object]]:
    """Choose for a latency on a machine that takes `walls_s` for its chunks."""
    calls: list[object] = []

    def calibrate(model: Model, _pairs: object, choice: Choice, seconds: float) -> Calibration:
        calls.append(seconds)
        chunk_s = (choice.lookahead + 1) * model.config.step_s
        return Calibration(chunk_s=chunk_s, chunk_walls_s=tuple(walls_s))

    request, model = Request(latency=latency), load(model_dir)
    delay.announce(request, model, calibrate)
    return request.choose(model.config), calls


def test_a_fast_machine(stderr: io.StringIO, tiny_bundle: Path) -> None:
    choice, calls = choose_on([0.02] * 9, tiny_bundle)
    assert choice == Choice(k=4, l=4, lookahead=13, delay_s=2.32)
    assert calls == [2.0]
    assert CHOSEN + ", this machine adds 0.02 s\n" in stderr.getvalue()
    assert "measuring" in stderr.getvalue()
    assert "warning" not in stderr.getvalue()


def test_a_slow_machine_is_warned_in_yellow(stderr: io.StringIO, tiny_bundle: Path) -> None:
    choose_on([1.12, 1.68], tiny_bundle)
    assert ", this machine adds 1.68 s\n" in stderr.getvalue()
    assert (
        "\x1b[33mwarning: this machine does not keep up: computing takes 1.25 s for each second of audio, "
        "1.50 s in slow chunks; text will come later and later. Try another number of --threads, an int8 bundle or a"
    ) in stderr.getvalue()


def test_a_longer_latency_is_advised_where_it_helps(stderr: io.StringIO, tiny_bundle: Path) -> None:
    choose_on([0.2] * 9, tiny_bundle, "1.0s")
    assert "Try a longer --latency (larger chunks cost less), another number of --threads" in stderr.getvalue()


def test_too_short_is_refused_before_anything_is_measured(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="the shortest possible"):
        choose_on([], tiny_bundle, "0.01s")


@pytest.mark.mic
def test_mic_measures_and_then_listens(
    file_microphone: Callable[[np.ndarray], VirtualMicrophone], tiny_bundle: Path, speech: np.ndarray
) -> None:
    microphone = file_microphone((speech * 32_767).astype(np.int16))
    options = ["--mic-device", microphone.name, "--device-rate", "16000", "--seconds", "3", "--latency", "2.5s"]
    options += ["--lang", "en-de"]
    done = subprocess.run(
        [*RUN, "--bundle", str(tiny_bundle), *options],
        env=microphone.env | {"PYTHONIOENCODING": "utf-8"},
        cwd=microphone.folder,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    chosen, *warnings, listening = done.stderr.splitlines()
    assert chosen.startswith(f"{CHOSEN}, this machine adds ")
    assert listening.startswith("listening to ")
    assert all(line.startswith("warning: this machine does not keep up") for line in warnings)
    with load(tiny_bundle).session(source="en", target="de", latency_s=2.5) as session:
        heard = (speech[: 3 * 16_000] * 32_767).astype(np.int16).astype(np.float32) / 32_768
        assert done.stdout == "".join(event.text for event in [*session.feed(heard), *session.finish()]) + "\n"
