"""Run every folder of a directory of inputs that failed once, and print what comes today beside what is right.

A folder holds a README, which begins with the command or describes it, and a `repro.py` or `repro.sh` if the command is
a script. `python benchmarks/cases.py DIRECTORY [NAME ...]`. Exit code 1: a case fails.
The folders are copied first. Their bundles and checkpoints of an older format are replaced by the tests' own tiny ones,
and names of modules and fields that have moved since are changed in the scripts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "build" / "cases"  # bundle and checkpoint of today's formats, made once
TIMEOUT_S = 240
SCRATCH = Path("/dev/shm/case")  # noqa: S108 - where the scripts of the folders write
MOVED = {
    "from bestow_edge.files": "from bestow_edge.core.files",
    "from bestow_edge.config import AdapterConfig": (
        "from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig as AdapterConfig"
    ),
    "InitRequest(encoder=str(encoder), llm=str(llm), adapter=sizes)": (
        "InitRequest(encoder=str(encoder), llm=str(llm), connector=sizes)"
    ),
    "from bestow_edge.config": "from bestow_edge.core.config",
    "from bestow_edge.errors": "from bestow_edge.core.errors",
    "bestow_edge.runtime.tokenizer": "bestow_edge.runtime.stream.text",
    "from bestow_edge.runtime.audio import": "from bestow_edge.runtime.audio.files import",
    "bestow_edge.export.llm": "bestow_edge.export.graphs.llm",
    "bestow_edge.evaluation.quality": "bestow_edge.evaluation.scores.quality",
    '["model"]["adapter"]': '["model"]["connector"]',
    'd["model"][part][key]': 'd["model"][part].get("network", d["model"][part])[key]',
    '("llm.",))': '("llm.",), tmp)',
    '"/tests")': '"/tests/support")',
}
WRONG = ("Traceback (most recent call last)", "WRONG", "still running", "Killed", "MemoryError", "terminate called")
"""Words of an output that is never right."""
RIGHT = {
    "antiphase_stereo": r"cancel|nine one five seven zero",
    "byte_fallback_crash": r"(?s)a.*🙂.*b'.*b'.*the'.*the'",
    "checkpoint_config": r"(?s)rc 2.*rc 2",
    "config_field_types": r"(?s)(rc 2.*){7}",
    "exit_with_live_running": r"^(0 [^\n]*\n){3}",
    "feed_a_list": r"AudioError",
    "flac_huge_length": r"rc 2",
    "golden_npz": r"(?s)(rc 2.*){3}",
    "huge_layer_count": r"rc 2",
    "int16_scale": r"AudioError|full scale|nine one five",
    "json_depth_and_digits": r"(?s)(not valid JSON.*rc 2.*){2}",
    "leftovers_after_kill": r"\['[^,]*'\]|\[\]",
    "live_session_dropped": r"(?m)^[12] threads",
    "long_file_memory": r"peak of the process [1-3]?\d\d MB",
    "low_rate_bomb": r"AudioError",
    "mla_refusal": r"ok, refused",
    "nan_passes_verify": r"(?s)FAILED.*exit 1",
    "nemo_damage": r"(?s)((CheckpointError|ConfigError).*){4}",
    "nfd_reference": r"NFC|normal form",
    "non_utf8_name": r"exit (0|2)",
    "one_hz_header": r"(?s)error: .*exit 2",
    "onnx_fails_at_run": r"rc 2",
    "pipe_input": r"(nine one five seven zero|neun)[^$]*exit 0|error[^$]*exit 2",
    "prompt_ids_and_limits": r"(?s)(rc 2.*){3}",
    "recipe_yaml": r"(?s)(rc 2.*){3}",
    "replace_loses_the_old": r"'b/old'|is in",
    "rich_markup": r"(?s)rc 2.*ok.*rc 0",
    "rouge_umlaut": r"0.0 1.0 0.0",
    "shards_and_scores": r"(?s)(rc 2.*){3}",
    "tied_config_own_head": r"ok$|Error",
    "trace_json": r"(?s)(rc 2.*){2}",
    "zero_samples_json": r'"text": ""[^$]*exit 0|holds no[^$]*exit 2',
}
"""What the output of a known case must hold."""


def main(arguments: list[str]) -> int:
    """Print a row for each case and return the exit code."""
    source, names = Path(arguments[0]), arguments[1:]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="cases-") as temporary:
        directory = Path(temporary) / "cases"
        shutil.copytree(source, directory)
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        renew(directory)
        for case in sorted(path for path in directory.iterdir() if (path / "README").is_file()):
            if names and case.name not in names:
                continue
            begin = time.monotonic()
            output = run_case(case)
            good = is_right(case.name, output)
            failed += not good
            right = re.search(r"(?i)^expected: *(.*)", (case / "README").read_text(), re.MULTILINE)
            got = " | ".join(output.split("\n"))
            print(f"{'ok  ' if good else 'FAIL'} {case.name} ({time.monotonic() - begin:.0f} s)")
            print(f"     got:   {got if len(got) < 700 else '... ' + got[-700:]}")
            print(f"     right: {right[1] if right else 'see README'}", flush=True)
    print(f"{failed} cases fail")
    return 1 if failed else 0


def renew(directory: Path) -> None:
    """Replace the bundle and the checkpoint of an older format."""
    from bestow_edge.core import bundle, checkpoint

    files = {"_tiny_bundle": ("bundle.json", bundle), "_tiny_checkpoint": ("config.json", checkpoint)}
    old = []
    for name, (file, module) in files.items():
        path = directory / name / file
        if path.is_file() and json.loads(path.read_text())["format_version"] != module.FORMAT_VERSION:
            old.append(name)
    if not old:
        return
    kept = MADE / f"{checkpoint.FORMAT_VERSION}-{bundle.FORMAT_VERSION}"
    if not (kept / "_tiny_bundle").is_dir():
        # In a process of its own: Linux counts the memory of this one as a peak of those it starts.
        process = multiprocessing.get_context("spawn").Process(target=make_tiny, args=(kept,))
        process.start()
        process.join()
    for name in old:
        shutil.rmtree(directory / name)
        shutil.copytree(kept / name, directory / name)


def make_tiny(directory: Path) -> None:
    """Make the tests' tiny checkpoint and bundle in a directory."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    from conftest import save_random_model, tiny_config

    from bestow_edge.export.pipeline import export_bundle

    checkpoint = directory / "_tiny_checkpoint"
    save_random_model(tiny_config, checkpoint)
    export_bundle(checkpoint, directory / "_tiny_bundle", precision="fp32", force=True, progress=lambda _: None)


