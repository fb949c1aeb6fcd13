"""Kill commands at random moments, fill their disk, take their rights, turn their clock, and look at what is left.

    python benchmarks/faults.py FOLDER [--kills 40] [--only export ...] [--seed 0]

For each of export, train, eval, engines and serve, on tiny models: kill -9 after a random share of the usual time;
then only what `bestow-edge doctor` lists, and what the same command takes up again, may be left; the command is run
again to its end, whose files must equal those of an unbroken run, and nothing else may be left. Then a disk that is
full (RLIMIT_FSIZE) and a directory that is read-only: one sentence, exit code 2; and a clock that jumps. Needs the
extras `cpu`, `export`, `train`, `eval` and `server`, and Linux. Prints a table of counts. Exit code 1: something was
lost or left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import importlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from forked import cli, run

ROOT = Path(__file__).resolve().parents[1]
SERVED_S = 4
VARYING = {
    "training_args.bin", "log.jsonl", "log.json", "settings.json", "bundle.json", "results.json", "report.html",
    "curve.png", "curve.svg",
}  # fmt: skip
"""Files with times or versions in them; that they are there is compared, not what they hold."""
IMPORTED = (
    "bestow_edge.export.pipeline", "bestow_edge.training.learning.trainer", "bestow_edge.training.learning.run",
    "bestow_edge.evaluation.run.runner", "bestow_edge.server.serving", "bestow_edge.runtime.model", "onnxscript",
    "matplotlib.figure", "bestow_edge.runtime.audio.resampling",
)  # fmt: skip
"""Modules that this process imports once, so that most kills meet the work of a command."""
OTHERS = ("torchinductor", "pymp")
"""Directories of torch and of Python's multiprocessing among the temporary files."""
SCORED = ("index", "prediction", "reference", "delays")
"""What is compared of a line of an evaluation; the others are computing times."""


@dataclass
class Case:
    """A command that makes a directory."""

    name: str
    command: Callable[[Path], Callable[[], object]]
    """Returns what makes an output."""
    usual_s: float = 0.0
    files: dict[str, str] = field(default_factory=dict)
    """Hashes of an unbroken run's files, "" for those that differ from run to run."""


