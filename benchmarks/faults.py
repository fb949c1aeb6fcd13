"""Kill commands at random moments, fill their disk and take their rights, and look at what is left and how they go on.

    python benchmarks/faults.py FOLDER [--kills 40] [--only export ...] [--seed 0]

For each of export, train, eval, engines and serve, on tiny models: kill -9 after a random share of the usual time;
then only what `bestow-edge doctor` lists, and what the same command takes up again, may be left; the command is run
again to its end, whose files must equal those of an unbroken run, and nothing else may be left. Then a disk that is
full (RLIMIT_FSIZE) and a directory that is read-only: one sentence, exit code 2. Needs the extras `cpu`, `export`,
`train`, `eval` and `server`. Prints a table of counts. Exit code 1: something was lost or left.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
MAIN = [sys.executable, "-m", "bestow_edge"]
LONGEST_S = 1800
VARYING = {"training_args.bin", "log.jsonl", "log.json", "settings.json", "bundle.json", "results.json", "report.html"}
"""Files with times or versions in them; that they are there is compared, not what they hold."""
ENGINES = """
import sys, time
from pathlib import Path
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineKey, EngineStore, Machine
store, machine = EngineStore(Path(sys.argv[1])), Machine(gpu="g", driver="1", tensorrt="10")
for number in range(40):
    key = EngineKey(graph=f"g{number}", onnx_sha256="a", precision="p", profiles="b", options="", machine=machine)
    plan = bytes([number]) * 4_000_000
    if store.load(key) is None:
        store.save(key, plan, source=Path("x"), built_s=0.0)
    assert store.load(key) == plan
"""


@dataclass
class Case:
    """A command that makes a directory."""

    name: str
    command: Callable[[Path], list[str]]
    """Returns the arguments for an output."""
    usual_s: float = 0.0
    files: dict[str, str] = field(default_factory=dict)
    """Hashes of an unbroken run's files, "" for those that differ from run to run."""


