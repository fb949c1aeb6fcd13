"""`bestow-edge report`: a model card that says what is known and what is not."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bestow_edge.core.bundle import MANIFEST_FILE
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import sha256
from bestow_edge.evaluation.report.model_card import model_card
from bestow_edge.runtime import embedded_bundle

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A bundle with nothing beside it, of another content than the embedded one."""
    bundle = tmp_path / "elsewhere" / "plain"
    shutil.copytree(embedded_bundle("demo"), bundle)
    manifest = bundle / MANIFEST_FILE
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    return bundle


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """What an evaluation of the embedded bundle leaves, as far as the card reads it."""
    score = {"value": 12.34, "low": 10.0, "high": 15.0}
    record = {
        "format": "bestow-edge-evaluation",
        "pair": "en-de",
        "manifest": {"file": "strings|1.jsonl", "utterances": 50, "audio_s": 123.4},
        "bundle": {"sha256": sha256(embedded_bundle("demo") / MANIFEST_FILE)},
        "machine": {"processor": "a processor", "cores": 2},
        "jobs": 1,
        "threads": 2,
        "created": "2030-01-02T03:04:05+00:00",
        "versions": {"python": "3.11", "sacrebleu": "2.6"},
        "settings": [
            {
                "name": "offline_lookahead13",
                "scores": {"bleu": score | {"signature": "nrefs:1"}, "LAAL": score, "RTF": score},
            }
        ],
    }
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_a_card_of_the_embedded_bundle(cli: Cli, evaluation: Path, tmp_path: Path) -> None:
    done = cli("report", embedded_bundle("demo"), "--eval", evaluation, "--out", tmp_path / "card.md")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert card.startswith("# Model card: demo\n\nA streaming speech LLM")
    for text in (
        "transcribes English",
        "| llm_step | int4 |",
        "| `encoder_chunk.onnx` | encoder_chunk, int8 |",
        "50 utterances, 123 s of audio. Measured 2030-01-02 on a processor, 2 cores, 1 process(es) of 2 thread(s).",
        "![Quality over latency](scores/curve.svg)",
        "12.3 [10.0, 15.0]",
        "| 12.340 |",  # RTF
        "- bleu: sacrebleu `nrefs:1`",
        "### The embedded demo: data, licences and limits",
        "Free Spoken Digit Dataset",
        "| evaluated with | python 3.11, sacrebleu 2.6 |",
    ):
        assert text in card, text


def test_what_is_not_known_is_said(cli: Cli, plain: Path, tmp_path: Path) -> None:
    done = cli("report", plain)
    assert done.returncode == 0, done.stderr
    assert "Not measured: give `--eval DIR`" in done.stdout
    assert "Not known: the bundle does not name them." in done.stdout
    (tmp_path / "about.md").write_text("# Data\nNoise.", encoding="utf-8")
    assert "### Data\nNoise." in cli("report", plain, "--about", "about.md").stdout


def test_other_evaluations_are_refused(evaluation: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluates another bundle than"):
        model_card(plain, [evaluation])
    with pytest.raises(ConfigError, match=r"no finished evaluation, results\.json is missing"):
        model_card(embedded_bundle("demo"), [tmp_path])
    edited = '{"format": "bestow-edge-evaluation"}', "its results were altered"
    for text, message in (("{", "not valid JSON"), ("[]", "not an evaluation"), edited):
        (evaluation / "results.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            model_card(embedded_bundle("demo"), [evaluation])


def test_errors(cli: Cli, tmp_path: Path) -> None:
    missing = cli("report", embedded_bundle("demo"), "--about", "nowhere.md")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "nowhere.md: no such file" in missing.stderr
    (tmp_path / "latin.md").write_bytes(b"\xfc")
    assert "latin.md: not UTF-8" in cli("report", embedded_bundle("demo"), "--about", "latin.md").stderr
    assert cli("report", "nowhere").returncode == 2
