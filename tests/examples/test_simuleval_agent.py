"""The same bundle on the same files, measured by SimulEval and by `bestow_edge.evaluation`: the same scores."""

import csv
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bestow_edge.core.prompts import Pair
from bestow_edge.evaluation.run.directory import Store
from bestow_edge.evaluation.run.runner import Runner
from bestow_edge.evaluation.run.samples import read_samples
from bestow_edge.evaluation.run.settings import Setting
from bestow_edge.evaluation.scores.instances import Instance, read_log
from bestow_edge.evaluation.scores.lag import latency_scores, mean_scores
from bestow_edge.runtime import embedded_bundle

if importlib.util.find_spec("simuleval") is None:
    pytest.skip("needs the extra simuleval", allow_module_level=True)

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "audio"
ROUNDED = 6e-4  # three decimals
NAMES = ("AL", "LAAL", "AP", "DAL", "ATD", "StartOffset", "EndOffset")
RECORDINGS = {"digits_en.wav": "eins zwei drei", "digits_en_48k_stereo.flac": "null eins zwei drei vier fünf sechs"}


@dataclass(frozen=True, slots=True)
class Both:
    """What both sides found."""

    theirs: list[Instance]
    their_scores: dict[str, float]
    ours: list[Instance]
    our_log: Path
    """The setting's directory."""


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lists")
    source, target = folder / "source.txt", folder / "target.txt"
    source.write_text("".join(f"{EXAMPLES / name}\n" for name in RECORDINGS), encoding="utf-8")
    target.write_text("".join(f"{text}\n" for text in RECORDINGS.values()), encoding="utf-8")
    return source, target


def simuleval(lists: tuple[Path, Path], out: Path, *options: object) -> tuple[list[Instance], dict[str, float]]:
    """Run the agent in SimulEval as a user does; return its log and the scores it wrote, which have three decimals."""
    agent = ROOT / "examples" / "simuleval_agent.py"
    files = ["--agent", agent, "--source", lists[0], "--target", lists[1], "--output", out]
    scores = ["--quality-metrics", "BLEU", "--latency-metrics", *NAMES, "--source-segment-size", 80]
    command = [sys.executable, "-m", "simuleval.cli", *files, *scores, "--lang", "en-de", *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with (out / "scores.tsv").open(encoding="utf-8") as table:
        (row,) = csv.DictReader(table, delimiter="\t")
    return read_log(out / "instances.log"), {name: float(value) for name, value in row.items()}


@pytest.fixture(scope="module", params=[(3, 13), (4, 1)], ids=str)
def both(request: pytest.FixtureRequest, lists: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Both:
    k, lookahead = request.param
    folder = tmp_path_factory.mktemp("simuleval")
    theirs, scores = simuleval(lists, folder / "theirs", "--k", k, "--lookahead", lookahead)
    runner = Runner(bundle=embedded_bundle("demo"), pair=Pair("en", "de"))
    samples = read_samples(lists[0], runner.pair, target=lists[1]).items
    settings = [Setting("wait-k", {"k": k, "l": 4}, lookahead)]
    (ours,) = runner.run(samples, settings, Store(folder / "ours", {}), lambda *_: None)
    return Both(theirs, scores, ours, folder / "ours" / settings[0].name)


def test_the_same_words_at_the_same_times(both: Both) -> None:
    assert len(both.theirs) == len(both.ours) == len(RECORDINGS)
    for theirs, ours in zip(both.theirs, both.ours, strict=True):
        assert len(ours.delays) > 2
        assert (theirs.prediction, theirs.reference) == (ours.prediction, ours.reference)
        assert theirs.delays == ours.delays
        assert theirs.source_length == ours.source_length


def test_the_same_scores(both: Both) -> None:
    """SimulEval prints three decimals; unrounded, its scorers are compared in tests/evaluation."""
    ours = mean_scores(map(latency_scores, both.ours))
    print("\nmean      SimulEval   bestow-edge")  # noqa: T201 - seen with pytest -s
    for name in NAMES:
        print(f"{name:12}{both.their_scores[name]:9.3f}{ours[name]:14.3f}")  # noqa: T201
        assert ours[name] == pytest.approx(both.their_scores[name], abs=ROUNDED)


def test_simuleval_reads_our_log(both: Both) -> None:
    options = ["--score-only", "--output", both.our_log, "--source-type", "speech", "--target-type", "text"]
    command = [sys.executable, "-m", "simuleval.cli", *map(str, options), "--latency-metrics", "LAAL", "AL", "ATD"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    names, values = (line.split() for line in done.stdout.strip().splitlines()[-2:])
    found = dict(zip(names, map(float, values[1:]), strict=True))  # the first is the row's number
    assert found == pytest.approx({name: both.their_scores[name] for name in found}, abs=ROUNDED)


def test_the_computation_aware_scores_of_their_times(lists: tuple[Path, Path], tmp_path: Path) -> None:
    theirs, scores = simuleval(lists, tmp_path / "theirs", "--computation-aware")
    ours = mean_scores(map(latency_scores, theirs))
    for name in NAMES:  # with that option SimulEval's columns without _CA are computation-aware too
        assert ours[f"{name}_CA"] == pytest.approx(scores[f"{name}_CA"], abs=ROUNDED)
