"""Interruptions of a run: signals, full disks, lack of memory, killed processes. They become typed errors."""

from __future__ import annotations

import errno
import logging
import multiprocessing.queues
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from safetensors import SafetensorError

from bestow_edge.core.errors import BestowEdgeError, TrainingError

logger = logging.getLogger(__name__)

GOES_ON = "the same command goes on from the last save"
NO_SPACE = ("no space left on device", "os error 28", "disk quota exceeded", "failed writing file", "unexpected pos")
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
NO_WORKER = ("dataloader worker", "dataloader timed out")


@contextmanager
def typed_failures(doing: str) -> Iterator[None]:
    """Turn failures of the system into errors whose messages name what the run was `doing` and the remedy.

    Raises:
        TrainingError: if the disk or the memory is full, or a process of a data loader has died.
    """
    try:
        yield
    except BestowEdgeError:
        raise
    except (RuntimeError, OSError, MemoryError, EOFError, SafetensorError) as error:
        if reason := _reason(error):
            raise TrainingError(f"{doing}: {reason}") from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Return whether a file could not be written for lack of space. torch and safetensors have no such error type."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return True
    below = error.__cause__ or error.__context__
    return any(words in str(error).lower() for words in NO_SPACE) or (below is not None and is_disk_full(below))


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in NO_MEMORY):
        return (
            "out of memory; lower batch_s and raise batches_per_step as much, set activation_checkpointing: true, "
            f"train less (lora, trains), or share the weights among more devices (FSDP); {GOES_ON}"
        )
    if isinstance(error, (EOFError, ConnectionError)) or any(words in text for words in NO_WORKER):
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return (
            f"a process that makes batches has died ({first_line}); if the system killed it for its memory, lower "
            f"workers or batch_s; {GOES_ON}"
        )
    if is_disk_full(error):
        return f"no space left on the disk ({error}); free some; {GOES_ON}, which is complete"
    return ""


@contextmanager
def no_orphans() -> Iterator[None]:
    """Kill the child processes of a block that fails. They ignore SIGTERM, and Python would wait for them."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise another error
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
            child.join()
        raise


class StopSignal:
    """Records the first SIGINT or SIGTERM within a `with` block. A second signal has its usual effect."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignal:
        """Install handlers, except of ignored signals. In other threads than the main one Python cannot install any."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _record(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the protocol's
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def prepare_worker(_worker: int) -> None:
    """Prepare a process of a data loader.

    It ignores signals: Ctrl-C and schedulers send them to all processes of a run. It ends if it cannot hand over a
    batch, such as in a full /dev/shm: Python would drop the batch, and training would wait for it for ever.
    """
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]  # not public
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_worker(error: BaseException, _batch: object) -> None:
    logger.error(
        "a batch cannot be handed over (%s); give /dev/shm more space (docker run --shm-size), or lower batch_s", error
    )
    os._exit(1)
