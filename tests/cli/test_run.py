"""`bestow-edge run`: audio of every kind, bad files, bad options, and the form of what is printed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_here
from typer.testing import CliRunner

from bestow_edge.cli.main import app
from bestow_edge.core.embedded import embedded_bundle, find_bundle
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK

soundfile = pytest.importorskip("soundfile")
TEXT_FIELDS = ("event", "lang", "text", "start_s", "end_s", "heard_s", "log_prob", "segment", "prompt")


def whole(model_dir: Path, waveform: np.ndarray, **policy: Any) -> str:
    """Return what the Python API writes for a waveform."""
    from bestow_edge.runtime import load

    with load(model_dir).session(source="en", **policy) as session:
        return "".join(event.text for event in [*session.feed(waveform), *session.finish()])


@pytest.mark.parametrize("stream", [False, True])
def test_text_is_the_sessions(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path, stream: bool) -> None:
    from bestow_edge.runtime import read_audio

    options = ["--stream", "--k", 4, "--l", 4] if stream else []
    code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, *options)
    policy: dict[str, Any] = {"k": 4, "l": 4} if stream else {"policy": Offline()}
    assert (code, err) == (0, "")
    assert out.split() == whole(tiny_bundle, read_audio(wav, 16_000), **policy).split()


def test_json(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path) -> None:
    code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, "--stream", "--json", "--lookahead", 1)
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert set(record) == {"file", "lang", "text", "cues", "duration_s", "wall_s", "rtf", "policy", "events"}
    assert " ".join(cue["text"] for cue in record["cues"]).split() == record["text"].split()
    assert (record["file"], record["lang"], record["duration_s"]) == (str(wav), "en-en", 3.0)
    assert record["policy"] == {"name": "wait-k", "k": 3, "l": 4, "lookahead": 1}
    assert "".join(event.get("text", "") for event in record["events"]) == record["text"] != ""
    kinds = [event["event"] for event in record["events"]]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("segment-start", {"text"}, "segment-end")
    assert set(record["events"][0]) == {"event", "segment", "time_s"}
    assert set(record["events"][1]) == set(TEXT_FIELDS)
    assert record["events"][1]["lang"] == "en-en"
    code, out, _ = run_here(capsys, "run", wav, "--bundle", tiny_bundle, "--json", "--lang", "en-de")
    record = json.loads(out)
    assert (record["lang"], record["policy"]) == ("en-de", {"name": "offline", "lookahead": 13})
    assert "events" not in record


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (["wait-k", "--k", 4], WaitK(4, 4)),
        (["offline"], Offline()),
        (["align-att", "--threshold", 2, "--l", 3], AlignAtt(2, l=3)),
        (["local-agreement", "--l", 6], LocalAgreement(2, 6)),
    ],
)
def test_every_policy_streams(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path, options: list[object], policy: Policy
) -> None:
    from bestow_edge.runtime import read_audio

    code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, "--stream", "--json", "--policy", *options)
    record = json.loads(out)
    assert (code, err) == (0, "")
    fields: Any = policy  # a dataclass
    assert record["policy"] == {"name": options[0], **asdict(fields), "lookahead": 13}
    assert record["text"] == whole(tiny_bundle, read_audio(wav, 16_000), policy=policy)


def test_a_beam_searches(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path) -> None:
    from bestow_edge.runtime import read_audio

    texts = []
    for beam in (1, 4):
        code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, "--json", "--beam", beam)
        record = json.loads(out)
        assert (code, err) == (0, "")
        assert record["policy"] == {"name": "offline", "lookahead": 13} | ({"beam": beam} if beam > 1 else {})
        assert record["text"] == whole(tiny_bundle, read_audio(wav, 16_000), policy=Offline(), beam_size=beam)
        texts.append(record["text"])
    assert texts[0] != texts[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_bidirectional_bundle(
    capsys: pytest.CaptureFixture[str], bidirectional_bundle: Path, wav: Path, stream: bool
) -> None:
    from bestow_edge.runtime import read_audio

    options = ["--stream"] if stream else []
    code, out, err = run_here(capsys, "run", wav, "--bundle", bidirectional_bundle, "--json", *options)
    record = json.loads(out)
    assert (code, err) == (0, "")
    policy: dict[str, Any] = {"name": "wait-k", "k": 3, "l": 4} if stream else {"name": "offline"}
    assert record["policy"] == policy | {"lookahead": 13}  # the right context
    session: dict[str, Any] = {} if stream else {"policy": Offline()}
    assert record["text"] == whole(bidirectional_bundle, read_audio(wav, 16_000), **session) != ""
    code, out, err = run_here(capsys, "run", wav, "--bundle", bidirectional_bundle, "--lookahead", 1)
    assert (code, out) == (2, "")
    assert "error: lookahead 1: this model has 13" in err


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels", "subtype"),
    [
        ("a.wav", 8_000, 1, "PCM_16"),
        ("a.wav", 44_100, 2, "PCM_16"),
        ("a.wav", 48_000, 1, "PCM_24"),
        ("a.wav", 16_000, 1, "PCM_U8"),
        ("a.wav", 16_000, 2, "PCM_32"),
        ("a.wav", 16_000, 1, "FLOAT"),
        ("a.flac", 16_000, 1, "PCM_16"),
        ("a.ogg", 16_000, 1, "VORBIS"),
        ("a.mp3", 16_000, 1, "MPEG_LAYER_III"),
    ],
)
def test_audio_of_every_kind(
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    speech: np.ndarray,
    name: str,
    rate_hz: int,
    channels: int,
    subtype: str,
) -> None:
    path = tmp_path / name
    soundfile.write(path, np.repeat(speech[:rate_hz, None], channels, axis=1), rate_hz, subtype=subtype)
    code, out, err = run_here(capsys, "run", path, "--bundle", tiny_bundle, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["duration_s"] == pytest.approx(len(speech[:rate_hz]) / rate_hz, abs=0.1)


def test_silence_and_a_few_samples_work(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "short.wav", np.full(200, 0.1), 16_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(1), 48_000)  # less than a sample at 16 kHz
    paths = [tmp_path / f"{name}.wav" for name in ("silent", "short", "none")]
    code, out, err = run_here(capsys, "run", *paths, "--bundle", tiny_bundle, "--json")
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["text"] for record in records[1:]] == ["", ""]
    assert [record["rtf"] is None for record in records] == [False, False, True]


def test_bad_files_are_reported_and_the_others_done(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path, wav: Path
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio " * 10)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    names = ["gone.wav", "empty.wav", "text.wav", "none.wav"]
    paths = [*(tmp_path / name for name in names), wav]
    code, out, err = run_here(capsys, "run", *paths, "--bundle", tiny_bundle)
    assert code == 2
    assert out.startswith(f"{wav}: ")
    problems = ["no such file", "is empty (0 bytes)", "cannot be read as audio", "has no samples"]
    assert len(err.splitlines()) == 4
    for line, name, problem in zip(err.splitlines(), names, problems, strict=True):
        assert line.startswith(f"error: {tmp_path / name}: {problem}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lang", "en-fr"], "error: language pair en-fr: this model was trained for en-en, en-de, de-de, de-en"),
        (["--lang", "klingon"], "error: language pair 'klingon': expected SOURCE-TARGET such as en-de"),
        (["--lookahead", 5], "error: lookahead 5: this model has 13, 6, 1, 0"),
        (["--k", 3], "k: only for a stream; without one all is heard before text comes"),
        (["--latency", "2s"], "latency: only for a stream; without"),
        (["--policy", "align-att", "--threshold", 3], "policy, threshold: only for a stream; without"),
        (["--stream", "--policy", "align-att", "--k", 3], "k: policy align-att has none; leave it out or choose"),
        (["--stream", "--policy", "offline", "--l", 3], "l: policy offline has none"),
        (["--stream", "--threshold", 3], "threshold: policy wait-k has none; leave it out or choose another"),
        (["--policy", "wait"], "'--policy'"),
        (["--beam", 0], "'--beam'"),
        (
            ["--beam", 2, "--stream"],
            "a beam searches one text of the whole audio; give one pair or question",
        ),
        (["--beam", 2, "--lang", "en-en,en-de"], "a beam searches one text of the whole audio"),
        (["--k", 0, "--stream"], "'--k'"),
        (["--device", "tpu"], "error: device 'tpu': expected cpu, "),
        (["--device", "cuda"], "cuda"),  # no package, no driver or no GPU
        (["--speed", 2], "--speed"),
    ],
)
def test_bad_options(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path, options: list[object], message: str
) -> None:
    code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, *options)
    if code == 0 and "cuda" in options:
        pytest.skip("this machine has CUDA")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err


def test_no_file_and_no_such_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(capsys, "run") == (2, "", "error: Missing argument 'FILE'; see bestow-edge run --help\n")
    assert run_here(capsys, "walk") == (2, "", "error: No such command 'walk'; see bestow-edge --help\n")


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("data", "engines"):
        code, out, err = run_here(capsys, group)
        assert (code, err) == (0, "")
        assert f"Usage: bestow-edge {group}" in out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "mic", "replay", "devices", "doctor", "verify", "inspect", "export", "train"):
        done = CliRunner().invoke(app, [command, "--help"])
        assert done.exit_code == 0
        assert "Examples:" in done.output
    assert "Run, export and train" in run_here(capsys)[1]
    assert run_here(capsys, "--version")[1].startswith("bestow-edge ")


def test_help_imports_nothing_heavy(cli: Callable[..., Any]) -> None:
    heavy = ("numpy", "onnxruntime", "torch", "transformers", "sounddevice")
    blocked = f"import sys\nfor name in {heavy}: sys.modules[name] = None"
    assert cli("--help", before=blocked).returncode == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "people"),
        (("--lang", "de-en,de-de"), "people"),
        (("--lang", "en-en,en-de"), "demo"),
        (("--stream", "--lookahead", 6), "demo"),
        (("--lang", "en", "--ask", "Who speaks?"), "demo"),
    ],
)
def test_without_a_bundle_the_first_that_can_is_named_once(
    cli: Callable[..., Any], wav: Path, options: tuple[object, ...], name: str
) -> None:
    done = cli("run", wav, *options)
    assert done.stderr.count(f"no bundle given: using the embedded model {name!r}") == 1


def test_an_embedded_bundle_by_name(
    cli: Callable[..., Any], wav: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("inspect", "demo", "--json").stdout == cli("inspect", embedded_bundle("demo"), "--json").stdout
    done = cli("run", wav, "--bundle", "people", "--lang", "en-de")
    assert (done.returncode, "en-en, de-de, de-en" in done.stderr) == (2, True)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle, "demo")  # a directory of that name comes first
    assert find_bundle("demo") == Path("demo")


def test_hotwords(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path, tmp_path: Path) -> None:
    from bestow_edge.runtime import Hotword, read_audio

    (tmp_path / "names.txt").write_text("three\none :5\n", encoding="utf-8")
    words, waveform = [Hotword("three", 20.0), Hotword("one", 5.0)], read_audio(wav, 16_000)
    for given in ("three, one :5", tmp_path / "names.txt"):
        code, out, err = run_here(
            capsys, "run", wav, "--bundle", tiny_bundle, "--hotwords", given, "--hotword-weight", 20
        )
        assert (code, err) == (0, "")
        assert out == whole(tiny_bundle, waveform, policy=Offline(), hotwords=words) + "\n"
        assert "three" in out
    assert "three" not in whole(tiny_bundle, waveform, policy=Offline())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hotwords", ""], "hotwords '': expected at least one"),
        (["--hotwords", "Rom :x"], "'x' is no weight"),
        (["--hotwords", "Rom", "--hotword-weight", 21], "hotword 'Rom': weight 21.0, expected 0 to 20"),
        (["--hotwords", "Rom", "--hotword-weight", "heavy"], "Invalid value for '--hotword-weight'"),
        (["--hotword-weight", 3], "--hotword-weight 3: expected --hotwords too; give both or none"),
        (["--hotwords", "<pad>"], "the tokenizer writes"),
    ],
)
def test_wrong_hotwords(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, wav: Path, options: list[object], message: str
) -> None:
    code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, *options)
    assert (code, out, message in err) == (2, "", True), err
