"""Files and pipes of `bestow-edge run`, in a process of its own: what goes in, and the files that come out."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from commands import IN_BACKGROUND, run_demo

from bestow_edge.core.prompts import Pair, Question

soundfile = pytest.importorskip("soundfile")
srt = pytest.importorskip("srt")
EXAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "digits_en.wav"
DIGITS = "nine one five seven zero"
ENGLISH = ("--lang", "en-en")
COMMAND = [sys.executable, "-m", "bestow_edge", "-q", "run"]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a new process."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, check=False, timeout=240, **options)  # type: ignore[call-overload] # options of any kind
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done  # type: ignore[no-any-return] # as above


@pytest.fixture
def flac(tmp_path: Path) -> Path:
    """The example as flac of 44.1 kHz and two channels."""
    samples, _ = soundfile.read(EXAMPLE, dtype="float32")
    at = np.arange(0, len(samples) - 1, 16_000 / 44_100)
    samples = np.interp(at, np.arange(len(samples)), samples)
    soundfile.write(tmp_path / "digits.flac", np.stack([samples, samples], axis=1), 44_100)
    return tmp_path / "digits.flac"


# --- pipes ---


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_standard_input(flac: Path, stream: tuple[str, ...]) -> None:
    for path in (EXAMPLE, flac):
        done = run("-", *ENGLISH, *stream, input=path.read_bytes())
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"{DIGITS}\n", b"")


def test_standard_input_by_its_path_and_from_a_file() -> None:
    assert run("/dev/stdin", *ENGLISH, input=EXAMPLE.read_bytes()).stdout.decode() == f"{DIGITS}\n"
    with EXAMPLE.open("rb") as file:
        assert run("-", *ENGLISH, stdin=file).stdout.decode() == f"{DIGITS}\n"


def test_samples_without_a_header() -> None:
    samples = soundfile.read(EXAMPLE, dtype="int16")[0].tobytes()
    assert run("-", "--raw", 16_000, *ENGLISH, input=samples).stdout.decode() == f"{DIGITS}\n"
    refused = run("-", "--raw", 1, input=samples)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"standard input: sampling rate of 1 Hz, expected 4000 to 768000 Hz" in refused.stderr


def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[EXAMPLE.read_bytes()])
    thread.start()
    assert run(tmp_path / "pipe", *ENGLISH).stdout.decode() == f"{DIGITS}\n"
    thread.join()


def test_standard_input_that_is_no_audio() -> None:
    for content, problem in ((b"", b"nothing came"), (b"text " * 500, b"cannot be read as audio")):
        done = run("-", input=content)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, b"", 1)
        assert done.stderr.startswith(b"error: standard input: " + problem)


def read_until(output: IO[bytes], wanted: bytes, found: bytearray) -> None:
    while wanted not in found and (got := os.read(output.fileno(), 1000)):
        found += got


def test_text_comes_before_the_input_ends() -> None:
    """The header of ffmpeg's pipe, speech, and no end: the text is there while the writer is silent."""
    samples = soundfile.read(EXAMPLE, dtype="int16")[0]
    silence = np.zeros(3 * 16_000, np.int16)
    content = EXAMPLE.read_bytes()
    header = bytearray(content[: content.index(b"data") + 8])
    header[-4:] = b"\xff\xff\xff\xff"
    with subprocess.Popen(
        [*COMMAND, "-", "--stream", *ENGLISH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(header + samples.tobytes() + silence.tobytes())
        process.stdin.flush()
        found = bytearray()
        reader = threading.Thread(target=read_until, args=[process.stdout, b"zero", found])
        reader.start()
        reader.join(120)
        assert found.decode() == DIGITS
        assert process.poll() is None
        process.stdin.write(samples.tobytes())
        rest, _ = process.communicate(timeout=120)
        assert rest.decode()[0] == "\n"  # a pause begins a line
        assert rest.decode().split() == DIGITS.split()
        assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals of Unix")
@pytest.mark.parametrize(("ignores_ctrl_c", "signum", "code"), [(False, 2, 0), (False, 15, 143), (True, 15, 143)])
def test_signals_end_a_pipe_and_its_text_is_written(
    tmp_path: Path, ignores_ctrl_c: bool, signum: int, code: int
) -> None:
    arguments = [*COMMAND, "-", "--raw", "16000", *ENGLISH, "--stream", "--output", str(tmp_path / "live.srt")]
    arguments = [*IN_BACKGROUND, *arguments] if ignores_ctrl_c else arguments
    samples = soundfile.read(EXAMPLE, dtype="int16")[0].tobytes()
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(samples)  # more than a pipe holds: the command reads
        process.stdin.flush()
        time.sleep(2)
        if ignores_ctrl_c:
            process.send_signal(2)
            time.sleep(1)
            assert process.poll() is None
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in err) == (code, False)
    assert DIGITS in " ".join(cue.content for cue in srt.parse((tmp_path / "live.srt").read_text(encoding="utf-8")))


# --- folders, patterns, names ---


def test_a_folder_and_a_pattern(capsys: pytest.CaptureFixture[str], tmp_path: Path, flac: Path) -> None:
    (tmp_path / "b.WAV").write_bytes(EXAMPLE.read_bytes())
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "inner.wav").mkdir()
    wanted = "".join(f"{path}: {DIGITS}\n" for path in (tmp_path / "b.WAV", flac))
    assert run_demo(capsys, "run", tmp_path, *ENGLISH) == (0, wanted, "")
    assert run_demo(capsys, "run", f"{tmp_path}/*[gc]", *ENGLISH) == (0, f"{DIGITS}\n", "")
    (tmp_path / "empty").mkdir()
    code, out, err = run_demo(capsys, "run", tmp_path / "empty", f"{tmp_path}/*.mp3", flac, *ENGLISH)
    assert (code, out) == (2, f"{flac}: {DIGITS}\n")
    assert [line.split(": ")[2].split(",")[0] for line in err.splitlines()] == [
        "is a directory", "no such file; expected an audio file; check the path"
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    paths = [os.fsencode(tmp_path) + b"/" + name for name in (b"a.wav", b"stra\xdfe.wav", b"z.wav")]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(EXAMPLE.read_bytes())
    done = subprocess.run([*COMMAND, *paths, *ENGLISH, "-o", tmp_path / "out"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir())
    assert names == [b"a.txt", b"stra\xdfe.txt", b"z.txt"]


def test_opposite_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, _ = soundfile.read(EXAMPLE)
    soundfile.write(tmp_path / "anti.wav", np.stack([samples, -samples], axis=1), 16_000)
    code, out, err = run_demo(capsys, "run", tmp_path / "anti.wav", *ENGLISH)
    assert (code, out) == (0, f"{DIGITS}\n")
    assert "anti.wav: its channels cancel each other out" in err


# --- files that are written ---


def test_subtitles_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for stream in ((), ("--stream",)):
        code, out, err = run_demo(capsys, "run", EXAMPLE, *ENGLISH, "--format", "srt", *stream)
        (cue,) = srt.parse(out)
        assert (code, err, cue.content) == (0, "", DIGITS)
        assert 0 < cue.start.total_seconds() < 1
        assert 3 < cue.end.total_seconds() < 4.1


def test_a_file_for_each_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    both = ("--lang", "en-en,en-de")
    code, out, err = run_demo(capsys, "run", EXAMPLE, *both, "--output", tmp_path / "talk.vtt")
    names = ["talk.en-de.vtt", "talk.en-en.vtt"]
    assert (code, out, sorted(path.name for path in tmp_path.iterdir())) == (0, "", names)
    assert err == "".join(f"{EXAMPLE}: written to {tmp_path / name}\n" for name in reversed(names)).rstrip("\n")
    assert (tmp_path / names[1]).read_text(encoding="utf-8").startswith("WEBVTT\n\n00:00:00.")
    run_demo(capsys, "run", EXAMPLE, *both, "--format", "tsv", "-o", tmp_path / "new" / "folder/")
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == [
        "digits_en.en-de.tsv", "digits_en.en-en.tsv"
    ]  # fmt: skip
    run_demo(capsys, "run", EXAMPLE, *both, "-o", tmp_path / "talk.json")
    record = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert record["texts"]["en-en"] == DIGITS
    assert [cue["text"] for cue in record["cues"]["en-en"]] == [DIGITS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lang", "en-en,en-de", "--format", "srt"], "--format srt of 2 texts: give --output FOLDER, for a file"),
        ([EXAMPLE, "--format", "vtt"], "--format vtt of 2 recordings: give --output FOLDER"),
        ([EXAMPLE, "--output", "FOLDER/a.srt"], "is one file for 2 recordings; give a folder"),
        ([EXAMPLE, "--output", "FOLDER"], "2 recordings are named digits_en; write them to different folders"),
        (["--output", "FOLDER/no/a.srt"], "no such folder"),
        (["--output", "FOLDER/a.doc"], "its suffix is none of txt, srt, vtt, tsv, json; give --format"),
        (["--json", "--format", "srt"], "--json and --format srt: give one of them"),
        (["--format", "pdf"], "'--format'"),
        (["-", "-"], "standard input (-) is given twice"),
    ],
)
def test_outputs_that_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[object], message: str
) -> None:
    given = [str(option).replace("FOLDER", str(tmp_path)) for option in options]
    code, out, err = run_demo(capsys, "run", EXAMPLE, *given)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_names_of_questions() -> None:
    from bestow_edge.cli.inputs import Input
    from bestow_edge.cli.outputs import Output

    prompts = [Pair("en", "de"), Question("en", "Who?"), Question("en", "Where?")]
    paths = Output("srt", Path("out"), in_folder=True).paths(Input(Path("a/talk.wav")), prompts)
    assert [path.name for path in paths] == ["talk.en-de.srt", "talk.answer-1.srt", "talk.answer-2.srt"]


# --- long audio ---


@pytest.mark.slow
def test_ten_minutes_are_lines_and_flat_memory(tmp_path: Path) -> None:
    """Ten minutes of 48 kHz stereo through a pipe; half a minute and the whole take the same memory."""
    samples, _ = soundfile.read(EXAMPLE, dtype="int16")
    part = np.repeat(np.concatenate([samples, np.zeros(32_000, np.int16)]), 3)
    piece = np.stack([part, part], axis=1).tobytes()

    def peak_kb(seconds: int) -> tuple[int, list[str]]:
        path = tmp_path / "talk.wav"
        with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
            for _ in itertools.repeat(None, round(seconds * 48_000 * 4 / len(piece))):
                file.buffer_write(piece, "int16")
        script = (
            "import resource, sys; from bestow_edge.cli.main import main\ntry: main(sys.argv[1:])\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        command = [sys.executable, "-c", script, "-q", "run", path, "--stream", "--bundle", "demo", *ENGLISH]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
        return int(done.stderr.split()[-1]), done.stdout.splitlines()

    short, _ = peak_kb(30)
    long, lines = peak_kb(600)
    assert long - short < 40_000
    assert 60 < len(lines) < 200
    assert max(map(len, lines)) < 200