def run(
    command: Sequence[str], folder: Path, *, kill_s: float | None = None, limit: int | None = None
) -> tuple[int, str]:
    """Run a command in a folder; return its exit code and stderr.

    Args:
        command: arguments.
        folder: its directory, also of its caches and temporary files.
        kill_s: seconds until kill -9.
        limit: most bytes of a file that it writes.
    """
    places = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    for name in ("cache", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    def bounded() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with subprocess.Popen(
        command, cwd=folder, env=os.environ | places, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=bounded,  # noqa: PLW1509 - sets limits alone
    ) as process:  # fmt: skip
        try:
            _, err = process.communicate(timeout=kill_s or LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
    return process.returncode, err


def content(directory: Path) -> dict[str, str]:
    """Return the hash of every file, "" for those that differ from run to run."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix != ".lock" and path.name != ".writer" and "tensorboard" not in path.parts:
            same = path.name not in VARYING and not (path.suffix == ".json" and path.with_suffix(".engine").is_file())
            name = path.relative_to(directory).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if same else ""
    return {name: value for name, value in found.items() if "events.out" not in name}


def left(folder: Path) -> list[str]:
    """Return what is in a folder beside the output and what doctor lists."""
    from bestow_edge.core.files import leftovers

    places = [
        folder,
        folder / "cache",
        folder / "tmp",
        *(path for path in (folder / "cache").rglob("*") if path.is_dir()),
    ]
    listed = {path for place in places for path in leftovers(place)}
    expected = {folder / name for name in ("out", "cache", "tmp")}
    found = {*folder.iterdir(), *(folder / "tmp").iterdir()} - listed - expected
    return sorted(
        str(path.relative_to(folder)) for path in found if not path.name.startswith(("torchinductor", "pymp"))
    )


def kill_once(case: Case, folder: Path, chance: random.Random, counts: Counter[str]) -> None:
    """Kill a command, look at what is left, run it again and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    code, _ = run(case.command(folder / "out"), folder, kill_s=chance.uniform(0.05, 1.0) * case.usual_s)
    counts["killed" if code == -signal.SIGKILL else "ended before"] += 1
    if remains := left(folder):
        counts["left"] += 1
        print(f"{case.name}: not listed by doctor: {remains}", flush=True)
    if (folder / "out" / "bundle.json").is_file() and content(folder / "out").keys() != case.files.keys():
        counts["half-written"] += 1
    for _ in range(1 if code else 0):
        code, err = run(case.command(folder / "out"), folder)
        if code:
            counts["not taken up"] += 1
            print(f"{case.name}: {err[-600:]}", flush=True)
            return
    run([*MAIN, "doctor", "--clean"], folder)
    names = ["out", "cache", "tmp"]
    rest = [path.name for path in folder.iterdir() if path.name not in names]
    if rest or content(folder / "out") != case.files:
        got = content(folder / "out")
        counts["different"] += 1
        odd = [name for name in got.keys() | case.files.keys() if got.get(name) != case.files.get(name)]
        print(f"{case.name}: {rest} {sorted(odd)[:8]}", flush=True)
    else:
        counts["equal"] += 1


def refuse_once(case: Case, folder: Path, counts: Counter[str], *, limit: int | None) -> None:
    """Run a command on a full disk or into a read-only directory: a sentence and exit code 2."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "closed").mkdir(parents=True)
    target = folder / "out"
    if limit is None:
        target = Path("/proc/out")  # refuses directories, also to root
    code, err = run(case.command(target), folder, limit=limit)
    kind = "read-only" if limit is None else "disk full"
    good = code == 2 and "Traceback" not in err and "error: " in err
    counts[f"{kind}: a sentence" if good else f"{kind}: wrong"] += 1
    if not good:
        print(f"{case.name}, {kind}, exit code {code}: {err[-600:]}", flush=True)


def serve_once(folder: Path, chance: random.Random, counts: Counter[str]) -> None:
    """Kill a server, and start it again on the same port."""
    command = [*MAIN, "serve", "--port", "0"]
    code, _ = run(command, folder, kill_s=chance.uniform(0.05, 1.0) * 12)
    counts["killed" if code == -signal.SIGKILL else "ended before"] += 1
    counts["left" if left(folder) else "equal"] += 1


def cases(folder: Path) -> list[Case]:
    """Return the commands, on models and data made in a folder."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    from conftest import save_random_model, tiny_config

    if not (folder / "checkpoint").is_dir():
        save_random_model(tiny_config, folder / "checkpoint")
    recipe = _training(folder)
    digits = folder / "digits"
    if not digits.is_dir():
        manifests = sorted((ROOT / "tests" / "audio").glob("*/manifest.jsonl"))
        script = [sys.executable, ROOT / "benchmarks" / "joined_recordings.py", digits]
        subprocess.run([*script, *manifests, "--count", "5", "--most", "4"], check=True)
    export = ["export", str(folder / "checkpoint"), "--precision", "fp32", "--force", "--out"]
    evaluate = ["eval", str(digits / "manifest.jsonl"), "--lang", "en-en", "--k", "3,6", "--policy", "wait-k", "--out"]
    return [
        Case("engines", lambda out: [sys.executable, "-c", ENGINES, str(out)]),
        Case("eval", lambda out: [*MAIN, *evaluate, str(out)]),
        Case("train", lambda out: [*MAIN, "train", str(recipe), "--data", str(folder / "corpus"), "--out", str(out)]),
        Case("export", lambda out: [*MAIN, *export, str(out)]),
    ]


def _training(folder: Path) -> Path:
    """Write the tests' recipe and corpus."""
    spec = importlib.util.spec_from_file_location("training_tests", ROOT / "tests" / "training" / "conftest.py")
    if spec is None or spec.loader is None:
        raise RuntimeError("tests/training/conftest.py is missing")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (folder / "corpus").is_dir():

        class Factory:
            def mktemp(self, _name: str) -> Path:
                (folder / "corpus").mkdir()
                return folder / "corpus"

        module.corpus.__wrapped__(Factory())
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(module.RECIPE), encoding="utf-8")
    return path


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=["engines", "eval", "train", "export", "serve"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder, chance = arguments.folder.resolve(), random.Random(arguments.seed)  # noqa: S311 - moments to kill at
    folder.mkdir(parents=True, exist_ok=True)
    table: dict[str, Counter[str]] = {}
    for case in cases(folder):
        if case.name not in arguments.only:
            continue
        counts = table[case.name] = Counter()
        whole = folder / f"whole-{case.name}"
        shutil.rmtree(whole, ignore_errors=True)
        started_s = time.monotonic()
        code, err = run(case.command(whole / "out"), whole)
        if code:
            raise RuntimeError(f"{case.name}: {err[-1000:]}")
        case.usual_s, case.files = time.monotonic() - started_s, content(whole / "out")
        for _ in range(arguments.kills):
            kill_once(case, folder / "killed", chance, counts)
        if case.name != "engines":  # a script, not a command
            refuse_once(case, folder / "killed", counts, limit=1000)
            refuse_once(case, folder / "killed", counts, limit=None)
        print(case.name, dict(counts), flush=True)
    if "serve" in arguments.only:
        counts = table["serve"] = Counter()
        for _ in range(arguments.kills):
            serve_once(folder / "served", chance, counts)
    print(json.dumps(table, indent=1))
    bad = ("left", "half-written", "not taken up", "different", "disk full: wrong", "read-only: wrong")
    return int(any(counts[name] for counts in table.values() for name in bad))


if __name__ == "__main__":
    sys.exit(main())
