"""`bestow-edge engines`: builds, lists and deletes TensorRT engines.

The work is in `bestow_edge.runtime.devices.tensorrt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import err, megabytes, new_table, say, say_warning, write, write_json, write_tables
from bestow_edge.core.errors import BestowEdgeError
from bestow_edge.core.files import leftovers, settle

if TYPE_CHECKING:
    from bestow_edge.runtime.devices.backend import GraphFiles, Step
    from bestow_edge.runtime.devices.tensorrt.engine_store import Machine, Stored
    from bestow_edge.runtime.devices.tensorrt.engines import Settings

app = typer.Typer(
    name="engines",
    help="Build, list and delete TensorRT engines of bundles.",
    callback=options.help_without_command,
    invoke_without_command=True,
)
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Directory of the engines; default: ~/.cache/bestow-edge/engines."),
]
Gpu = Annotated[int, typer.Option("--gpu", min=0, metavar="N", help="Number of the GPU, from 0.")]


Rows = Annotated[
    int, typer.Option("--rows", min=1, metavar="N", help="Most texts decoded together: prompts, or beam size.")
]
PromptTokens = Annotated[int, typer.Option("--prompt-tokens", min=2, metavar="N", help="Tokens of the longest prompt.")]
Workspace = Annotated[
    int, typer.Option("--workspace-mb", min=1, metavar="MB", help="Largest scratch memory of a kernel, MiB.")
]
Level = Annotated[
    int, typer.Option("--level", min=0, max=5, metavar="N", help="TensorRT's optimisation level; 5 searches longest.")
]
Rtx = Annotated[
    bool, typer.Option("--rtx", help="Build for RTX cards into the bundle; works on machines without a GPU.")
]
Cards = Annotated[
    str,
    typer.Option(
        "--for",
        metavar="NAMES",
        help="With --rtx: sm75, sm80, sm86, sm89, sm120, sm121, or all from sm80 on; one engine holds several.",
    ),
]


@app.command()
def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle exported with --target tensorrt or rtx.")],
    rows: Rows = 5,
    prompt_tokens: PromptTokens = 128,
    workspace: Workspace = 4096,
    level: Level = 3,
    rtx: Rtx = False,
    cards: Cards = "all",
    force: Annotated[bool, typer.Option("--force", help="Build existing engines again.")] = False,
    gpu: Gpu = 0,
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Build the engines of a bundle for this GPU, driver and TensorRT; takes minutes.

    Existing engines are kept.
    `--device tensorrt:0` of other commands uses engines that were built without options.
    For other engines repeat the options there: `--device tensorrt:0,rows=9,level=2`.
    With `--rtx` the engines are for `--device rtx:0`, in the bundle and for several cards at once.
    The engines have not run on a GPU yet.

    Examples:
      bestow-edge engines build my-bundle
      bestow-edge engines build my-bundle --workspace-mb 256 --level 2
      bestow-edge engines build my-bundle --rtx
      bestow-edge engines build my-bundle --rtx --for sm75,sm86
    """
    from bestow_edge.core.bundle import check_files, read_manifest
    from bestow_edge.runtime.devices.backend import GraphFiles
    from bestow_edge.runtime.devices.cuda import CudaDevice
    from bestow_edge.runtime.devices.tensorrt.building import Options
    from bestow_edge.runtime.devices.tensorrt.engines import BundleEngines, Settings
    from bestow_edge.runtime.devices.tensorrt.library import import_library, this_machine
    from bestow_edge.runtime.devices.tensorrt.profiles import Bounds

    bundle = options.chosen_bundle(bundle)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest, hashes=False)
    bounds = Bounds(rows=rows, prompt_tokens=prompt_tokens)
    settings = Settings(bounds=bounds, options=Options(workspace_mb=workspace, level=level))
    files = GraphFiles(directory=bundle, manifest=manifest)
    if rtx:
        _build_rtx(files, settings, cards, force=force, as_json=as_json)
        return
    library, device = import_library("tensorrt"), CudaDevice(gpu)
    engines = BundleEngines(files, library, this_machine(library, device), _store(store), settings)
    if force:
        engines.forget()
    missing = engines.missing()
    for name in missing:
        with _shown(name) as step:
            engines.build(name, step)
    names = {key.name for key in engines.keys.values()}
    _print([item for item in engines.store.engines() if item.path.stem in names], [engines.machine], as_json=as_json)
    if not missing:
        say("all engines were there already; --force builds them again")


