"""Rings: buffers of a fixed number of slots in which the newest steps overwrite the oldest."""

from collections.abc import Iterator

from bestow_edge.runtime.devices.base import Buffer


def to_slots(ring: Buffer, new: Buffer, first_step: int) -> Iterator[tuple[Buffer, Buffer]]:
    """Yield which slots of a ring, (..., slots, head_dim), take which of some new steps, (..., steps, head_dim).

    Step a lies in slot a mod slots; of more steps than there are slots the last ones stay.
    """
    slots, end = ring.shape[-2], first_step + new.shape[-2]
    step = max(first_step, end - slots)
    while step < end:
        slot = step % slots
        count = min(end - step, slots - slot)
        yield ring[..., slot : slot + count, :], new[..., step - first_step : step - first_step + count, :]
        step += count
