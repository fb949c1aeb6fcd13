"""Engines of TensorRT for RTX inside a bundle: built on any machine, used where they fit.

One engine holds a graph for several compute capabilities at once. It lies in the bundle beside the ONNX graph, which
serves in its place if it does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from bestow_edge.core.bundle import BundleManifest, EngineEntry, FileEntry, check_entries, check_files
from bestow_edge.core.errors import BundleError, ConfigError, EngineError
from bestow_edge.core.files import sha256, write_atomically
from bestow_edge.runtime.devices.backend import GraphFiles, Step
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.tensorrt.building import build_engine
from bestow_edge.runtime.devices.tensorrt.engines import Settings, check_target, graph_hash
from bestow_edge.runtime.devices.tensorrt.library import Library
from bestow_edge.runtime.devices.tensorrt.profiles import digest, profiles

CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Turing, Ampere twice, Ada, Blackwell twice. Hopper and Jetson are not among them: TensorRT 10 or 11 is for those."""
ALL = CAPABILITIES[1:]  # from Ampere on: Turing computes no int4, and makes an engine a fifth larger
Shown = Callable[[str], AbstractContextManager[Step]]
"""Shows the progress of one graph's build."""


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Return the capabilities of a list such as `sm86,sm89` or `all`, which means every card from Ampere on.

    Raises:
        ConfigError: if a word is none of them.
    """
    chosen = [name for word in text.split(",") for name in (ALL if word == "all" else (word,))]
    if unknown := [name for name in chosen if name not in CAPABILITIES]:
        expected = f"{', '.join(CAPABILITIES)} or all"
        problem = "Hopper and Jetson need TensorRT 10 or 11: engines build on that machine, without --rtx"
        raise ConfigError(f"capability {unknown[0]!r}: expected {expected}; {problem}")
    return tuple(name for name in CAPABILITIES if name in chosen)


def capability_of(device: CudaDevice) -> str:
    """Return a GPU's capability, such as `sm86`; raise an `EngineError` if the library has no kernels for it."""
    found = device.properties()
    name = f"sm{str(found['compute_capability']).replace('.', '')}"
    if name not in CAPABILITIES:
        raise EngineError(f"{found['gpu']}, {name}: not among {', '.join(CAPABILITIES)}; use --device tensorrt:0")
    return name


def build_ahead(
    files: GraphFiles, library: Library, capabilities: tuple[str, ...], settings: Settings, shown: Shown
) -> BundleManifest:
    """Build the engines of a bundle beside its graphs, without a GPU; return the manifest that names them.

    Engines that are there and would be the same stay.

    Raises:
        BundleError: if a graph differs from its hash in the manifest.
        EngineError: if the bundle is not made for TensorRT, or an engine cannot be built.
    """
    check_target(files)
    manifest = files.manifest
    check_files(files.directory, manifest, hashes=True)
    engines = {}
    for name in manifest.specs:
        entry = manifest.engines.get(name)
        if entry is None or entry.capabilities != capabilities or problem_of(files, name, library, settings):
            with shown(name) as step:
                entry = _build(files, name, library, capabilities, settings, step)
        engines[name] = entry
    return _naming(files, engines)


def _build(
    files: GraphFiles, name: str, library: Library, capabilities: tuple[str, ...], settings: Settings, step: Step
) -> EngineEntry:
    manifest, spec = files.manifest, files.manifest.specs[name]
    graph, known = manifest.graphs[name].file, profiles(spec, manifest, settings.bounds)
    path = files.directory / f"{name}.engine"
    built = build_engine(
        library, files.directory / graph, spec, known, settings.options, capabilities=capabilities, step=step
    )
    write_atomically(path, built.plan)
    return EngineEntry(
        file=path.name,
        library=library.version,
        capabilities=capabilities,
        graph_sha256=graph_hash(manifest.files, graph),
        profiles=digest(known),
    )


def _naming(files: GraphFiles, engines: dict[str, EngineEntry]) -> BundleManifest:
    """Return the manifest with these engines in place of others."""
    manifest, paths = files.manifest, {entry.file: files.directory / entry.file for entry in engines.values()}
    old = {entry.file for entry in manifest.engines.values()} | set(paths)
    kept = [entry for entry in manifest.files if entry.path not in old]
    new = [FileEntry(path=name, size=path.stat().st_size, sha256=sha256(path)) for name, path in paths.items()]
    return replace(manifest, engines=engines, files=tuple(sorted((*kept, *new), key=lambda entry: entry.path)))


def problem_of(files: GraphFiles, name: str, library: Library, settings: Settings, capability: str = "") -> str:
    """Return why a graph's engine in a bundle does not fit this library, these settings and a GPU; empty if it does."""
    manifest, entry = files.manifest, files.manifest.engines.get(name)
    if entry is None:
        return f"no engine of {name}"
    sizes = digest(profiles(manifest.specs[name], manifest, settings.bounds))
    fits = {
        f"built by TensorRT for RTX {entry.library}, here is {library.version}": entry.library == library.version,
        f"built for {', '.join(entry.capabilities)}, this GPU is {capability}": (
            not capability or capability in entry.capabilities
        ),
        "built from another graph": entry.graph_sha256 == graph_hash(manifest.files, manifest.graphs[name].file),
        "built for other sizes": entry.profiles == sizes,
    }
    if problem := next((problem for problem, good in fits.items() if not good), ""):
        return f"{entry.file} was {problem}"
    try:
        check_entries(files.directory, manifest.engine_files(name), hashes=True)
    except BundleError as error:
        return str(error)
    return library.problem_of(files.directory / entry.file)
