"""Running settings: what is finished is never run again, and how many processes there are changes no text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.errors import AudioError, ConfigError
from bestow_edge.core.prompts import Pair
from bestow_edge.evaluation.run.directory import Store
from bestow_edge.evaluation.run.runner import Runner
from bestow_edge.evaluation.run.samples import Sample, read_samples
from bestow_edge.evaluation.run.settings import Setting, all_settings
from bestow_edge.evaluation.scores.instances import Instance, read_log
from bestow_edge.runtime import embedded_bundle

PAIR = Pair("en", "de")
SETTINGS = [Setting("wait-k", {"k": 3, "l": 4}, 13), Setting("offline", {}, 13)]


@pytest.fixture(scope="module")
def samples(strings: Path) -> Sequence[Sample]:
    return read_samples(strings, PAIR).items


def run(
    samples: Sequence[Sample], directory: Path, jobs: int = 1
) -> tuple[list[list[Instance]], list[tuple[int, int]]]:
    """Return instances and progress."""
    told: list[tuple[int, int]] = []
    runner = Runner(bundle=embedded_bundle("demo"), pair=PAIR, jobs=jobs)
    found = runner.run(samples, SETTINGS, Store(directory, {"a": 1}), lambda *numbers: told.append(numbers))
    return found, told


def without_clock(instance: Instance) -> Instance:
    return replace(instance, elapsed=(), extra={})


def test_logs_and_progress(samples: Sequence[Sample], tmp_path: Path) -> None:
    found, told = run(samples, tmp_path / "out")
    assert told == [(number, 10) for number in range(11)]
    for setting, instances in zip(SETTINGS, found, strict=True):
        assert [instance.index for instance in instances] == list(range(5))
        assert [instance.reference for instance in instances] == [sample.reference for sample in samples]
        assert read_log(tmp_path / "out" / setting.name / "instances.log") == instances
    early, late = (sum(instance.delays[0] for instance in instances) for instances in found)
    assert early < late


def test_a_stopped_run_goes_on(samples: Sequence[Sample], tmp_path: Path) -> None:
    whole, _ = run(samples, tmp_path)
    log = tmp_path / SETTINGS[0].name / "instances.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[4] + lines[1] + lines[2][:40])  # in another order, the last one cut short
    (tmp_path / SETTINGS[1].name / "instances.log").unlink()
    again, told = run(samples, tmp_path)
    assert told == [(number, 10) for number in range(2, 11)]
    assert (again[0][1], again[0][4]) == (whole[0][1], whole[0][4])  # not run again: the clock's times are the same
    for before, after in zip(whole, again, strict=True):
        assert list(map(without_clock, before)) == list(map(without_clock, after))
    assert run(samples, tmp_path) == (again, [(10, 10)])


def test_several_processes_write_the_same(samples: Sequence[Sample], tmp_path: Path) -> None:
    one, _ = run(samples, tmp_path / "one")
    two, told = run(samples, tmp_path / "two", jobs=2)
    assert told[-1] == (10, 10)
    for first, second in zip(one, two, strict=True):
        assert list(map(without_clock, first)) == list(map(without_clock, second))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_recording_that_went_away_ends_the_run(samples: Sequence[Sample], tmp_path: Path, jobs: int) -> None:
    gone = [replace(samples[0], path=tmp_path / "gone.wav"), *samples[1:]]
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        run(gone, tmp_path / "out", jobs)


def test_directories_of_something_else_are_refused(samples: Sequence[Sample], tmp_path: Path) -> None:
    Store(tmp_path / "out", {"pair": "en-de"})
    Store(tmp_path / "out", {"pair": "en-de"})
    with pytest.raises(ConfigError, match='holds an evaluation with pair "en-de", not "de-en"; choose another --out'):
        Store(tmp_path / "out", {"pair": "de-en"})
    with pytest.raises(ConfigError, match="exists and is no evaluation"):
        Store(tmp_path, {"pair": "en-de"})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "evaluation.json").write_text("{")
    with pytest.raises(ConfigError, match=r"evaluation\.json: not valid JSON"):
        Store(tmp_path / "damaged", {"pair": "en-de"})
    with pytest.raises(RuntimeError, match="0 of 5 utterances are finished"):
        Store(tmp_path / "out", {"pair": "en-de"}).complete(SETTINGS[0], len(samples))


@pytest.mark.parametrize(("lines", "message"), [(b"{}\n", ":1: source_length"), (b"", "holds other utterances")])
def test_damaged_logs(samples: Sequence[Sample], tmp_path: Path, lines: bytes, message: str) -> None:
    run(samples, tmp_path)
    log = tmp_path / SETTINGS[0].name / "instances.log"
    log.write_bytes(lines + log.read_bytes())
    with pytest.raises(ConfigError, match=message):
        Store(tmp_path, {"a": 1}).finished(SETTINGS[0], 2)


def test_a_bidirectional_bundle(samples: Sequence[Sample], bidirectional_bundle: Path, tmp_path: Path) -> None:
    config = read_manifest(bidirectional_bundle).model
    settings = all_settings(config, ["wait-k", "local-agreement"], varied={"k": [1]})
    assert {setting.lookahead for setting in settings} == {config.encoder.default_right_context}
    runner = Runner(bundle=bidirectional_bundle, pair=PAIR)
    for found in runner.run(samples[:1], settings, Store(tmp_path, {}), lambda *_: None):
        assert found[0].delays
