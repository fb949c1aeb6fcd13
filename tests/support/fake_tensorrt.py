"""A stand-in for the `tensorrt` module, or `tensorrt_rtx`, whose names are exactly those of a real version.

Names come from `fixtures/tensorrt/<version>.json`, read from NVIDIA's Python bindings; one outside of them raises
AttributeError, also where the code below has it. Engines are onnxruntime sessions on the CPU that read and write the
addresses they are given, so that with a CUDA runtime whose memory is the host's a whole session runs. What TensorRT
refuses is refused here too: shapes outside the profile, addresses of nothing, plans of another version or GPU.
The real TensorRT for RTX builds engines in test_rtx_library.py; without a GPU it runs none.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SURFACES = Path(__file__).parents[1] / "fixtures" / "tensorrt"
RTX = "1.7.1.116"
VERSIONS = sorted(path.stem for path in SURFACES.glob("*.json") if path.stem != RTX)
MAGIC = b"FAKEPLAN"
SCRATCH_BYTES = 4096


def surface(version: str) -> dict[str, dict[str, list[str]]]:
    """Return the classes of a version with their names."""
    classes: dict[str, dict[str, list[str]]] = json.loads((SURFACES / f"{version}.json").read_text())["classes"]
    return classes


class Strict:
    """Has the names of one of TensorRT's classes and no others."""

    _names: frozenset[str] = frozenset()
    _where = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in object.__getattribute__(self, "_names"):
            raise AttributeError(f"{object.__getattribute__(self, '_where')} has no {name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._names:
            raise AttributeError(f"{self._where} has no {name}")
        object.__setattr__(self, name, value)


class Open(Strict):
    """A class that Python code may derive from, with attributes of its own."""

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class IHostMemory(Strict, bytes):
    """Bytes, as far as the buffer protocol goes."""


class ITimingCache(Strict):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return self._module.IHostMemory(self._content)


class IOptimizationProfile(Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self._shapes[name] = [list(least), list(usual), list(most)]


class IBuilderConfig(Strict):
    progress_monitor: Any = None
    builder_optimization_level = 3

    def __init__(self) -> None:
        self._profiles: list[dict[str, list[list[int]]]] = []
        self._cache: Any = None
        self._limits: dict[Any, int] = {}

        self._capabilities: dict[int, Any] = {}

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._limits[pool] = size

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        assert 0 <= index < self.num_compute_capabilities
        self._capabilities[index] = capability
        return True

    def create_timing_cache(self, content: bytes) -> ITimingCache:
        return self._module.ITimingCache(bytes(content))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._cache

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        ordered = all(a <= b <= c for shapes in profile._shapes.values() for a, b, c in zip(*shapes, strict=True))
        if not ordered:
            return -1
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1


class INetworkDefinition(Strict):
    def __init__(self) -> None:
        self._onnx = b""


class ParserError(Strict):
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_operator(self) -> str:
        return "Gelu"


class OnnxParser(Strict):
    num_errors = 0

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._errors = network, []
        self._module._check_logger(logger)

    def parse_from_file(self, path: str) -> bool:
        import onnx

        try:
            onnx.checker.check_model(onnx.load(path))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            self._errors = [self._module.ParserError(str(error).splitlines()[0])]
            self.num_errors = 1
            return False
        self._network._onnx = Path(path).read_bytes()
        return True

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class Builder(Strict):
    def __init__(self, logger: Any) -> None:
        self._module._check_logger(logger)

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << int(self._module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return self._module.INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return self._module.IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return self._module.IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if not self._module._hold(config.progress_monitor):
            return None
        self._module._built.append(config)
        if not self._tell(config.progress_monitor) or self._module._failing:
            return None
        if config._cache is not None:
            config._cache._content += b"+timed"
        built_for = [capability.name for capability in config._capabilities.values()]
        header = json.dumps(self._module._header() | {"for": built_for, "profiles": config._profiles}).encode()
        return self._module.IHostMemory(MAGIC + len(header).to_bytes(4, "big") + header + network._onnx)

    def _tell(self, monitor: Any) -> bool:
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Timing", "Building Engine", 1)
        going = monitor.step_complete("Timing", 0)
        monitor.phase_finish("Timing")
        going = going and monitor.step_complete("Building Engine", 0) and monitor.step_complete("Building Engine", 1)
        monitor.phase_finish("Building Engine")
        return bool(going)


class Runtime(Strict):
    engine_header_size = 8

    def get_engine_validity(self, header: bytes) -> tuple[Any, Any]:
        if header == MAGIC:
            return self._module.EngineValidity.VALID, 0
        return self._module.EngineValidity.INVALID, 32

    def __init__(self, logger: Any) -> None:
        self._module._check_logger(logger)

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        if not plan.startswith(MAGIC):
            return None
        size = int.from_bytes(plan[8:12], "big")
        header = json.loads(plan[12 : 12 + size])
        profiles, _ = header.pop("profiles"), header.pop("for")
        if header != self._module._header():
            return None
        return self._module.ICudaEngine(plan[12 + size :], profiles)


class ICudaEngine(Strict):
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, onnx_bytes: bytes, profiles: list[dict[str, list[list[int]]]]) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = {item.name: item for item in self._session.get_outputs()}
        self._profiles = profiles
        self.num_io_tensors = len(self._inputs) + len(self._outputs)
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._module.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        types = self._module.DataType
        known = {"tensor(float)": types.FLOAT, "tensor(float16)": types.HALF, "tensor(int64)": types.INT64}
        return known[(self._inputs | self._outputs)[name].type]

    def is_shape_inference_io(self, name: str) -> bool:
        assert name in self._inputs
        return False

    def create_runtime_config(self) -> IRuntimeConfig:
        return self._module.IRuntimeConfig()

    def create_execution_context(self, how: Any) -> IExecutionContext:
        strategy = how._strategy if isinstance(how, IRuntimeConfig) else how
        assert strategy is self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        if isinstance(how, IRuntimeConfig):
            how._kernels._content += b"kernel"
            self._module._strategies.append(how.cuda_graph_strategy)
        return self._module.IExecutionContext(self)


class IRuntimeCache(Strict):
    def __init__(self) -> None:
        self._content = b""

    def serialize(self) -> IHostMemory:
        return self._module.IHostMemory(self._content)

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"kernel"):
            return False
        self._content = content
        return True


class IRuntimeConfig(Strict):
    cuda_graph_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return self._module.IRuntimeCache()

    def set_runtime_cache(self, kernels: IRuntimeCache) -> bool:
        self._kernels = kernels
        return True


class IExecutionContext(Strict):
    def __getattribute__(self, name: str) -> Any:
        module = object.__getattribute__(self, "_module")
        module._calls[name] += 1
        return (lambda *_: False) if name in module._refused else super().__getattribute__(name)

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0
        engine._module._contexts.append(self)

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert pointer % 256 == 0
        assert size >= SCRATCH_BYTES
        self._memory = pointer

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream
        self._profile = index
        return index < len(self._engine._profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        limits = self._engine._profiles[self._profile].get(name)
        if limits is None:
            fits = list(shape) == self._engine._inputs[name].shape
        else:
            least, _, most = limits
            fits = len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream: int) -> bool:
        assert stream
        assert self._memory
        engine = self._engine
        if set(self._addresses) != {*engine._inputs, *engine._outputs}:
            return False
        engine._module._runs.append(self._profile)
        feeds = {
            name: _at(self._addresses[name], self._shapes[name], item.type) for name, item in engine._inputs.items()
        }
        for name, values in zip(engine._outputs, engine._session.run(None, feeds), strict=True):
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(values).ctypes.data, values.nbytes)
        return True


