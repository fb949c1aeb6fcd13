"""`bestow-edge eval`: one command from a manifest to tables, logs, curves and a report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")
pytest.importorskip("matplotlib")
pytest.importorskip("whisper_normalizer")

from bestow_edge.cli.evaluate import numbers
from bestow_edge.evaluation.scores.instances import read_log
from bestow_edge.evaluation.scores.lag import latency_scores, mean_scores

AUDIO = Path(__file__).parents[1] / "audio"
MANIFEST = AUDIO / "hd_digits" / "manifest.jsonl"
Cli = Callable[..., subprocess.CompletedProcess[str]]


class Page(HTMLParser):
    """Notes tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"} and tag in {"img", "a", "link"}]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four lines of a manifest, one with a reference that HTML must not take for its own."""
    lines = [json.loads(line) for line in MANIFEST.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["source_lang"] == "en"][:4]
    for line in lines:
        line["audio_filepath"] = str(MANIFEST.parent / line["audio_filepath"])
    lines[0]["translations"]["de"] = "null <b & so"
    path = tmp_path_factory.mktemp("few") / "few.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_everything_is_written_and_a_second_run_adds_settings(cli: Cli, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    asked = ["eval", few, "--lang", "en-de", "--metric", "chrf", "--threads", 1, "--out", out]
    first = cli(*asked, "--k", "3", "--json")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == record
    (setting,) = record["settings"]
    scores = setting["scores"]
    assert setting["name"] == "wait-k_k3_l4_lookahead13"
    assert scores["accuracy"]["value"] == 75
    assert scores["bleu"]["signature"].startswith("nrefs:1|")
    assert scores["NE"]["value"] == 0
    assert scores["FirstText"]["value"] <= scores["StartOffset"]["value"]
    assert 0 < scores["RTF"]["value"] < 1
    log = read_log(out / setting["name"] / "instances.log")
    for name, value in mean_scores(map(latency_scores, log)).items():
        assert scores[name]["value"] == value
        assert scores[name]["low"] <= value + 1e-6
    second = cli(*asked, "--k", "3,4", "--policy", "wait-k,offline")
    assert second.returncode == 0, second.stderr
    assert read_log(out / setting["name"] / "instances.log") == log  # the clock's times are the old ones
    assert all(text in second.stdout for text in ("wait-k_k4", "offline_lookahead13", "LAAL_CA", "[", "chrf"))
    assert len(json.loads((out / "results.json").read_text(encoding="utf-8"))["settings"]) == 3
    check_pictures(out)


def check_pictures(out: Path) -> None:
    svg = (out / "curve.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)  # noqa: S314 - our own file
    assert "wait-k, look-ahead 13" in svg  # text stays text
    assert len(svg) < 100_000
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(page)
    assert {"svg", "table", "details"} <= set(parsed.tags)
    assert "script" not in parsed.tags
    assert not parsed.links  # nothing to fetch
    assert "null &lt;b &amp; so" in page
    assert "<b " not in page


def test_lists_of_simuleval(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "source.txt").write_text(f"{AUDIO / 'fsdd' / '0_george_43.ogg'}\n", encoding="utf-8")
    (tmp_path / "target.txt").write_text("zero\n", encoding="utf-8")
    done = cli("eval", "source.txt", "--target", "target.txt", "--lang", "en-en", "--threads", 1, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "wer_normalized" in done.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"audio_filepath": "gone.wav"}, ":2: no such audio file"),
        ({"duration": -1}, ":2: duration -1 s; expected more than 0"),
        ({}, ":2: repeats"),
        ({"text": "", "translations": {"de": ""}, "offset": 0.1}, ":2: the reference is empty"),
    ],
)
def test_a_bad_manifest_is_one_sentence_and_no_result(
    cli: Cli, few: Path, tmp_path: Path, line: dict[str, Any], message: str
) -> None:
    good = json.loads(few.read_text(encoding="utf-8").splitlines()[1])
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in (good, good | line)), encoding="utf-8")
    done = cli("eval", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "3,x"], "--k 3,x: expected numbers such as 3,6,10 or a range such as 1-12"),
        (["--metric", "comet"], "--metric comet: expected one of wer,"),
        (["--lookahead", "5"], "lookahead 5: this model has 4"),
        (["--lang", "fr-de"], "this model was trained for"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--out", "."], "exists and is no evaluation"),
    ],
)
def test_bad_options(cli: Cli, few: Path, tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "something").touch()
    done = cli("eval", few, "--out", "out", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_stops_all_processes_and_the_same_command_goes_on(cli: Cli, few: Path, tmp_path: Path) -> None:
    options = [
        "eval",
        str(few),
        "--k",
        "1-12",
        "--lookahead",
        "13,6,1,0",
        "--jobs",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    code = "from bestow_edge.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as run:
        end_s = time.monotonic() + 60
        while not list(tmp_path.glob("out/*/instances.log")) and time.monotonic() < end_s:
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)
        complaints = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert "stopped; the same command goes on" in complaints
    assert "Traceback" not in complaints
    assert not (tmp_path / "out" / "results.json").exists()
    log = (tmp_path / "out" / "wait-k_k1_l4_lookahead13" / "instances.log").read_text(encoding="utf-8")
    assert cli(*options).returncode == 0
    goes_on = (tmp_path / "out" / "wait-k_k1_l4_lookahead13" / "instances.log").read_text(encoding="utf-8")
    assert set(log.splitlines()) <= set(goes_on.splitlines())


def test_numbers() -> None:
    assert numbers("--k", "") == []
    assert numbers("--k", "3, 6,10") == [3, 6, 10]
    assert numbers("--k", "1-3,12") == [1, 2, 3, 12]
    for text in ("a", "3-1", "1,,2", "-1"):
        with pytest.raises(typer.BadParameter, match="expected numbers"):
            numbers("--k", text)


def test_the_extra_is_named_where_it_is_missing(cli: Cli, few: Path) -> None:
    before = "import sys; sys.modules['sacrebleu'] = None"
    done = cli("eval", few, "--out", "out", before=before)
    assert done.returncode == 2
    assert "sacrebleu is not installed; run: pip install 'bestow-edge[eval]'" in done.stderr


def test_hotwords_are_part_of_the_results(cli: Cli, few: Path, tmp_path: Path) -> None:
    asked = ["eval", few, "--lang", "en-de", "--policy", "offline", "--threads", 1, "--out", tmp_path / "scores"]
    first = cli(*asked, "--hotwords", "Rom :20, Ulm", "--json")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert record["hotwords"] == {"Rom": 20, "Ulm": 4}
    log = read_log(tmp_path / "scores" / record["settings"][0]["name"] / "instances.log")
    assert any("Rom" in instance.prediction for instance in log)
    other = cli(*asked)
    assert other.returncode == 2
    assert "hotwords" in other.stderr
