"""The order of batches: from the seed alone, every row once an epoch, within the limit, little padding."""

from itertools import pairwise

import numpy as np
import pytest

from bestow_edge.core.errors import ConfigError
from bestow_edge.training.data.corpora.batch_plan import Plan, cut

LENGTHS = np.random.default_rng(0).gamma(4, 3, 2000).astype(np.float32) + 0.5
FILES = np.repeat(np.arange(8, dtype=np.int32), 250)


def epoch(plan: Plan, group: int, number: int) -> list[list[int]]:
    size = plan._sizes.get(group) or len(plan._epoch(group, 0))
    return [plan.batch(group, number * size + index).tolist() for index in range(size)]


def test_cut_takes_as_many_rows_as_fit() -> None:
    lengths = np.array([2, 2, 2, 3, 1, 9, 1], dtype=np.float32)
    assert cut(lengths, 6).tolist() == [0, 3, 5, 6]  # 3 x 2; 2 x 3; one that is too long by itself
    rows = np.sort(LENGTHS)
    starts = [*cut(rows, 100).tolist(), rows.size]
    for start, end in pairwise(starts):
        assert rows[start:end].max() * (end - start) <= 100
        if end < rows.size:
            assert rows[start : end + 1].max() * (end + 1 - start) > 100


def test_an_epoch_has_every_row_once_and_the_next_is_another() -> None:
    plan = Plan(LENGTHS, 120, buckets=10, seed=[1])
    first, again, second = epoch(plan, 0, 0), epoch(Plan(LENGTHS, 120, buckets=10, seed=[1]), 0, 0), epoch(plan, 0, 1)
    assert first == again
    assert sorted(row for batch in first for row in batch) == list(range(2000))
    assert all(LENGTHS[batch].max() * len(batch) <= 120 for batch in first)
    assert first != second
    assert len({row for batch in second for row in batch}) > 1950  # each epoch has as many batches as the first
    assert epoch(Plan(LENGTHS, 120, buckets=10, seed=[2]), 0, 0) != first


def test_a_later_batch_needs_no_earlier_one() -> None:
    plan = Plan(LENGTHS, 120, buckets=10, seed=[1])
    wanted = [plan.batch(0, number).tolist() for number in range(600)]
    for number in (599, 3, 450, 0):
        assert Plan(LENGTHS, 120, buckets=10, seed=[1]).batch(0, number).tolist() == wanted[number]


def test_classes_of_length_save_padding() -> None:
    none, ten, thirty = (Plan(LENGTHS, 120, buckets=count, seed=[1]).padding() for count in (1, 10, 30))
    assert none > 0.3
    assert ten < 0.12
    assert thirty < 0.06
    assert thirty < ten
    lengths = [LENGTHS[batch] for batch in epoch(Plan(LENGTHS, 120, buckets=10, seed=[1]), 0, 0)]
    padded = sum(batch.max() * batch.size for batch in lengths)
    assert ten == pytest.approx(1 - LENGTHS.sum() / padded, rel=1e-4)


def test_batches_are_shuffled() -> None:
    means = [LENGTHS[batch].mean() for batch in epoch(Plan(LENGTHS, 120, buckets=10, seed=[1]), 0, 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_processes_share_one_order_of_loose_files() -> None:
    one, two = (Plan(LENGTHS, 120, buckets=10, seed=[1], groups=count) for count in (1, 2))
    for number in range(50):
        assert two.batch(number % 2, number // 2).tolist() == one.batch(0, number).tolist()


def test_shards_are_read_a_few_at_a_time_and_by_one_process_each() -> None:
    plan = Plan(LENGTHS, 120, buckets=4, seed=[1], files=FILES, files_at_once=2, groups=2)
    shards = []
    for group in range(2):
        rows = [row for batch in epoch(plan, group, 0) for row in batch]
        order = list(dict.fromkeys((FILES[rows]).tolist()))
        shards.append(set(order))
        assert len(order) == 4
        assert len(rows) == len(set(rows)) == 1000
        borders = [max(index for index, row in enumerate(rows) if FILES[row] == file) for file in order]
        assert max(borders[:2]) == 499  # the first two shards are done before the others begin
    assert shards[0] | shards[1] == set(range(8))
    assert not shards[0] & shards[1]
    assert plan.num_batches() == sum(len(plan._epoch(group, 0)) for group in range(2))
    assert 0 < plan.padding() < 0.2
    later = {FILES[row] for batch in epoch(plan, 0, 1) for row in batch} | {
        FILES[row] for batch in epoch(plan, 0, 2) for row in batch
    }
    assert later - shards[0]  # other shards in other epochs
    with pytest.raises(ConfigError, match="8 shards for 9 readers; make more, smaller ones"):
        Plan(LENGTHS, 120, buckets=4, seed=[1], files=FILES, files_at_once=2, groups=9)


def test_one_row_is_enough() -> None:
    plan = Plan(np.array([3.0], dtype=np.float32), 2.0, buckets=30, seed=[1])
    assert [plan.batch(0, number).tolist() for number in range(3)] == [[0]] * 3
    assert plan.padding() == 0