def content(directory: Path) -> dict[str, str]:
    """Return the hash of every file, "" for those that differ from run to run."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix != ".lock" and path.name != ".writer" and "tensorboard" not in path.parts:
            same = path.name not in VARYING and not (path.suffix == ".json" and path.with_suffix(".engine").is_file())
            name = path.relative_to(directory).as_posix()
            found[name] = _sha256(path) if same else ""
    return {name: value for name, value in found.items() if "events.out" not in name}


def _sha256(path: Path) -> str:
    data = path.read_bytes()
    if path.name in {"instances.log", "utterances.jsonl"}:
        lines = map(json.loads, data.splitlines())
        data = json.dumps([{name: line.get(name) for name in SCORED} for line in lines]).encode()
    return hashlib.sha256(data).hexdigest()


def left(folder: Path) -> list[str]:
    """Return what is in a folder beside the output and what doctor lists."""
    from bestow_edge.cli.doctor import all_leftovers

    before = os.environ.get("XDG_CACHE_HOME", "")
    os.environ["XDG_CACHE_HOME"], tempfile.tempdir = str(folder / "cache"), str(folder / "tmp")
    with contextlib.chdir(folder):
        listed = set(all_leftovers())
    os.environ["XDG_CACHE_HOME"], tempfile.tempdir = before, None
    expected = {folder / name for name in ("out", "cache", "tmp")}
    found = {*folder.iterdir(), *(folder / "tmp").iterdir(), *(folder / "cache").rglob(".*")} - listed - expected
    return sorted(str(path.relative_to(folder)) for path in found if not path.name.startswith(OTHERS))


def clean(folder: Path) -> None:
    """Remove what killed commands left, as a user does."""
    code, err = run(cli("doctor", "--clean"), folder)
    if code:
        raise RuntimeError(f"doctor --clean: {err[-600:]}")


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
    clean(folder)
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
    folder.mkdir(parents=True)
    target = folder / "out"
    if limit is None:
        target = Path("/proc/out")  # refuses directories, also to root
    code, err = run(case.command(target), folder, limit=limit)
    kind = "read-only" if limit is None else "disk full"
    good = code == 2 and "Traceback" not in err and "error: " in err
    counts[f"{kind}: a sentence" if good else f"{kind}: wrong"] += 1
    if not good:
        print(f"{case.name}, {kind}, exit code {code}: {err[-600:]}", flush=True)


def jump_once(case: Case, folder: Path, chance: random.Random, counts: Counter[str]) -> None:
    """Run a command while the clock jumps by up to a day, back and forth; its output must be the usual one."""
    shutil.rmtree(folder, ignore_errors=True)
    command, real_s, offset_s = case.command(folder / "out"), time.time, [0.0]

    def time_s() -> float:
        if chance.random() < 0.1:
            offset_s[0] = chance.uniform(-86400, 86400)
        return real_s() + offset_s[0]

    def jumping() -> object:
        time.time = time_s
        return command()

    code, err = run(jumping, folder)
    same = code == 0 and content(folder / "out") == case.files
    counts["clock jumps: equal" if same else "clock jumps: wrong"] += 1
    if not same:
        print(f"{case.name}, clock jumps, exit code {code}: {err[-600:]}", flush=True)


def engines(directory: Path) -> None:
    """Keep large engines and read them, as runs with TensorRT do."""
    from bestow_edge.runtime.devices.tensorrt.engine_store import EngineKey, EngineStore, Machine

    store, machine = EngineStore(directory), Machine(gpu="g", driver="1", tensorrt="10")
    for number in range(40):
        key = EngineKey(graph=f"g{number}", onnx_sha256="a", precision="p", profiles="b", options="", machine=machine)
        plan = bytes([number]) * 4_000_000
        if store.load(key) is None:
            store.save(key, plan, source=Path("x"), built_s=0.0)
        if store.load(key) != plan:
            raise RuntimeError(f"engine {number} differs")


def serve_once(folder: Path, chance: random.Random, counts: Counter[str], recording: bytes) -> None:
    """Kill a server while a client sends a recording; start it again on the same port, hear it, and end the server."""
    shutil.rmtree(folder, ignore_errors=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = cli("serve", "--port", port)
    if not (client := os.fork()):
        _send(port, recording, forever=True)
    code, _ = run(server, folder, kill_s=chance.uniform(0.05, 1.0) * SERVED_S)
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    counts["killed" if code == -signal.SIGKILL else "ended before"] += 1
    if remains := left(folder):
        counts["left"] += 1
        print(f"serve: not listed by doctor: {remains}", flush=True)
    counts["with an upload in a file"] += any((folder / "tmp").glob(".upload*"))

    def again() -> object:
        if not os.fork():
            heard = _send(port, recording, forever=False)
            os.kill(os.getppid(), signal.SIGTERM)
            os._exit(not heard)
        return server()

    code, err = run(again, folder)
    if code != 0 or "Traceback" in err:
        counts["not taken up"] += 1
        print(f"serve: exit code {code}: {err[-600:]}", flush=True)
    clean(folder)
    rest = [path.name for path in (folder / "tmp").iterdir() if not path.name.startswith(OTHERS)]
    counts["different" if rest else "equal"] += 1
    if rest:
        print(f"serve: {rest}", flush=True)


def _send(port: int, recording: bytes, *, forever: bool) -> bool:
    """Upload a recording again and again, or until it is heard once; return whether it was within a minute."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + recording
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    end_s = time.monotonic() + 60
    while forever or time.monotonic() < end_s:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/audio/transcriptions", body + b"\r\n--x--\r\n", head)
            answer = connection.getresponse()
            answer.read()
            if not forever:
                return answer.status == 200
        connection.close()
        time.sleep(0.02)
    return False


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
    export = ("export", folder / "checkpoint", "--precision", "fp32", "--force", "--out")
    evaluate = ("eval", digits / "manifest.jsonl", "--lang", "en-en", "--k", "3,6", "--policy", "wait-k", "--out")
    train = ("train", recipe, "--data", folder / "corpus", "--out")
    return [
        Case("engines", lambda out: lambda: engines(out)),
        Case("eval", lambda out: cli(*evaluate, out)),
        Case("train", lambda out: cli(*train, out)),
        Case("export", lambda out: cli(*export, out)),
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
    for name in IMPORTED:
        importlib.import_module(name)
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
        jump_once(case, folder / "killed", chance, counts)
        print(case.name, dict(counts), flush=True)
    if "serve" in arguments.only:
        counts = table["serve"] = Counter()
        for _ in range(arguments.kills):
            serve_once(folder / "served", chance, counts, (folder / "digits" / "en_0000.wav").read_bytes())
    print(json.dumps(table, indent=1))
    bad = (
        "left",
        "half-written",
        "not taken up",
        "different",
        "disk full: wrong",
        "read-only: wrong",
        "clock jumps: wrong",
    )
    return int(any(counts[name] for counts in table.values() for name in bad))


if __name__ == "__main__":
    sys.exit(main())
