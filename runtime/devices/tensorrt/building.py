"""Builds the serialized engine of one ONNX file with TensorRT's builder.

The network is strongly typed, so its types are those of the graph. TensorRT 10 needs a flag for that, 11 has no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import EngineError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.backend import Step
from bestow_edge.runtime.devices.tensorrt.library import Library, TensorRt, trt_logger
from bestow_edge.runtime.devices.tensorrt.profiles import Profile, dynamic_inputs

MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Settings of TensorRT's builder."""

    workspace_mb: int = 4096
    """Most scratch memory of a kernel, MiB; on a Jetson it is part of the machine's memory."""
    level: int = 3
    """TensorRT's optimisation level, 0 to 5; a higher one searches longer. 3 is its default."""


@dataclass(frozen=True, slots=True)
class Built:
    """The result of a build."""

    plan: memoryview
    """The engine, in TensorRT's memory: it may be gigabytes."""
    timings: bytes
    """The timing cache: the given entries and new ones; empty for RTX."""


class BuildCancelledError(EngineError):
    """A build was stopped."""


def build_engine(
    library: Library,
    path: Path,
    spec: GraphSpec,
    known: Sequence[Profile],
    options: Options,
    *,
    timings: bytes = b"",
    capabilities: Sequence[str] = (),
    step: Step,
) -> Built:
    """Build the engine of an `.onnx` file, beside which its external data lies.

    A runner counts the profiles in the given order. `timings` is the timing cache of earlier builds, empty if there is
    none; `capabilities` are those of RTX cards, such as `sm86`, that one engine is for; `step` gets the progress.

    Raises:
        EngineError: if TensorRT cannot read the graph or build the engine.
        BuildCancelledError: if `step` returned False.
    """
    trt, logger = library.trt, trt_logger(library.trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        problems = [f"{error.node_operator()}: {error.desc()}" for error in errors]
        raise EngineError(f"{path}: {library} cannot read it: {'; '.join(problems) or 'no reason given'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * MEGABYTE)
    config.builder_optimization_level = options.level
    library.aim(config, capabilities, timings)
    for item in known:
        _add_profile(builder, config, spec, item)
    monitor = _monitor(trt, step)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if monitor.stopped:
            raise BuildCancelledError(f"{spec.name}: the build was stopped")
        raise EngineError(f"{spec.name}: {library} built no engine; its messages say why")
    return Built(memoryview(plan), library.timings(config))


def _add_profile(builder: Any, config: Any, spec: GraphSpec, item: Profile) -> None:  # Any: the module has no types
    profile = builder.create_optimization_profile()
    for tensor in dynamic_inputs(spec):
        profile.set_shape(tensor.name, *item.shapes(tensor))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{spec.name}: TensorRT refuses the profile {item.name}; its messages say why")


def _monitor(trt: TensorRt, step: Step) -> Any:  # Any: a class of the module
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class comes with the module
        """Passes the progress on. TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._sizes: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._sizes[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._report(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            self._sizes.pop(phase_name, None)

        def _report(self, phase: str, done: int) -> bool:
            if not self.stopped:
                self.stopped = not step(phase, done, self._sizes.get(phase, done))
            return not self.stopped

    return Monitor()