def _build_rtx(files: GraphFiles, settings: Settings, cards: str, *, force: bool, as_json: bool) -> None:
    """Build engines into a bundle, and show what it has then."""
    from bestow_edge.cli.inspect import engines_tables
    from bestow_edge.core.bundle import write_manifest
    from bestow_edge.runtime.devices.tensorrt.ahead import build_ahead, parse_capabilities
    from bestow_edge.runtime.devices.tensorrt.library import import_library

    if force:
        files = replace(files, manifest=replace(files.manifest, engines={}))
    manifest = build_ahead(files, import_library("rtx"), parse_capabilities(cards), settings, _shown)
    write_manifest(manifest, files.directory)
    if as_json:
        write_json({name: asdict(entry) for name, entry in manifest.engines.items()})
    else:
        write_tables(*engines_tables(manifest))


@app.command("list")
def list_engines(gpu: Gpu = 0, store: Store = None, as_json: options.Json = False) -> None:
    """List all engines and whether they run on this machine.

    Example:
      bestow-edge engines list
    """
    _print(list(_store(store).engines()), _machines(gpu), as_json=as_json)


@app.command()
def prune(
    everything: Annotated[bool, typer.Option("--all", help="Delete all engines instead.")] = False,
    gpu: Gpu = 0,
    store: Store = None,
) -> None:
    """Delete damaged engines, engines without their bundle, and engines of another GPU, driver or TensorRT.

    On a machine without a GPU or TensorRT, engines of other machines are kept.

    Examples:
      bestow-edge engines prune
      bestow-edge engines prune --all
    """
    machines = _machines(gpu)

    def keep(record: Any) -> bool:  # Any: EngineRecord, which is imported late
        runs = not machines or record.key.machine in machines
        return not everything and runs and Path(record.source).is_file()

    engines = _store(store)
    deleted = engines.prune(keep)
    for path in leftovers(engines.directory):
        write(f"{path}: {settle(path)}, a killed command left it")
    for item in deleted:
        write(str(item.path))
    write(f"{len(deleted)} engines deleted")


def _store(directory: Path | None) -> Any:  # Any: EngineStore, which is imported late
    from bestow_edge.runtime.devices.tensorrt.engine_store import EngineStore, default_directory

    return EngineStore(default_directory() if directory is None else directory)


def _machines(gpu: int) -> list[Machine]:
    """Return GPU, driver and library of this machine, for each TensorRT that it has; warn if there is none."""
    from bestow_edge.runtime.devices.cuda import CudaDevice
    from bestow_edge.runtime.devices.tensorrt.library import MODULES, import_library, this_machine

    machines, problems = [], []
    for kind in MODULES:
        try:
            machines.append(this_machine(import_library(kind), CudaDevice(gpu)))
        except BestowEdgeError as error:
            problems.append(str(error))
    if not machines:
        say_warning(f"no engine runs on this machine: {'; '.join(problems)}")
    return machines


def _print(found: list[Stored], machines: list[Machine], *, as_json: bool) -> None:
    if as_json:
        write_json(
            [
                {"path": str(item.path), "runs_here": _runs(item, machines)}
                | ({} if item.record is None else asdict(item.record))
                for item in found
            ]
        )
        return
    columns = "graph", "precision", "size", "built", "took", "GPU", "driver", "TensorRT", "runs here"
    table = new_table("TensorRT engines", *columns, numbers=("size", "took"))
    for item in found:
        if (record := item.record) is None:
            table.add_row(item.path.name, *[""] * 7, "damaged")
            continue
        key = record.key
        runs = "yes" if _runs(item, machines) else "no"
        cells = key.precision, megabytes(record.size), record.built_at, f"{record.built_s:.0f} s"
        table.add_row(key.graph, *cells, key.machine.gpu, key.machine.driver, key.machine.tensorrt, runs)
    write_tables(table)


def _runs(item: Stored, machines: list[Machine]) -> bool:
    return item.record is not None and item.path.is_file() and item.record.key.machine in machines


@contextmanager
def _shown(graph: str) -> Iterator[Step]:
    """Yield a function that shows the progress of a build: bars on a terminal, a line for each phase elsewhere."""
    if not err.is_terminal:
        phases: set[str] = set()

        def add_line(phase: str, _done: int, _total: int) -> bool:
            if phase not in phases:
                phases.add(phase)
                say(f"{graph}: {phase}")
            return True

        yield add_line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        bars: dict[str, Any] = {}  # Any: rich's type of a bar's number

        def move_bar(phase: str, done: int, total: int) -> bool:
            if phase not in bars:
                bars[phase] = progress.add_task(f"{graph}: {phase}", total=total)
            progress.update(bars[phase], completed=done, visible=done < total)
            return True

        yield move_bar
