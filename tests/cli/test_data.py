"""`bestow-edge data`: check, summary and shard, their exit codes and errors."""

import json
import re
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import run_here
from sentences import write_lines

from bestow_edge.cli.data import parse_size
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.training.recipe.data import DataRecipe

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]


def test_check(sentences: Path, capsys: Capture, tmp_path: Path) -> None:
    code, out, err = run_here(
        capsys, "data", "check", sentences / "train.jsonl", sentences / "texts.tsv.gz", "--jobs", 2
    )
    assert (code, err) == (0, "")
    assert out == "81 lines, 0.01 h decoded: no problems\n"
    lines = [json.loads(line) for line in (sentences / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    path = write_lines(tmp_path / "bad.jsonl", lines)
    code, out, _ = run_here(capsys, "data", "check", path)
    assert code == 2
    assert "bad.jsonl:1" in out
    assert "missing: 8" in out
    assert "0.00 h decoded: 8 problems" in out
    code, out, _ = run_here(capsys, "data", "check", path, "--json")
    assert code == 2
    found = json.loads(out)
    assert (found["lines"], len(found["problems"])) == (8, 8)
    assert found["problems"][7]["where"] == f"{path}:8"


def test_summary(sentences: Path, capsys: Capture) -> None:
    code, out, _ = run_here(capsys, "data", "summary", sentences / "train.jsonl")
    assert code == 0
    assert "all: 40 utterances, 0.01 h, 3 speakers" in out
    assert "de: 40" in out
    code, out, _ = run_here(capsys, "data", "summary", sentences / "train.jsonl", "--json")
    assert (code, json.loads(out)["utterances"]) == (0, 40)


def test_shard_then_check_then_summary(sentences: Path, capsys: Capture, tmp_path: Path) -> None:
    command = ("data", "shard", sentences / "train.jsonl", "--out", tmp_path / "shards", "--size", "0.2MB")
    code, out, _ = run_here(capsys, *command)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'shards'}: 40 utterances in ")
    assert run_here(capsys, "data", "check", tmp_path / "shards")[0] == 0
    assert "all: 40 utterances" in run_here(capsys, "data", "summary", tmp_path / "shards")[1]
    code, _, err = run_here(capsys, *command)
    assert code == 0
    assert "shards were there already" in err
    code, _, err = run_here(capsys, *command, "--seed", 5)
    assert code == 2
    assert "holds shards with another seed" in err


@pytest.mark.parametrize("joined", [False, True])
def test_a_recipe(sentences: Path, capsys: Capture, tmp_path: Path, joined: bool) -> None:
    recipe = ROOT / "examples" / "digits.yaml"
    values: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    timed: dict[str, Any] = {"join": {}} if joined else {"word_times": "manifest"}
    sources = [
        {"name": "asr", "manifests": ["train.jsonl"], **timed},
        {"name": "text", "texts": ["texts.tsv.gz"], "columns": ["de"]},
    ]
    dev = [{"name": "dev", "manifests": ["dev.jsonl"], **timed}]
    values["data"] = {"sources": sources, "dev_sources": dev, "filter": {"min_words": 4, "max_s": 20}}
    for stage in values["stages"]:
        del stage["sources"]  # the recipe's own
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    code, out, _ = run_here(capsys, "data", "check", path, "--data", sentences, "--json")
    found = json.loads(out)
    assert code == 2  # dev repeats recordings of train
    assert {problem["kind"] for problem in found["problems"]} == {"duplicate"}
    assert [report["source"] for report in found["sources"]] == ["asr", "dev"]
    assert found["sources"][0]["dropped"]["with fewer than 4 words"]["lines"] == 18
    assert "source asr: 22 of 40 utterances kept" in run_here(capsys, "data", "check", path, "--data", sentences)[1]
    assert "all: 48 utterances" in run_here(capsys, "data", "summary", path, "--data", sentences)[1]


@pytest.mark.skipif(find_library("espeak-ng") is None, reason="espeak-ng is not installed")
def test_speak(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, out = tmp_path / "texts.tsv", tmp_path / "spoken"
    table.write_text("passage\tquestion\tanswer\nTom ran.\tWho ran?\tTom\nNo. 5\tWhich?\t5\n", encoding="utf-8")
    command = ("data", "speak", table, "--column", "passage", "--lang", "en", "--out", out)
    code, said, _ = run_here(capsys, *command)
    assert code == 0
    assert re.fullmatch(rf"{out}: 1 utterances, 0\.00 h, 1 voices; 1 rows left out\n", said)
    code, _, err = run_here(capsys, *command)
    assert (code, err) == (0, "1 utterances were there already\n")
    monkeypatch.setattr("bestow_edge.training.synthesis.voices.find_library", lambda _name: None)
    monkeypatch.setattr("bestow_edge.training.synthesis.voices.ELSEWHERE", ())
    code, _, err = run_here(capsys, *command)
    assert (code, err) == (
        2,
        "error: libespeak-ng is not installed; run: apt install espeak-ng (macOS: brew install espeak-ng)\n",
    )


def test_speak_stops_at_ctrl_c(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bestow_edge.training.synthesis.speaking.speak_texts", stop)
    code, out, err = run_here(capsys, "data", "speak", "a.tsv", "--column", "en", "--out", tmp_path)
    assert (code, out, err) == (130, "", "stopped; the same command goes on\n")


@pytest.mark.slow
def test_no_torch_is_needed(sentences: Path, cli: Callable[..., Any]) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'onnx', 'yaml']))"
    manifest = sentences / "train.jsonl"
    for arguments in (("check", manifest), ("summary", manifest), ("shard", manifest, "--out", "shards")):
        done = cli("data", *arguments, before=blocked)
        assert done.returncode == 0, done.stderr
    done = cli("data", "check", "recipe.yaml", before=blocked)
    assert (done.returncode, "pip install 'bestow-edge[train]'" in done.stderr) == (2, True)


def test_the_commands_of_the_page_run(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    commands = re.findall(r"^bestow-edge (data .*?)(?: +#.*)?$", page, flags=re.MULTILINE)
    assert len(commands) == 6
    monkeypatch.chdir(ROOT)
    (tmp_path / "texts.tsv").write_text("en\tde\nThe train is late.\tDer Zug hat Verspätung.\n", encoding="utf-8")
    for command in commands:
        if command.startswith("data speak") and find_library("espeak-ng") is None:
            continue
        words = [word.replace("runs/", f"{tmp_path}/") for word in command.split()]
        paths = [sorted(map(str, ROOT.glob(word))) if "*" in word else [word] for word in words]
        code, _, err = run_here(capsys, *(path for some in paths for path in some))
        assert code == 0, err


def test_the_recipe_of_the_page_is_valid() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    values = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    data = decode(DataRecipe, values["data"], "data")
    assert [source.name for source in data.sources] == ["asr", "ast", "qa", "mt", "digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "nowhere.jsonl"), "nowhere.jsonl: no such manifest"),
        (("check", "."), "no shards.json; expected a directory that"),
        (("summary", "nowhere.yaml"), "no such recipe"),
        (("shard", "nowhere.jsonl", "--out", "x"), "no such manifest"),
        (("speak", "nowhere.tsv", "--column", "passage", "--out", "x"), "--lang passage: no voices for it"),
        (("shard", "nowhere.jsonl", "--out", "x", "--size", "big"), "--size 'big': expected a number of bytes"),
    ],
)
def test_errors_are_one_sentence(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_here(capsys, "data", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(("text", "size"), [("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("1000", 1000), ("2k", 2000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "0", "-1GB", "1.2.3", "1XB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number of bytes"):
        parse_size(text)
