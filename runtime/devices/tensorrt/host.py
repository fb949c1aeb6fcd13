"""What this machine is to an engine: GPU, driver and TensorRT. Knows where to ask, not what the answers are for."""

from __future__ import annotations

import re
from pathlib import Path

from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.tensorrt.engine_store import Machine
from bestow_edge.runtime.devices.tensorrt.library import TensorRt

DRIVER_FILE = Path("/proc/driver/nvidia/version")  # Linux; CUDA itself only tells which CUDA a driver is made for


def this_machine(trt: TensorRt, device: CudaDevice) -> Machine:
    """Return what engines built here are bound to."""
    found = device.properties()
    driver = f"CUDA {found['driver_cuda']}"
    if DRIVER_FILE.is_file():
        text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
        if number := re.search(r"\b\d+(\.\d+)+\b", text):
            driver = f"{number[0]}, {driver}"
    gpu = f"{found['gpu']}, compute capability {found['compute_capability']}"
    return Machine(gpu=gpu, driver=driver, tensorrt=str(trt.__version__))
