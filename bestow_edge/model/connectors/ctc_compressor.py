"""A CTC compressor: fewer positions of speech, by the labels that a CTC head gives to the encoder's steps.

Sources: Speech-LLaMA (Wu et al. 2023, arXiv 2307.03917), which found averages better than the removal of blanks; Gaido
et al. 2021 (arXiv 2102.01578) for averages of runs. The sums are written as one matrix product, so that shapes do not
depend on the labels: every runtime computes them, and buffers can be allocated before a run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bestow_edge.core.specs.prepend import CompressorConfig


def compress(
    steps: Tensor, labels: Tensor, lens: Tensor, config: CompressorConfig, chunk: int
) -> tuple[Tensor, Tensor]:
    """Shorten speech.

    Args:
        steps: (batch, steps, width) float.
        labels: (batch, steps) int64, the most probable label of each step; `config.labels` is the blank.
        lens: (batch,) int64, how many steps count.
        config: the compressor's.
        chunk: steps that are encoded together; a run of equal labels ends with them, so that later speech never changes
            a position. 0 = all of them.

    Returns:
        (batch, steps, width) float, the positions first and zeros behind them, and (batch, steps) int64, the step
        behind the last one of each position, 0 where there is no position. Silence may have none.
    """
    place = torch.arange(steps.shape[1], device=steps.device)
    valid = place < lens[:, None]  # (batch, steps)
    if config.strategy == "blank_removal":
        counted = begins = valid & (labels != config.labels)
    else:
        before = torch.cat([torch.full_like(labels[:, :1], -1), labels[:, :-1]], dim=1)
        changed = labels != before
        counted, begins = valid, valid & (changed | (place % chunk == 0) if chunk else changed)
    number = (begins[:, None] & (place <= place[:, None])).float().sum(-1)  # (batch, steps): positions begun by then
    member = (number[:, None] == (place + 1).float()[:, None]) & counted[:, None]  # (batch, positions, steps)
    shares = member.float()
    size = shares.sum(-1, keepdim=True)  # (batch, positions, 1)
    shares = shares / torch.maximum(size, torch.ones_like(size))  # not clamp: some TensorRT 10 have no Clip
    ends = (member.float() * (place + 1).float()).amax(-1).long()
    return shares.to(steps.dtype) @ steps, ends
