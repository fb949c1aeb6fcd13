"""Golden inputs and outputs inside a bundle, and `verify`, which runs them again on the user's machine.

Export records them with onnxruntime after it has shown parity with PyTorch. int8 kernels round differently on another
processor, so the tolerance depends on the precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from bestow_edge.core.bundle import GOLDEN_FILE, BundleManifest, Precision, check_files, read_manifest
from bestow_edge.core.errors import BundleIntegrityError
from bestow_edge.core.tensors import LOGITS, TOKEN_ID
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
    """Run each `<graph>.onnx` of a directory on inputs, by graph and tensor name; return arrays for one `.npz` file."""
    arrays: dict[str, Array] = {}
    for name, spec in manifest.specs.items():
        runner = OnnxGraph(directory / f"{name}.onnx", spec, threads=0).runner()
        runner.bind(inputs[name])
        arrays |= {f"{name}/in/{key}": value for key, value in inputs[name].items()}
        arrays |= {f"{name}/out/{key}": value for key, value in runner.run().items()}
    return arrays


def verify(directory: Path) -> list[GoldenRow]:
    """Check a bundle's manifest, files and hashes, and run its golden inputs.

    Raises:
        BundleError: if the bundle is missing, damaged or invalid; the rows hold the errors of the outputs.
    """
    manifest = read_manifest(directory)
    check_files(directory, manifest, hashes=True)
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
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise BundleIntegrityError(f"{path}: not readable ({error}); export the checkpoint again") from error
    names = {f"{name}/in/{key}" for name, spec in manifest.specs.items() for key in spec.input_names}
    names |= {f"{name}/out/{key}" for name, spec in manifest.specs.items() for key in spec.output_names}
    if odd := names ^ set(golden):
        raise BundleIntegrityError(f"{path}: not this model's arrays: {min(odd)}; export the checkpoint again")
    return golden


def _run_again(name: str, directory: Path, manifest: BundleManifest, golden: Mapping[str, Array]) -> GoldenRow:
    entry = manifest.graphs[name]
    runner = OnnxGraph(directory / entry.file, manifest.specs[name], threads=0).runner()
    runner.bind(_inputs(name, golden))
    got = runner.run()
    error = relative_error(got, {key: golden[f"{name}/out/{key}"] for key in got})
    return GoldenRow(name, entry.precision, error, TOLERANCES[entry.precision])


def relative_error(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return the largest difference over the largest value, the worst of all outputs.

    The difference of a token id is the distance of its expected logit from the best one.
    """
    errors = []
    for name, values in outputs.items():
        want = expected[LOGITS if name == TOKEN_ID else name]
        if name == TOKEN_ID:
            difference = want.max(axis=1, keepdims=True) - np.take_along_axis(want, values[:, None], axis=1)
        else:
            difference = np.abs(values.astype(np.float32) - want)
        errors.append(float(difference.max() / (np.abs(want).max() + 1e-9)))
    return max(errors)
