"""Figures of a benchmark."""

import pytest

from bestow_edge.evaluation.run.speed import _graph_times


@pytest.mark.parametrize("seconds", [[0.002], [0.001, 0.009], [0.001, 0.002, 0.003, 0.05], [0.001] * 50 + [1.0]])
def test_no_percentile_is_above_the_largest_time(seconds: list[float]) -> None:
    times = _graph_times("llm_step", seconds, {"llm_step": seconds})
    assert 0 < times.p50_ms <= times.p95_ms <= times.max_ms == max(seconds) * 1000
