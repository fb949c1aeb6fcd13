"""Latency scores: equal to SimulEval's, and each definition on numbers one can check by hand."""

import json
from pathlib import Path

import pytest

from bestow_edge.core.errors import ManifestError
from bestow_edge.evaluation.scores.instances import Instance, log_text, read_log
from bestow_edge.evaluation.scores.lag import (
    NAMES,
    average_lagging,
    average_proportion,
    average_token_delay,
    differentiable_average_lagging,
    end_offset,
    latency_scores,
    length_adaptive_average_lagging,
    mean_scores,
    normalized_erasure,
    start_offset,
)

FOLDER = Path(__file__).parents[1] / "simuleval"
SIMULEVAL = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-6  # sums in another order


@pytest.fixture(scope="module")
def instances() -> list[Instance]:
    return read_log(FOLDER / "instances.log")


@pytest.mark.parametrize("name", SIMULEVAL)
def test_equal_to_simuleval(instances: list[Instance], name: str) -> None:
    ours = [latency_scores(instance).get(name) for instance in instances]
    assert ours == pytest.approx(SIMULEVAL[name]["per_instance"], abs=TOLERANCE)
    mean = mean_scores(map(latency_scores, instances))[name]
    assert mean == pytest.approx(SIMULEVAL[name]["mean"], abs=TOLERANCE)


def test_the_scores_are_all_of_simulevals() -> None:
    assert set(SIMULEVAL) == {name + suffix for name in NAMES for suffix in ("", "_CA")}


def test_without_words_there_are_no_scores_and_without_times_none_that_are_computation_aware() -> None:
    silent = Instance(index=0, prediction="", reference="a", delays=(), source_length=1000.0)
    assert latency_scores(silent) == {}
    unmeasured = Instance(index=0, prediction="a", reference="a", delays=(500.0,), source_length=1000.0)
    assert set(latency_scores(unmeasured)) == set(NAMES)


def test_unknown_references_count_as_long_as_the_hypothesis() -> None:
    known = Instance(index=0, prediction="a b", reference="x y", delays=(300.0, 600.0), source_length=900.0)
    unknown = Instance(index=0, prediction="a b", reference=None, delays=(300.0, 600.0), source_length=900.0)
    assert latency_scores(known) == latency_scores(unknown)


def test_the_definitions_by_hand() -> None:
    times, length = [400.0, 800.0, 1200.0, 1200.0], 1200.0
    assert average_lagging(times, length, 4) == pytest.approx((400 + 500 + 600) / 3)  # the fourth comes after the end
    assert average_lagging(times, length, 2) == pytest.approx((400 + 200 + 0) / 3)
    assert length_adaptive_average_lagging(times, length, 2) == average_lagging(times, length, 4)
    assert length_adaptive_average_lagging(times, length, 6) == average_lagging(times, length, 6)
    assert average_proportion(times, length, 4) == pytest.approx(3600 / 4800)
    # 400, 800, 1200, then 1200 + 300: the last word takes its share of the time too
    assert differentiable_average_lagging(times, length, 4) == pytest.approx((400 + 500 + 600 + 600) / 4)
    assert start_offset(times, length, 4) == 400
    assert end_offset([*times, 1500.0], length, 4) == 300


def test_average_token_delay_by_hand() -> None:
    # Chunks end at 300 and 900 and hold one and two words; word i is compared with spoken word i.
    assert average_token_delay([300.0, 900.0, 900.0]) == pytest.approx((0 + 300 + 0) / 3)
    # Three words at once after one spoken word: the later ones are compared with the only one there is.
    assert average_token_delay([300.0, 300.0, 300.0]) == 0
    # Computing 100 ms for each word adds up.
    assert average_token_delay([300.0, 300.0], [400.0, 500.0]) == pytest.approx((100 + 200) / 2)


def test_a_first_word_after_the_end_is_the_whole_lag() -> None:
    assert average_lagging([1500.0, 1600.0], 1000.0, 2) == 1500


@pytest.mark.parametrize(
    ("outputs", "erasure"),
    [
        ([], 0),
        ([["a"], ["a", "b"], ["a", "b", "c"]], 0),
        ([["a", "x"], ["a", "b"]], 0.5),
        ([["a", "b", "c"], ["a"], ["a", "b"]], 1.0),
        ([["a"], []], 0),
    ],
)
def test_normalized_erasure(outputs: list[list[str]], erasure: float) -> None:
    assert normalized_erasure(outputs) == erasure


def test_a_log_comes_back_as_it_was_written(instances: list[Instance], tmp_path: Path) -> None:
    path = tmp_path / "instances.log"
    path.write_text(log_text(instances), encoding="utf-8")
    assert read_log(path) == instances
    more = Instance(index=3, prediction="a", reference=None, delays=(1.0,), source_length=2.0, extra={"tokens": [1]})
    path.write_text(log_text([more]), encoding="utf-8")
    assert read_log(path) == [more]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", ":2: not a line of JSON"),
        (b'{"index": "\xff"}', ":2: not a line of JSON in UTF-8"),
        (b"[]", ":2: expected a JSON object, got list"),
        (b'{"delays": [1], "elapsed": [1, 2]}', ":2: 1 delays but 2 elapsed"),
        (b'{"delays": ["a"]}', ":2: delays is .'a'.; expected a list of milliseconds"),
        (b'{"delays": [1], "source_length": 0}', ":2: source_length is 0; expected milliseconds, more than 0"),
        (b'{"delays": [1], "source_length": 1, "index": "a"}', ":2: index is 'a'; expected int"),
        (b'{"delays": [1], "source_length": 1, "source": 7}', ":2: source is 7; expected the path of the audio"),
        (b'{"delays": [1], "source_length": 1, "index": 0}', ":2: prediction is None; expected str"),
    ],
)
def test_errors_of_a_log_name_the_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "instances.log"
    path.write_bytes((FOLDER / "instances.log").read_bytes().splitlines()[0] + b"\n" + line + b"\n")
    with pytest.raises(ManifestError, match=r"instances\.log" + message):
        read_log(path)


def test_a_missing_or_empty_log(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such log"):
        read_log(tmp_path / "nowhere.log")
    (tmp_path / "empty.log").write_text("\n")
    with pytest.raises(ManifestError, match="no lines"):
        read_log(tmp_path / "empty.log")
