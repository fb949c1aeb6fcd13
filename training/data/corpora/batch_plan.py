"""The plan of batches: utterances are shuffled, sorted into length classes and cut by total length.

A batch is a function of the seed and its number. An epoch is planned from the lengths alone, without reading a
recording, so a resumed run plans the same epoch again. A plan of millions takes seconds and a few bytes for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import ConfigError

Rows = npt.NDArray[np.int64]
Epoch = list[npt.NDArray[np.int32]]
"""The rows of each batch, in order."""
EPOCHS_KEPT = 2  # the current epoch, and its neighbour at the border


class Plan:
    """An endless sequence of batches."""

    def __init__(
        self,
        lengths: npt.NDArray[np.float32],
        limit: float,
        *,
        buckets: int,
        seed: Sequence[int],
        files: npt.NDArray[np.int32] | None = None,
        files_at_once: int = 0,
        groups: int = 1,
    ) -> None:
        """Find the length classes, each with the same sum of lengths, and plan the first epoch.

        Args:
            lengths: (rows,) seconds or tokens.
            limit: upper bound of rows times longest row in a batch. A longer row is a batch of its own.
            buckets: length classes.
            seed: decides the order, with the number of the epoch.
            files: (rows,) shard of each row, ascending; needed for `files_at_once`.
            files_at_once: number of shards whose rows are shuffled together before the next ones; 0 = all rows.
            groups: readers, each with its own shards. Without `files_at_once` they share one order.

        Raises:
            ConfigError: if there are fewer shards than readers.
        """
        self.lengths, self.limit, self.seed = lengths, limit, seed
        self.files_at_once, self.groups = files_at_once, groups
        by_length = np.sort(lengths)
        sums = np.cumsum(by_length, dtype=np.float64)
        self._edges = by_length[np.searchsorted(sums, np.linspace(0, sums[-1], buckets + 1)[1:-1])]
        self._bounds = np.array([0, lengths.size])  # rows of each file
        if files_at_once and files is not None:
            self._bounds = np.searchsorted(files, np.arange(int(files[-1]) + 2))
            if len(self._bounds) - 1 < groups:
                raise ConfigError(f"{len(self._bounds) - 1} shards for {groups} readers; make more, smaller ones")
        self._own_groups = groups if files_at_once else 1  # groups that have epochs of their own
        self._epochs: dict[tuple[int, int], Epoch] = {}
        self._sizes: dict[int, int] = {}

    def batch(self, group: int, number: int) -> Rows:
        """Return the rows of a group's batch `number`, counted from 0 over all epochs.

        Every epoch has as many batches as the first. A larger epoch loses its last batches, which are in random order;
        a smaller one repeats some.
        """
        if not self.files_at_once:
            group, number = 0, number * self.groups + group
        if group not in self._sizes:
            self._sizes[group] = len(self._epoch(group, 0))
        epoch, within = divmod(number, self._sizes[group])
        planned = self._epoch(group, epoch)
        return planned[within % len(planned)].astype(np.int64)

    def num_batches(self) -> int:
        """Return the number of batches in an epoch, over all groups."""
        return sum(len(self._epoch(group, 0)) for group in range(self._own_groups))

    def padding(self) -> float:
        """Return the share of padding in the batches of the first epoch."""
        padded = total = 0.0
        for group in range(self._own_groups):
            batches = self._epoch(group, 0)
            lengths, sizes = self.lengths[np.concatenate(batches)], [rows.size for rows in batches]
            longest = np.maximum.reduceat(lengths, np.cumsum([0, *sizes[:-1]]))
            padded += float(longest @ np.array(sizes))
            total += float(lengths.sum(dtype=np.float64))
        return 1 - total / padded

    def _epoch(self, group: int, epoch: int) -> Epoch:
        if (group, epoch) not in self._epochs:
            while len(self._epochs) >= EPOCHS_KEPT:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[group, epoch] = self._planned(group, epoch)
        return self._epochs[group, epoch]

    def _planned(self, group: int, epoch: int) -> Epoch:
        files = np.random.default_rng([*self.seed, epoch]).permutation(len(self._bounds) - 1)
        rng = np.random.default_rng([*self.seed, epoch, group])
        mine = files[group :: self.groups] if self.files_at_once else files
        at_once = self.files_at_once or len(mine)
        batches: Epoch = []
        for first in range(0, len(mine), at_once):
            chosen = mine[first : first + at_once]
            order = np.concatenate([np.arange(*self._bounds[file : file + 2], dtype=np.int32) for file in chosen])
            if not order.size:
                continue
            rng.shuffle(order)
            classes = np.searchsorted(self._edges, self.lengths[order]).astype(np.int16)
            order = order[np.argsort(classes, kind="stable")]
            in_order = np.split(order, cut(self.lengths[order], self.limit)[1:])
            batches += [in_order[batch] for batch in rng.permutation(len(in_order))]
        return batches


def cut(lengths: npt.NDArray[np.float32], limit: float) -> Rows:
    """Return the first row of each batch. Rows are taken in order while rows times longest row is within the limit."""
    starts, start = [], 0
    while start < lengths.size:
        starts.append(start)
        most = max(1, int(limit / max(float(lengths[start]), 1e-3)))  # rows that fit if none is longer than the first
        longest = np.maximum.accumulate(lengths[start : start + most])
        costs = longest * np.arange(1, longest.size + 1)
        start += max(1, int(np.searchsorted(costs, limit, side="right")))
    return np.array(starts, dtype=np.int64)
