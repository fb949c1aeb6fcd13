"""The `tensorrt` module: a late import, a check of its version, its messages in Python's log, its machine.

This folder uses names that both TensorRT 10 and 11 have; a test compares every name with those of 10.16 and 11.4.
"""

from __future__ import annotations

import importlib
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import EngineError, MissingExtraError
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.tensorrt.engine_store import Machine

OLDEST, NEWEST = 10, 11  # majors; 10 is the first with strongly typed int64 networks, and a Jetson's version
DRIVER_FILE = Path("/proc/driver/nvidia/version")  # Linux; CUDA gives only the version of CUDA that the driver supports
logger = logging.getLogger(__name__)
TensorRt = Any  # the module: it has no types


def import_tensorrt() -> TensorRt:
    """Return the module.

    Raises:
        MissingExtraError: if it is not installed.
        EngineError: if its libraries cannot be loaded, or it is too old or too new.
    """
    try:
        trt: TensorRt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise MissingExtraError("tensorrt", "tensorrt") from error
    except OSError as error:
        raise EngineError(f"tensorrt is installed but cannot be loaded: {error!s:.200}") from error
    major = str(trt.__version__).partition(".")[0]
    if not major.isdigit() or not OLDEST <= int(major) <= NEWEST:
        raise EngineError(f"TensorRT {trt.__version__}: expected {OLDEST} or {NEWEST}")
    return trt


@cache  # TensorRT keeps the first logger until the process ends
def trt_logger(trt: TensorRt) -> Any:  # Any: a class of the module
    """Return the one TensorRT logger of this process; it passes messages to Python's logging."""
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


def this_machine(trt: TensorRt, device: CudaDevice) -> Machine:
    """Return the machine that engines built here are bound to."""
    found = device.properties()
    driver = f"CUDA {found['driver_cuda']}"
    if DRIVER_FILE.is_file():
        text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
        if number := re.search(r"\b\d+(\.\d+)+\b", text):
            driver = f"{number[0]}, {driver}"
    gpu = f"{found['gpu']}, compute capability {found['compute_capability']}"
    return Machine(gpu=gpu, driver=driver, tensorrt=str(trt.__version__))
