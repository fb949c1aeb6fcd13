"""onnxruntime with a GPU's providers, in the place of the module: the CPU provider does their work.

It refuses tensors that are not bound as a GPU's. With `fake_cuda`, whose memory is the host's, whole sessions run.
"""

# ruff: noqa: N802 - onnxruntime's own names

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
Provider = str | tuple[str, dict[str, str]]


class GpuOnnxRuntime:
    """The module."""

    def __init__(self, *, cuda: bool = True, tensorrt: bool = False, lacks: Collection[str] = ()) -> None:
        self.sessions: list[GpuSession] = []
        self.lacks = set(lacks)
        """Operators without a kernel for CUDA."""
        self._providers = [*[TENSORRT] * tensorrt, *[CUDA] * cuda, CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return self._providers

    def preload_dlls(self) -> None:
        sys.stdout.write("Failed to load libcudnn.so.9\n")  # onnxruntime prints, too

    def InferenceSession(self, model: Any, options: Any, providers: Sequence[Provider], **rest: Any) -> Any:
        session = onnxruntime.InferenceSession(model, options, providers=[CPU], **rest)
        asked = dict((item, {}) if isinstance(item, str) else item for item in providers)
        if set(asked) == {CPU}:
            return session
        self.sessions.append(GpuSession(session, asked, self.lacks))
        return self.sessions[-1]


class GpuSession:
    """A session of the CPU provider under the names of others."""

    def __init__(self, session: Any, providers: dict[str, dict[str, str]], lacks: Collection[str]) -> None:
        self.providers = providers
        self._session, self._lacks = session, lacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [*self.providers, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [node for part in self._session.get_provider_graph_assignment_info() for node in part.get_nodes()]
        places = {CUDA: [node for node in nodes if node.op_type not in self._lacks]}
        places[CPU] = [node for node in nodes if node.op_type in self._lacks]
        return [SimpleNamespace(ep_name=name, get_nodes=found.copy) for name, found in places.items() if found]

    def io_binding(self) -> GpuBinding:
        return GpuBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: GpuBinding, options: Any) -> None:
        self._session.run_with_iobinding(binding.of_cpu, options)


class GpuBinding:
    """Binds a GPU's addresses, which are the host's."""

    def __init__(self, of_cpu: Any) -> None:
        self.of_cpu = of_cpu

    def bind_input(self, name: str, device: str, index: int, *tensor: Any) -> None:
        assert (device, index) == ("cuda", 0)
        self.of_cpu.bind_input(name, "cpu", 0, *tensor)

    def bind_output(self, name: str, device: str, index: int, *tensor: Any) -> None:
        assert (device, index) == ("cuda", 0)
        self.of_cpu.bind_output(name, "cpu", 0, *tensor)


def install_onnxruntime(monkeypatch: pytest.MonkeyPatch, **options: Any) -> GpuOnnxRuntime:
    """Let `import onnxruntime` give one with a GPU's providers."""
    module = GpuOnnxRuntime(**options)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module
