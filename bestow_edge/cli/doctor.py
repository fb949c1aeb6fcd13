"""`bestow-edge devices` and `bestow-edge doctor`: microphones, packages and GPU of this machine.

`doctor` also runs if packages are missing: it imports only modules that it checks.
"""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge import __version__
from bestow_edge.cli import options
from bestow_edge.cli.show.console import new_table, say, say_warning, shown_steps, write, write_json, write_tables
from bestow_edge.core.errors import AudioDeviceError, BestowEdgeError
from bestow_edge.evaluation.report.hardware import installed, usable_cores

if TYPE_CHECKING:
    from bestow_edge.evaluation.run.gpu import GpuReport

INSTALL = "pip install 'bestow-edge{}'"
MODULES = {  # import names by the extra that installs them; empty = the package itself
    "": ("numpy", "platformdirs", "soundfile", "soxr", "tokenizers"),
    "cpu": ("onnxruntime",),
    "mic": ("sounddevice",),
    "media": ("av",),
    "hub": ("huggingface_hub",),
    "server": ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client"),
    "export": ("torch", "transformers", "safetensors", "onnx", "onnxscript"),
    "train": ("accelerate", "filelock", "yaml"),
    "eval": ("jiwer", "sacrebleu", "whisper_normalizer", "matplotlib"),
}
RUNTIME = (*MODULES[""], *MODULES["cpu"])  # imported and not only looked up, so that a broken installation is found
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "yaml": ("pyyaml",),
    "python_multipart": ("python-multipart",),
    "prometheus_client": ("prometheus-client",),
    "whisper_normalizer": ("whisper-normalizer",),
}


@dataclass(kw_only=True, slots=True)
class Report:
    """Results of `doctor`."""

    bestow_edge: str = __version__
    python: str = platform.python_version()
    platform: str = platform.platform()
    versions: dict[str, str | None] = field(default_factory=dict)
    """Version of each import name, None = missing."""
    providers: list[str] = field(default_factory=list)
    """Providers of onnxruntime, best first."""
    cpus: int = os.cpu_count() or 1
    usable_cpus: int = field(default_factory=usable_cores)
    """CPUs that this process may use: the default number of threads."""
    microphones: list[str] = field(default_factory=list)
    embedded_bundles: dict[str, str] = field(default_factory=dict)
    """Its language pairs, or `unusable`, or `not checked`."""
    missing: dict[str, str] = field(default_factory=dict)
    """Command that installs each missing module."""
    leftovers: list[str] = field(default_factory=list)
    """What killed commands left in this folder, in the caches and among the temporary files."""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Reasons why the runtime cannot work."""


def devices(as_json: options.Json = False) -> None:
    """List the microphones, and on Linux the monitors, which hear what this computer plays.

    Examples:
      bestow-edge devices
      bestow-edge mic --mic-device 2
      bestow-edge mic --mic-device monitor
    """
    from bestow_edge.runtime.audio.microphone import list_devices

    found = list_devices()
    if as_json:
        write_json([asdict(device) for device in found])
        return
    if not found:
        raise AudioDeviceError("no microphone: PortAudio lists no input device; connect one and check permissions")
    table = new_table("Input devices", "index", "name", "host API", "channels", "rate (Hz)", "default")
    for device in found:
        row = (
            "" if device.source else device.index,
            device.name,
            device.host_api,
            device.channels,
            device.default_rate_hz,
        )
        table.add_row(*map(str, row), "yes" if device.is_default else "")
    write_tables(table)


def doctor(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check a GPU, and a bundle on it, instead.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="DIR", help="With --gpu: the bundle; default: the embedded one."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="With --gpu: the GPU.")] = "cuda:0",
    pack: Annotated[
        Path | None,
        typer.Option("--pack", metavar="FILE", help="With --gpu: write all results to a file, for a bug report."),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean", help="Remove what killed commands left here, in the caches and among the temporary files."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Check this installation and print the commands that install missing packages.

    Exit code 1: the runtime cannot work.
    With --gpu, exit code 1: a check failed. A machine without a GPU has exit code 0.

    With --clean: a directory that a killed command was about to replace is put back, the rest is removed.

    Examples:
      bestow-edge doctor
      bestow-edge doctor --json
      bestow-edge doctor --clean
      bestow-edge doctor --gpu --bundle my-gpu-bundle --pack gpu.json
    """
    if gpu:
        _doctor_gpu(bundle, device, pack, as_json=as_json)
        return
    if clean:
        _clean(as_json=as_json)
        return
    report = Report()
    _check_modules(report)
    _check_onnxruntime(report)
    _check_microphones(report)
    _check_bundle(report)
    report.leftovers = [str(path) for path in all_leftovers()]
    if report.leftovers:
        left = f"{len(report.leftovers)} files or directories that killed commands left, such as {report.leftovers[0]}"
        report.warnings.append(f"{left}; remove them: bestow-edge doctor --clean")
    if as_json:
        write_json(asdict(report))
    else:
        _print(report)
    if report.errors:
        raise typer.Exit(1)