def run_case(case: Path) -> str:
    """Return the output of a case, with the exit code of its command behind it."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir()
    for script in (*case.glob("repro.*"), case / "README"):
        text = script.read_text()
        for before, after in MOVED.items():
            text = text.replace(before, after)
        script.write_text(text)
    command = re.search(r"(?im)^run: *(.*?)(\s{2,}\(.*)?$", (case / "README").read_text())
    words = command[1].split("   ")[0] if command else ""
    words = words.replace("./repro.sh", "bash repro.sh").replace("python -c", f"{sys.executable} -c")
    if (case / "repro.py").is_file():
        words = f"{sys.executable} repro.py"
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PROJECT": str(ROOT), "PYTHONPATH": str(ROOT), "PATH": path, "LC_ALL": "C.UTF-8"}
    limits = "ulimit -v 24000000; "
    process = subprocess.Popen(
        ["/bin/bash", "-c", limits + words],
        cwd=case,
        env=environment,
        text=True,
        errors="backslashreplace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return process.communicate()[0] + f"still running after {TIMEOUT_S} s"
    if "repro.py" in words and process.returncode == 0 and (case / "repro.py").is_file():
        return output  # the script prints exit codes of its own
    return output + f"exit {process.returncode}"


def is_right(name: str, output: str) -> bool:
    """Return whether an output is right: typed errors alone, and what a known case must print."""
    allowed = name in {"feed_a_list", "int16_scale", "low_rate_bomb"}  # their scripts let the typed error through
    if any(word in output for word in WRONG if not (allowed and word == WRONG[0])):
        return False
    return name not in RIGHT or re.search(RIGHT[name], output) is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
