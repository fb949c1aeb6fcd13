"""Bundles of the Hub: `pull`, `push` and `--bundle hf:...` by the real huggingface_hub, against a local server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import READER, TOKEN, HubServer

from bestow_edge.core.bundle import MANIFEST_FILE, list_files
from bestow_edge.runtime import embedded_bundle

NAME = "me/small"
IGNORED = ("warning: ", "Error while downloading", "peer closed", "Trying to resume", "Max retries")
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle whose files are a few bytes each: complete, but nothing to run."""
    bundle = tmp_path / "small"
    bundle.mkdir()
    document = json.loads((embedded_bundle("demo") / MANIFEST_FILE).read_text(encoding="utf-8"))
    for entry in document["files"]:
        content = f"content of {entry['path']}\n".encode() * 1000
        (bundle / entry["path"]).write_bytes(content)
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    (bundle / MANIFEST_FILE).write_text(json.dumps(document), encoding="utf-8")
    return bundle


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the embedded bundle without Python's own files."""
    return shutil.copytree(embedded_bundle("demo"), tmp_path / "demo", ignore=shutil.ignore_patterns("__*"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    path = bundle / MANIFEST_FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def failed(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that a command ended with one sentence on stderr and nothing on stdout."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(IGNORED)]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@pytest.mark.slow
def test_pull_into_the_cache_and_again_without_network(cli: Cli, hub: HubServer, small: Path) -> None:
    commit = hub.publish(NAME, small)
    done = cli("pull", NAME, "--json", before="import os; del os.environ['HF_HUB_DISABLE_PROGRESS_BARS']")
    assert done.returncode == 0, done.stderr
    assert "Fetching 6 files: 100%" in done.stderr
    record = json.loads(done.stdout)
    assert (record["commit"], record["bundle"]) == (commit, f"hf:{NAME}@{commit}")
    assert contents(Path(record["directory"])) == contents(small)
    assert record["bytes"] == sum(entry.size for entry in list_files(small))
    hub.requests.clear()
    again = cli("pull", NAME, "--json", before="import os; os.environ['HF_HUB_OFFLINE'] = '1'")
    assert (again.returncode, json.loads(again.stdout)) == (0, record)
    assert hub.requests == []
    hub.shutdown()
    hub.server_close()
    away = cli("pull", NAME, "--json")
    assert (away.returncode, json.loads(away.stdout)) == (0, record)
    assert f"warning: hf:{NAME}: the Hub cannot be reached" in away.stderr
    pinned = cli("pull", NAME, "--revision", commit)
    assert (pinned.returncode, pinned.stderr) == (0, "")
    failed(cli("pull", NAME, "--revision", "v2"), "not in the Hub's cache; the Hub cannot be reached")
    failed(cli("pull", "me/other", before="import os; os.environ['HF_HUB_OFFLINE'] = '1'"), "switched off")


def test_pull_into_a_directory(cli: Cli, hub: HubServer, small: Path, tmp_path: Path) -> None:
    (small / "README.md").write_text("# A card\n", encoding="utf-8")
    (small / "other.bin").write_bytes(b"not of the bundle")
    (small / "setup.py").write_text("raise SystemExit", encoding="utf-8")
    commit = hub.publish(NAME, small)
    done = cli("pull", NAME, "--out", "mine")
    assert done.returncode == 0, done.stderr
    assert f"this commit by name: --bundle hf:{NAME}@{commit}" in done.stdout
    expected = {name: data for name, data in contents(small).items() if name not in {"other.bin", "setup.py"}}
    assert contents(tmp_path / "mine") == expected
    assert not any(path.is_symlink() for path in (tmp_path / "mine").rglob("*"))
    hub.requests.clear()
    failed(cli("pull", NAME, "--out", "mine"), "exists; choose another path", "--force")
    assert hub.requests == []
    (tmp_path / "mine" / "stale").touch()
    assert cli("pull", NAME, "--out", "mine", "--force").returncode == 0
    assert contents(tmp_path / "mine") == expected


def test_a_revision_is_pinned(cli: Cli, hub: HubServer, small: Path) -> None:
    first = hub.publish(NAME, small)
    other = hub.publish(NAME, small, branch="int8")
    edit(small, lambda document: document["tools"].update(bestow_edge="2.0"))
    second = hub.publish(NAME, small)
    for revision, commit in ((None, second), ("main", second), (first, first), ("int8", other)):
        asked = [] if revision is None else ["--revision", revision]
        record = json.loads(cli("pull", NAME, *asked, "--json").stdout)
        assert (record["commit"], Path(record["directory"]).name) == (commit, commit)
        new = json.loads((Path(record["directory"]) / MANIFEST_FILE).read_text(encoding="utf-8"))
        assert (new["tools"].get("bestow_edge") == "2.0") == (commit == second)
    third = hub.publish(NAME, small)
    assert json.loads(cli("pull", NAME, "--json").stdout)["commit"] == third
    failed(cli("pull", NAME, "--revision", "gone"), f"hf:{NAME}@gone: the Hub's repository has no revision gone")


@pytest.mark.slow
def test_a_download_that_broke_keeps_what_is_complete(cli: Cli, hub: HubServer, small: Path, tmp_path: Path) -> None:
    hub.publish(NAME, small)
    hub.cut["llm_step.onnx"] = 5000
    failed(cli("pull", NAME, "--out", "mine"), f"hf:{NAME}: the Hub cannot be reached (")
    assert not (tmp_path / "mine").exists()
    hub.cut.clear()
    hub.requests.clear()
    done = cli("pull", NAME, "--out", "mine")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "mine") == contents(small)
    assert [line.rpartition("/")[2] for line in hub.requests if line.startswith("GET /me")] == ["llm_step.onnx"]


def tampered(files: dict[str, bytes]) -> None:
    files["llm_step.onnx"] = files["llm_step.onnx"].replace(b"content", b"c0ntent")


def truncated(files: dict[str, bytes]) -> None:
    files["tokenizer.json"] = files["tokenizer.json"][:-1]


def missing(files: dict[str, bytes]) -> None:
    del files["adapter_step.onnx"]


def no_manifest(files: dict[str, bytes]) -> None:
    files["README.md"] = files.pop(MANIFEST_FILE)


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    def damage(files: dict[str, bytes]) -> None:
        document = json.loads(files[MANIFEST_FILE])
        change(document)
        files[MANIFEST_FILE] = json.dumps(document).encode()

    return damage


WRONG: list[tuple[Callable[[dict[str, bytes]], None], str]] = [
    (tampered, "llm_step.onnx: SHA-256 differs from the manifest"),
    (truncated, "the manifest says"),
    (missing, "adapter_step.onnx: the file is missing"),
    (no_manifest, "the repository is not a bundle: it has no bundle.json"),
    (manifest(lambda document: document.update(format_version=99)), "format bestow-edge-bundle 99, expected"),
    (manifest(lambda document: document["files"][0].update(path="../x")), "'../x' leaves the bundle"),
    (manifest(lambda document: document["files"][0].update(path="/etc/hostname")), "'/etc/hostname' leaves the bundle"),
    (manifest(lambda document: document.clear()), "format None None"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG, ids=[message[-30:] for _, message in WRONG])
def test_repositories_that_are_refused(
    cli: Cli, hub: HubServer, small: Path, tmp_path: Path, damage: Callable[[dict[str, bytes]], None], message: str
) -> None:
    commit = hub.publish(NAME, small)
    damage(hub.repositories[NAME].commits[commit])
    before = {path.name for path in tmp_path.iterdir()} | {"hub-home"}
    failed(cli("pull", NAME, "--out", "mine"), f"hf:{NAME}: ", message)
    assert {path.name for path in tmp_path.iterdir()} == before
    failed(cli("inspect", f"hf:{NAME}"), message)


def test_a_file_that_leaves_the_cache_is_refused(cli: Cli, hub: HubServer, small: Path, tmp_path: Path) -> None:
    hub.publish(NAME, small)
    directory = Path(json.loads(cli("pull", NAME, "--json").stdout)["directory"])
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.json").symlink_to(small / "tokenizer.json")
    failed(cli("pull", NAME, "--out", "mine"), "tokenizer.json: a link that leaves", "hub-home")
    assert not (tmp_path / "mine").exists()


def test_a_damaged_cache_is_found_and_remedied(cli: Cli, hub: HubServer, small: Path) -> None:
    hub.publish(NAME, small)
    directory = Path(json.loads(cli("pull", NAME, "--json").stdout)["directory"])
    blob = (directory / "golden.npz").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"c", b"k"))
    failed(cli("pull", NAME), "golden.npz: SHA-256 differs", f"hf cache rm model/{NAME}")
    shutil.rmtree(directory.parents[1])  # what that command does
    assert cli("pull", NAME).returncode == 0


def test_what_the_hub_refuses(cli: Cli, hub: HubServer, small: Path) -> None:
    failed(cli("pull", "me/gone"), "hf:me/gone: the Hub has no such model, or none for you: hf auth login")
    failed(cli("pull", "not/an/id"), "hf:not/an/id: not an id of the Hub; an id looks like OWNER/NAME")
    failed(cli("verify", "hf:"), "not an id of the Hub")
    hub.publish(NAME, small)
    hub.repositories[NAME].private = True
    failed(cli("pull", NAME), "none for you: hf auth login")
    assert cli("pull", NAME, before=f"import os; os.environ['HF_TOKEN'] = '{READER}'").returncode == 0
    failed(cli("pull", NAME), "none for you: hf auth login")  # although it is in the cache now
    hub.failing = 503
    done = cli("pull", NAME)
    assert done.returncode == 0
    assert "the Hub cannot be reached (Server error '503" in done.stderr


def test_push_and_pull(cli: Cli, hub: HubServer, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(cli("push", small, NAME), f"hf:{NAME}: no token of the Hub; run hf auth login, or set HF_TOKEN")
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (small / "secrets.env").write_text("KEY=1", encoding="utf-8")
    before = contents(small)
    done = cli("push", small, NAME, "--license", "apache-2.0", "--message", "First")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories[NAME]
    (initial, commit) = repository.commits
    assert done.stdout == f"{hub.url}/{NAME}\nthis commit by name: --bundle hf:{NAME}@{commit}\n"
    assert (repository.messages[commit], repository.private) == ("First", False)
    assert contents(small) == before
    stored = dict(repository.commits[commit])
    card = stored.pop("README.md").decode()
    assert stored.pop(".gitattributes") == repository.commits[initial][".gitattributes"]
    del before["secrets.env"]
    assert stored == before
    assert {hashlib.sha256(stored["llm_step.onnx"]).hexdigest()} <= set(hub.large)
    head, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert {"library_name: bestow-edge", "license: apache-2.0", "- de", "- en"} <= set(head.splitlines())
    assert f"# Model card: {NAME}\n" in text
    assert f"--bundle hf:{NAME}\n" in text
    assert cli("pull", NAME, "--out", "mine").returncode == 0
    assert contents(tmp_path / "mine") == {**before, "README.md": card.encode()}


def test_push_again_to_a_branch_with_a_card(cli: Cli, hub: HubServer, small: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert cli("push", small, NAME, "--private").returncode == 0
    repository = hub.repositories[NAME]
    assert repository.private
    main = repository.branches["main"]
    record = json.loads(cli("push", small, NAME, "--json").stdout)
    assert (record["commit"], repository.branches["main"]) == (main, main)  # nothing had changed
    (small / "README.md").write_text("# My own\n", encoding="utf-8")
    failed(cli("push", small, NAME, "--license", "mit"), "README.md: the bundle has its own card")
    record = json.loads((done := cli("push", small, NAME, "--revision", "int8", "--json")).stdout)
    assert "warning: Warnings while validating metadata in README.md: - empty or missing yaml" in done.stderr
    assert repository.branches == {"main": main, "int8": record["commit"]}
    assert repository.commits[record["commit"]]["README.md"] == b"# My own\n"
    assert record == {
        "bundle": f"hf:{NAME}@{record['commit']}", "commit": record["commit"], "url": f"{hub.url}/{NAME}"
    }  # fmt: skip
    assert cli("push", small, "me/other").returncode == 0
    other = hub.repositories["me/other"]
    assert other.commits[other.branches["main"]]["README.md"] == b"# My own\n"
    repository.private = False
    failed(cli("push", small, NAME, "--private"), "exists and is public; make it private in its settings first")
    assert repository.branches["main"] == main


@pytest.mark.slow
def test_pushes_that_are_refused(cli: Cli, hub: HubServer, small: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    failed(cli("push", tmp_path / "gone", NAME), "not a bundle, bundle.json is missing")
    copy = shutil.copytree(small, tmp_path / "copy")
    (copy / "llm_step.onnx").write_bytes((small / "llm_step.onnx").read_bytes().replace(b"content", b"c0ntent"))
    failed(cli("push", copy, NAME), "llm_step.onnx: SHA-256 differs")
    (copy / "llm_step.onnx").unlink()
    (copy / "llm_step.onnx").symlink_to(small / "llm_step.onnx")
    failed(cli("push", copy, NAME), "llm_step.onnx: a link that leaves")
    failed(cli("push", small, "a/b/c"), "an id looks like OWNER/NAME")
    failed(cli("push", small, NAME, before="import os; os.environ['HF_HUB_OFFLINE'] = '1'"), "HF_HUB_OFFLINE forbids")
    assert hub.repositories == {}
    failed(cli("push", small, NAME, "--license", "nonsense"), '"license" must be one of [apache-2.0, mit]')
    assert list(hub.repositories[NAME].messages.values()) == ["initial commit"]
    monkeypatch.setenv("HF_TOKEN", READER)
    failed(cli("push", small, "me/other"), "hf:me/other: the Hub refuses the token", "no right to write")


@pytest.mark.slow
def test_commands_take_a_bundle_of_the_hub(cli: Cli, hub: HubServer, demo: Path, wav: Path, tmp_path: Path) -> None:
    commit = hub.publish("me/demo", demo)
    name = f"hf:me/demo@{commit}"
    done = cli("run", wav, "--bundle", "hf:me/demo", "--lang", "en-en", "--json")
    assert done.returncode == 0, done.stderr
    assert f"hf:me/demo: commit {commit}" in done.stderr
    here = cli("run", wav, "--bundle", demo, "--lang", "en-en", "--json")
    assert json.loads(done.stdout)["text"] == json.loads(here.stdout)["text"]
    hub.shutdown()
    hub.server_close()
    verified = cli("verify", name, "--json")
    assert json.loads(verified.stdout) | {"graphs": []} == {"bundle": name, "passed": True, "graphs": []}
    assert json.loads(cli("inspect", name, "--json").stdout)["kind"] == "bundle"
    assert cli("report", name).stdout.startswith(f"# Model card: demo@{commit}\n")
    assert commit in cli("bench", name, "--seconds", "1").stdout
    gpu = json.loads(cli("doctor", "--gpu", "--bundle", name, "--json").stdout)
    assert commit in gpu["bundle"]
    samples = tmp_path / "samples.jsonl"
    line = {"audio_filepath": str(wav), "duration": 3.0, "source_lang": "en", "target_lang": "en", "text": "one"}
    samples.write_text(json.dumps(line) + "\n", encoding="utf-8")
    evaluated = cli("eval", samples, "--lang", "en-en", "--bundle", name, "--out", tmp_path / "scores")
    assert evaluated.returncode == 0, evaluated.stderr
    built = cli("engines", "build", name)  # of another target, or without TensorRT
    assert built.returncode == 2
    assert "bundle.json is missing" not in built.stderr


def test_load_in_python(hub: HubServer, demo: Path, small: Path, tmp_path: Path) -> None:
    commit = hub.publish("me/demo", demo)
    hub.publish("me/demo", small)
    script = f"""
import sys
import bestow_edge as be
import bestow_edge.runtime
assert "huggingface_hub" not in sys.modules
be.load()
assert "huggingface_hub" not in sys.modules
model = be.load("hf:me/demo@{commit}")
assert model.directory.name == "{commit}", model.directory
with model.session(source="en", target="de") as session:
    session.finish()
for name in ("hf:me/gone", "hf:me/demo@v9"):
    try:
        be.load(name)
    except be.BestowEdgeError as error:
        print(type(error).__name__, error)
"""
    assert python(script, tmp_path).splitlines() == [
        "HubError hf:me/gone: the Hub has no such model, or none for you: hf auth login",
        "HubError hf:me/demo@v9: the Hub's repository has no revision v9",
    ]


def test_without_the_library(cli: Cli, tmp_path: Path, small: Path) -> None:
    blocked = "import sys\nsys.modules['huggingface_hub'] = None"
    message = "huggingface_hub is not installed; run: pip install 'bestow-edge[hub]'"
    for command in (("pull", NAME), ("push", small, NAME), ("verify", f"hf:{NAME}")):
        failed(cli(*command, before=blocked), message)
    assert "en-en" in python(f"{blocked}\nimport bestow_edge as be\nprint(be.load().config.pairs)", tmp_path)


def python(script: str, folder: Path) -> str:
    """Run a script in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
