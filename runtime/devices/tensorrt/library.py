"""The `tensorrt` module: imported when it is needed, its version checked, its messages logged. Nothing else of it.

Names that TensorRT 10 or 11 lacks are never used; a test holds every name in this folder against 10.16 and 11.4.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from bestow_edge.core.errors import EngineError, MissingExtraError

OLDEST, NEWEST = 10, 11  # majors; 10 is the first with strongly typed networks of int64, and what a Jetson has
logger = logging.getLogger(__name__)
TensorRt = Any  # the module: it has no types
_loggers: dict[int, Any] = {}  # by module: TensorRT keeps the first logger it is given for good


def import_tensorrt() -> TensorRt:
    """Return the module.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: its libraries cannot be loaded, or it is too old or too new.
    """
    try:
        trt = load_module()
    except ImportError as error:
        raise MissingExtraError("tensorrt", "tensorrt") from error
    except OSError as error:
        raise EngineError(f"tensorrt is installed but cannot be loaded: {error!s:.200}") from error
    major = str(trt.__version__).partition(".")[0]
    if not major.isdigit() or not OLDEST <= int(major) <= NEWEST:
        raise EngineError(f"TensorRT {trt.__version__}: expected {OLDEST} or {NEWEST}")
    return trt


def load_module() -> TensorRt:
    """Return the module, or raise what importing it raises."""
    return importlib.import_module("tensorrt")


def trt_logger(trt: TensorRt) -> Any:  # Any: a class of the module
    """Return the logger that everything of this process shares; its messages go to Python's logging."""
    if id(trt) not in _loggers:
        levels = {
            trt.ILogger.INTERNAL_ERROR: logging.ERROR,
            trt.ILogger.ERROR: logging.ERROR,
            trt.ILogger.WARNING: logging.DEBUG,  # many, about things a user cannot change
            trt.ILogger.INFO: logging.DEBUG,
        }

        class Messages(trt.ILogger):  # type: ignore[misc]  # a class made where the module is known
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:  # Any: an enum of the module
                if severity in levels:
                    logger.log(levels[severity], "TensorRT: %s", message)

        _loggers[id(trt)] = Messages()
    return _loggers[id(trt)]
