"""The TensorRT libraries: TensorRT 10 and 11, and TensorRT for RTX 1.x. What differs between them is in this file.

Both have the names that the rest of this folder uses; a test compares each of them with those of 10.16, 11.4 and 1.7.
TensorRT builds for the GPU in the machine, measures kernels and keeps the times. TensorRT for RTX builds for compute
capabilities that are named to it, without a GPU; the GPU compiles the kernels at the first run and keeps them.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import EngineError, MissingExtraError
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.tensorrt import rtx
from bestow_edge.runtime.devices.tensorrt.engine_store import Machine

MODULES = {"tensorrt": ("tensorrt", range(10, 12)), "rtx": ("tensorrt_rtx", range(1, 2))}
"""By device and extra: module and majors. 10 is the first with strongly typed int64 networks, and a Jetson's."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")  # Linux; CUDA gives only the version of CUDA that the driver supports
logger = logging.getLogger(__name__)
TensorRt = Any  # the module: it has no types
Contexts = Callable[[], Any]  # Any: returns a new execution context of an engine


@dataclass(frozen=True, slots=True)
class Library:
    """An installed library."""

    trt: TensorRt
    """Its module."""
    rtx: bool
    """Whether it is TensorRT for RTX."""

    @property
    def version(self) -> str:
        """Its full version."""
        return str(self.trt.__version__)

    def __str__(self) -> str:
        return f"TensorRT{' for RTX' if self.rtx else ''} {self.version}"

    def aim(self, config: Any, capabilities: Sequence[str], timings: bytes) -> None:  # Any: a class of the module
        """Tell a build what it is for: RTX cards of some capabilities such as `sm86`, or this machine's GPU."""
        if self.rtx:
            rtx.aim(self.trt, config, capabilities)
        else:
            config.set_timing_cache(config.create_timing_cache(timings), False)

    def timings(self, config: Any) -> bytes:  # Any: as above
        """Return the timing cache after a build; TensorRT for RTX has none."""
        cache = None if self.rtx else config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())

    def contexts(self, engine: Any, device: CudaDevice, kept: Path, *, graphs: bool) -> Contexts:  # Any: as above
        """Return what makes an engine's contexts, whose scratch memory the caller gives.

        TensorRT for RTX keeps compiled kernels in the file `kept`, and captures CUDA graphs with `graphs`.
        """
        if self.rtx:
            return rtx.RtxContexts(self.trt, engine, device, kept, graphs=graphs)
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return lambda: engine.create_execution_context(strategy)

    def problem_of(self, path: Path) -> str:
        """Return what TensorRT for RTX says against an engine's file; empty if nothing."""
        return rtx.header_problem(self.trt, self.trt.Runtime(trt_logger(self.trt)), path)


def import_library(kind: str) -> Library:
    """Return the library of a device, `tensorrt` or `rtx`.

    Raises:
        MissingExtraError: if it is not installed.
        EngineError: if its libraries cannot be loaded, or it is too old or too new.
    """
    module, majors = MODULES[kind]
    try:
        library = Library(importlib.import_module(module), kind == "rtx")
    except ImportError as error:
        raise MissingExtraError(module, kind) from error
    except OSError as error:
        raise EngineError(f"{module} is installed but cannot be loaded: {error!s:.200}") from error
    major = library.version.partition(".")[0]
    if not major.isdigit() or int(major) not in majors:
        raise EngineError(f"{library}: expected {' or '.join(map(str, majors))}")
    return library


@cache  # TensorRT keeps the first logger until the process ends
def trt_logger(trt: TensorRt) -> Any:  # Any: a class of the module
    """Return the one logger of a module; it passes messages to Python's logging."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.DEBUG,  # many, and a user can change nothing about them
        trt.ILogger.INFO: logging.DEBUG,
    }

    class Messages(trt.ILogger):  # type: ignore[misc]  # the base class comes with the module
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # Any: an enum of the module
            if severity in levels:
                logger.log(levels[severity], "TensorRT: %s", message)

    return Messages()


def this_machine(library: Library, device: CudaDevice) -> Machine:
    """Return the machine that engines built here are bound to."""
    found = device.properties()
    driver = f"CUDA {found['driver_cuda']}"
    if DRIVER_FILE.is_file():
        text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
        if number := re.search(r"\b\d+(\.\d+)+\b", text):
            driver = f"{number[0]}, {driver}"
    gpu = f"{found['gpu']}, compute capability {found['compute_capability']}"
    return Machine(gpu=gpu, driver=driver, tensorrt=f"RTX {library.version}" if library.rtx else library.version)
