"""What TensorRT for RTX has and TensorRT has not: capabilities, compiled kernels, the check of an engine's header.

An engine for RTX holds no code for one GPU: the GPU compiles the kernels when they first run, and a file keeps them.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bestow_edge.core.files import write_atomically
from bestow_edge.runtime.devices.cuda import CudaDevice

logger = logging.getLogger(__name__)


def aim(trt: Any, config: Any, capabilities: Sequence[str]) -> None:  # Any: the module and its class, without types
    """Tell a build the compute capabilities, such as `sm86`, that its engine is for."""
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)


def header_problem(trt: Any, runtime: Any, path: Path) -> str:  # Any: as above
    """Return what the library says against an engine's first bytes; empty if nothing.

    An engine is checked before its gigabytes are read. Without a GPU the library can tell a malformed one alone.
    """
    with path.open("rb") as file:
        header = file.read(runtime.engine_header_size)
    validity, reasons = runtime.get_engine_validity(header)
    if validity != trt.EngineValidity.INVALID or not int(reasons):
        return ""
    flags = trt.EngineInvalidityDiagnostics.__members__
    return f"{path.name} is refused: {', '.join(name for name, flag in flags.items() if int(flag) & int(reasons))}"


class RtxContexts:
    """Makes an engine's contexts, and keeps the kernels that the GPU compiled for them in a file."""

    def __init__(self, trt: Any, engine: Any, device: CudaDevice, kept: Path, *, graphs: bool) -> None:  # Any: as above
        """Read the kernels of earlier runs; see `Library.contexts`."""
        self._engine = engine
        self._runtime_config = runtime_config = engine.create_runtime_config()
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        runtime_config.set_execution_context_allocation_strategy(strategy)
        if graphs:
            runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        kernels = runtime_config.create_runtime_cache()
        known = kept.read_bytes() if kept.is_file() else b""
        if known and not kernels.deserialize(known):
            logger.info("%s: compiled for another GPU or driver; kernels are compiled again", kept)
        runtime_config.set_runtime_cache(kernels)
        weakref.finalize(self, _keep, kernels, known, kept, device)

    def __call__(self) -> Any:  # Any: as above
        """Return a new context."""
        return self._engine.create_execution_context(self._runtime_config)


def _keep(kernels: Any, known: bytes, kept: Path, device: CudaDevice) -> None:  # Any: as above
    """Write compiled kernels, if there are new ones; runs when the engine is no longer used or the process ends."""
    device.use()
    content = bytes(kernels.serialize())
    if content == known:
        return
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, content)
    except OSError as error:
        logger.warning("%s: compiled kernels cannot be kept: %s", kept, error)
