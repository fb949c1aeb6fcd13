"""The speech memory: growth, the ring, and its agreement with the graph's arithmetic."""

import numpy as np
import pytest
import torch

from bestow_edge.core.specs.cross_adapter import KEYS, VALUES, CrossAdapterConfig
from bestow_edge.export.graphs.cross_adapter import visible_slots
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.encoders.base import SpeechSteps

CONFIG = CrossAdapterConfig(num_layers=2, width=6, num_heads=3)


def steps(first: int, count: int) -> SpeechSteps:
    """Steps whose keys hold their number and whose values hold its negative."""
    numbers = np.arange(first, first + count, dtype=np.float32)[:, None]
    keys = np.broadcast_to(numbers, (2, 1, 3, count, 2)).copy()
    return SpeechSteps({KEYS: keys, VALUES: -keys}, first, first + count)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 8, 9, 16, 17, 40])
def test_every_slot_holds_the_step_the_graph_expects(chunk: int, total: int) -> None:
    memory = SpeechMemory(CONFIG, first_slots=8, max_slots=16)
    while memory.written < total:
        memory.write(steps(memory.written, min(chunk, total - memory.written)))
    assert memory.slots == (8 if total <= 8 else 16)
    written = torch.tensor([memory.written])
    for step in range(total + 1):  # the slot that becomes visible with step + 1 holds this step
        now = visible_slots(torch.tensor([[step + 1]]), written, memory.slots)[0, 0].numpy()
        then = visible_slots(torch.tensor([[step]]), written, memory.slots)[0, 0].numpy()
        (slots,) = np.nonzero(now & ~then)
        if max(0, total - memory.slots) <= step < total:
            assert len(slots) == 1
            assert (memory.keys[:, :, slots[0]] == step).all()
            assert (memory.values[:, :, slots[0]] == -step).all()
        else:
            assert len(slots) == 0


@pytest.mark.parametrize(("first", "count"), [(0, 5), (3, 2), (3, 6), (5, 1)])
def test_steps_that_come_again_overwrite_their_older_values(first: int, count: int) -> None:
    memory = SpeechMemory(CONFIG, first_slots=8, max_slots=16)
    memory.write(steps(0, 5))
    again = steps(100, count)
    memory.write(SpeechSteps(again.tensors, first, first + count))
    assert memory.written == first + count
    assert memory.slots == (16 if memory.written > 8 else 8)
    expected = [*range(first), *range(100, 100 + count)]
    assert memory.keys[0, 0, : memory.written, 0].tolist() == expected
    assert memory.values[1, 2, : memory.written, 1].tolist() == [-value for value in expected]


def test_a_full_ring_keeps_the_latest_of_more_steps_than_it_has_slots() -> None:
    memory = SpeechMemory(CONFIG, first_slots=8, max_slots=8)
    memory.write(steps(0, 10))
    memory.write(steps(1, 12))
    assert memory.written == 13
    assert memory.keys[0, 0, :, 0].tolist() == [8, 9, 10, 11, 12, 5, 6, 7]
