"""Golden inputs and outputs inside a bundle, and `verify`, which runs them again on the user's machine.

Export records them with onnxruntime after it has shown parity with PyTorch. int8 kernels round differently on another
processor, so the tolerance depends on the precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bestow_edge.core.archives import read_arrays
from bestow_edge.core.bundle import GOLDEN_FILE, BundleManifest, Precision, check_entries, check_files, read_manifest
from bestow_edge.core.comparison import finite, relative_error
from bestow_edge.core.errors import BundleIntegrityError, ConfigError, ParityError
from bestow_edge.core.tensors import TensorSpec
from bestow_edge.runtime.devices.base import Array
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph

TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2, "int4": 5e-2}
"""Largest difference over largest value. int8, int4: kernels of other processors round activations differently."""


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """One graph run again."""

    graph: str
    precision: Precision
    error: float
    """Largest difference over largest value, the worst of all outputs."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


def record_golden(
    directory: Path, manifest: BundleManifest, inputs: Mapping[str, Mapping[str, Array]]
) -> dict[str, Array]:
    """Run each `<graph>.onnx` of a directory on inputs, by graph and tensor name; return arrays for one `.npz` file.

    Raises:
        ParityError: if an output holds NaN or infinity.
    """
    arrays: dict[str, Array] = {}
    for name, spec in manifest.specs.items():
        runner = OnnxGraph(directory / f"{name}.onnx", spec, threads=0).runner()
        runner.bind(inputs[name])
        arrays |= {f"{name}/in/{key}": value for key, value in inputs[name].items()}
        outputs = runner.run()
        if bad := [key for key, value in outputs.items() if not finite({key: value})]:
            raise ParityError(f"{name}: output {bad[0]} holds NaN or infinity; no bundle was written")
        arrays |= {f"{name}/out/{key}": value for key, value in outputs.items()}
    return arrays


def verify(directory: Path) -> list[GoldenRow]:
    """Check a bundle's manifest, files and hashes, and run its golden inputs.

    Raises:
        BundleError: if the bundle is missing, damaged or invalid; the rows hold the errors of the outputs.
    """
    manifest = read_manifest(directory)
    if GOLDEN_FILE not in {entry.path for entry in manifest.files}:
        raise BundleIntegrityError(f"{directory}: bundle.json does not list {GOLDEN_FILE}; export the checkpoint again")
    check_files(directory, manifest, hashes=True)
    check_entries(directory, manifest.engine_files(), hashes=True)
    golden = _read(directory / GOLDEN_FILE, manifest)
    return [_run_again(name, directory, manifest, golden) for name in manifest.specs]


def read_golden(directory: Path, manifest: BundleManifest, graph: str) -> dict[str, Array]:
    """Return a graph's golden inputs by tensor name.

    Raises:
        BundleIntegrityError: if the inputs cannot be read or belong to another model.
    """
    return _inputs(graph, _read(directory / GOLDEN_FILE, manifest))


def _inputs(graph: str, golden: Mapping[str, Array]) -> dict[str, Array]:
    start = f"{graph}/in/"
    return {key.removeprefix(start): value for key, value in golden.items() if key.startswith(start)}


def _read(path: Path, manifest: BundleManifest) -> dict[str, Array]:
    remedy = "export the checkpoint again"
    tensors = {f"{name}/in/{item.name}": item for name, spec in manifest.specs.items() for item in spec.fed}
    tensors |= {f"{name}/out/{item.name}": item for name, spec in manifest.specs.items() for item in spec.returned}
    try:
        golden = read_arrays(path)
    except ConfigError as error:
        raise BundleIntegrityError(f"{error}; {remedy}") from error
    if odd := set(tensors) ^ set(golden):
        raise BundleIntegrityError(f"{path}: not this model's arrays: {min(odd)}; {remedy}")
    for name, array in golden.items():
        if not _fits(array, tensors[name]):
            got = f"{array.dtype} {array.shape}"
            raise BundleIntegrityError(f"{path}: {name} is {got}, expected {tensors[name]}; {remedy}")
        if not finite({name: array}):
            raise BundleIntegrityError(f"{path}: {name} holds NaN or infinity; {remedy}")
    return golden


def _fits(array: Array, tensor: TensorSpec) -> bool:
    if array.dtype != tensor.dtype or array.ndim != len(tensor.axes):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(tensor.axes, array.shape, strict=True))


def _run_again(name: str, directory: Path, manifest: BundleManifest, golden: Mapping[str, Array]) -> GoldenRow:
    entry = manifest.graphs[name]
    runner = OnnxGraph(directory / entry.file, manifest.specs[name], threads=0).runner()
    runner.bind(_inputs(name, golden))
    got = runner.run()
    error = relative_error(got, {key: golden[f"{name}/out/{key}"] for key in got})
    return GoldenRow(name, entry.precision, error, TOLERANCES[entry.precision])