def all_leftovers() -> list[Path]:
    """Return what killed commands left in this folder, two levels below it, in the caches and among temporary files."""
    from bestow_edge.core.files import leftovers, temporary_leftovers

    here = Path.cwd()
    places = [here, *(path for depth in ("*", "*/*") for path in here.glob(depth) if path.is_dir())]
    try:
        from platformdirs import user_cache_path
    except ImportError:
        caches = []  # `_check_modules` reports it
    else:
        cache = user_cache_path("bestow-edge", appauthor=False)
        caches = [cache, cache / "engines"]
    found = [*(path for place in (*places, *caches) for path in leftovers(place)), *temporary_leftovers()]
    return list(dict.fromkeys(found))


def _clean(*, as_json: bool) -> None:
    from bestow_edge.core.files import settle

    done = [{"path": str(path), "done": settle(path)} for path in all_leftovers() if path.exists()]
    if as_json:
        write_json(done)
        return
    for item in done:
        write(f"{item['path']}: {item['done']}")
    write(f"{len(done)} leftovers of killed commands" if done else "nothing is left of killed commands")


def _doctor_gpu(bundle: Path | None, device: str, pack: Path | None, *, as_json: bool) -> None:
    from bestow_edge.evaluation.run.gpu import Examination, examine

    with shown_steps() as step:
        report = examine(Examination(bundle=bundle and options.chosen_bundle(bundle), device=device), step)
    if pack is not None:
        report.pack(pack)
        say(f"written to {pack}")
    if as_json:
        write_json(asdict(report))
    else:
        write_gpu_report(report)
    if report.failed:
        raise typer.Exit(1)


def write_gpu_report(report: GpuReport) -> None:
    """Print the results of the checks of a GPU."""
    title = f"{report.gpu.get('gpu', 'No GPU')}: {report.bundle}"
    table = new_table(title, "check", "result", "figures or reason")
    for finding in report.findings:
        table.add_row(finding.check, finding.state, finding.detail)
    write_tables(table)


def _check_modules(report: Report) -> None:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `import_onnxruntime` does
    extras = [(extra, name) for extra, names in MODULES.items() for name in names]
    for extra, name in extras:
        problem = ""
        if name in RUNTIME:
            try:
                importlib.import_module(name)
            except (ImportError, OSError) as error:  # OSError: a library that the package needs is missing
                problem = " ".join(str(error).split())
        elif find_spec(name) is None:
            problem = "missing"
        if not problem:
            found = installed(DISTRIBUTIONS.get(name, (name,)))
            report.versions[name] = next(iter(found.values()), "unknown version")
            continue
        report.versions[name] = None
        report.missing[name] = INSTALL.format(f"[{extra}]" if extra else "")
        if name in RUNTIME:
            report.errors.append(f"{name} cannot be imported ({problem}); run: {report.missing[name]}")


def _check_onnxruntime(report: Report) -> None:
    if report.versions["onnxruntime"] is None:
        return
    report.providers = list(importlib.import_module("onnxruntime").get_available_providers())
    found = [f"{name} {version}" for name, version in installed(DISTRIBUTIONS["onnxruntime"]).items()]
    if len(found) > 1:
        report.warnings.append(
            f"{' and '.join(found)} overwrite each other's files; keep one: pip uninstall -y onnxruntime "
            f"onnxruntime-gpu && {INSTALL.format('[gpu]')}, or [cpu] without a GPU"
        )


def _check_microphones(report: Report) -> None:
    try:
        from bestow_edge.runtime.audio.microphone import list_devices

        report.microphones = [str(device) for device in list_devices()]
    except ImportError:
        return  # `_check_modules` reports it
    except AudioDeviceError as error:
        report.warnings.append(str(error))
        return
    if not report.microphones:
        report.warnings.append("no microphone: PortAudio lists no input device; `bestow-edge run` works without one")


def _check_bundle(report: Report) -> None:
    name = ""
    try:
        from bestow_edge.core.bundle import check_files, read_manifest
        from bestow_edge.core.embedded import EMBEDDED, embedded_bundle

        for name in EMBEDDED:
            manifest = read_manifest(embedded_bundle(name))
            check_files(embedded_bundle(name), manifest, hashes=True)
            report.embedded_bundles[name] = ", ".join(manifest.model.pairs)
    except BestowEdgeError as error:
        report.embedded_bundles[name] = "unusable"
        report.warnings.append(f"embedded bundle {name}: {error}; commands need --bundle")
    except ImportError:
        report.embedded_bundles = {"people, demo": "not checked"}


def _print(report: Report) -> None:
    table = new_table("bestow-edge doctor", "part", "found", "install it with")
    table.add_row("bestow-edge", report.bestow_edge, "")
    table.add_row("python", report.python, "")
    table.add_row("platform", report.platform, "")
    for name, found in report.versions.items():
        table.add_row(name, found or "missing", report.missing.get(name, ""))
    table.add_row("providers", ", ".join(report.providers) or "none", "")
    table.add_row("CPUs", f"{report.cpus}, usable by this process: {report.usable_cpus}", "")
    table.add_row("microphones", "\n".join(report.microphones) or "none", "")
    for name, pairs in report.embedded_bundles.items():
        table.add_row(f"embedded bundle {name}", pairs, "")
    write_tables(table)
    for warning in report.warnings:
        say_warning(warning)
    for error in report.errors:
        say(f"error: {error}")
    if not report.errors:
        write("the runtime works")