def _at(address: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Return a copy of what lies at an address."""
    dtype = np.dtype({"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}[kind])
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(address, count), dtype=dtype).reshape(shape)


FAKES = (
    Builder, IBuilderConfig, ICudaEngine, IExecutionContext, IHostMemory, INetworkDefinition, IOptimizationProfile,
    IRuntimeCache, IRuntimeConfig, ITimingCache, OnnxParser, ParserError, Runtime,
)  # fmt: skip


def fake_tensorrt(version: str, *, gpu: str = "Fake RTX") -> types.ModuleType:
    """Return a module with the names of a version, for one GPU.

    Args:
        version: one of `VERSIONS`, or `RTX`.
        gpu: name of the GPU that plans are bound to.
    """
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = version
    fakes = {fake.__name__: fake for fake in FAKES}
    for name, members in surface(version).items():
        where = f"tensorrt.{name} {version}"
        if "enum" in members:
            flags = name == "EngineInvalidityDiagnostics"
            values = {item: 1 << index if flags else index for index, item in enumerate(members["enum"])}
            setattr(module, name, enum.IntEnum(name, values))
            continue
        base: type = fakes.get(name, Open)
        names = {"_names": frozenset(members["members"]), "_where": where, "_module": module}
        setattr(module, name, type(name, (base,), names))
    for logger in (module.ILogger, module.Logger):
        for value, level in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")):
            setattr(logger, level, value)
    module._built, module._runs, module._contexts, module._failing, module._strategies = [], [], [], False, []
    module._calls, module._refused = Counter(), set()  # names of a context: times read, and those that return False
    module._hold = lambda monitor: True  # noqa: ARG005 - called before a build, which ends where it returns False
    module._header = lambda: {"version": version, "gpu": gpu}
    module._check_logger = _check_logger(module)
    return module


def _check_logger(module: Any) -> Callable[[Any], None]:
    def check(logger: Any) -> None:
        assert isinstance(logger, (module.ILogger, module.Logger))
        if isinstance(logger, module.ILogger):
            logger.log(module.ILogger.WARNING, "a warning that nobody needs")

    return check
