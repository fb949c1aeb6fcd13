"""Failures of the system in the processes of a data loader."""

import resource

import pytest
import torch
from torch.utils.data import DataLoader

from bestow_edge.core.errors import TrainingError
from bestow_edge.training.learning.interruptions import prepare_worker, typed_failures


def _without_room(worker: int) -> None:
    prepare_worker(worker)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # also of files in /dev/shm


def test_a_batch_that_cannot_be_handed_over_ends_the_run() -> None:
    batches = DataLoader([torch.zeros(10_000)], batch_size=None, num_workers=1, worker_init_fn=_without_room)  # type: ignore[arg-type]  # a list is a dataset
    with (
        pytest.raises(TrainingError, match=r"a process that makes batches has died .*exited unexpectedly"),
        typed_failures("x"),
    ):
        list(batches)
