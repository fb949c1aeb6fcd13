"""The store of engines: what is found, what is not, what is deleted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bestow_edge.runtime.devices.tensorrt.engine_store import EngineKey, EngineStore, Machine, default_directory

MACHINE = Machine(gpu="RTX 4090, compute capability 8.9", driver="580.95.05, CUDA 13000", tensorrt="10.16.1.11")
KEY = EngineKey(graph="llm_step", onnx_sha256="ab", precision="fp16", profiles="cd", options="level=3", machine=MACHINE)
PLAN = b"an engine"


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    store = EngineStore(tmp_path / "engines")
    store.save(KEY, PLAN, source=tmp_path / "llm_step.onnx", built_s=12.34)
    return store


def test_an_engine_is_found_by_its_key(store: EngineStore) -> None:
    assert store.has(KEY)
    assert store.load(KEY) == PLAN
    (stored,) = store.engines()
    assert stored.record is not None
    assert stored.record.key == KEY
    assert stored.record.built_s == 12.3
    assert stored.record.built_at.endswith("Z")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, onnx_sha256="ac"),
        replace(KEY, precision="int4"),
        replace(KEY, profiles="ce"),
        replace(KEY, options="level=4"),
        replace(KEY, graph="adapter_step"),
        replace(KEY, machine=replace(MACHINE, gpu="RTX 4090, compute capability 9.0")),
        replace(KEY, machine=replace(MACHINE, driver="581.00, CUDA 13000")),
        replace(KEY, machine=replace(MACHINE, tensorrt="10.16.1.12")),
    ],
)
def test_one_for_anything_else_is_not(store: EngineStore, other: EngineKey) -> None:
    assert not store.has(other)
    assert store.load(other) is None
    assert store.load(KEY) == PLAN, "and the other one stays"


def test_a_foreign_engine_under_the_right_name_is_refused(store: EngineStore, tmp_path: Path) -> None:
    foreign = replace(KEY, machine=replace(MACHINE, gpu="Orin"))
    elsewhere = EngineStore(tmp_path / "elsewhere")
    elsewhere.save(foreign, b"foreign", source=tmp_path, built_s=0)
    for suffix in (".engine", ".json"):
        (elsewhere.directory / f"{foreign.name}{suffix}").replace(store.directory / f"{KEY.name}{suffix}")
    assert not store.has(KEY)
    assert store.load(KEY) is None
    assert not list(store.engines())


@pytest.mark.parametrize("damage", ["flipped", "truncated", "no engine", "no record", "bad record", "old record"])
def test_a_damaged_engine_counts_as_missing_and_is_deleted(
    store: EngineStore, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    engine = store.directory / f"{KEY.name}.engine"
    record = engine.with_suffix(".json")
    if damage == "flipped":
        engine.write_bytes(b"an engima")
    elif damage == "truncated":
        engine.write_bytes(PLAN[:4])
    elif damage == "no engine":
        engine.unlink()
    elif damage == "no record":
        record.unlink()
    elif damage == "bad record":
        record.write_text("{")
    else:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": 0}))
    assert store.load(KEY) is None
    assert "it is built again" in caplog.text
    assert not list(store.directory.iterdir())


def test_pruning_takes_what_is_not_wanted_and_what_is_damaged(store: EngineStore, tmp_path: Path) -> None:
    old = replace(KEY, machine=replace(MACHINE, tensorrt="10.3.0"))
    broken = replace(KEY, graph="adapter_step")
    for key in (old, broken):
        store.save(key, PLAN, source=tmp_path, built_s=1)
    (store.directory / f"{broken.name}.engine").write_bytes(b"")
    gone = store.prune(lambda record: record.key.machine == MACHINE)
    assert {stored.path.stem for stored in gone} == {old.name, broken.name}
    assert [stored.path.stem for stored in store.engines()] == [KEY.name]


def test_timing_caches_belong_to_a_machine(store: EngineStore) -> None:
    other = replace(MACHINE, tensorrt="11.4.0.106")
    assert store.kept(MACHINE.digest) == b""
    store.keep(MACHINE.digest, b"timings")
    assert store.kept(MACHINE.digest) == b"timings"
    assert store.kept(other.digest) == b""
    assert len(list(store.engines())) == 1, "a timing cache is no engine"


def test_an_empty_store() -> None:
    assert not list(EngineStore(Path("/nonexistent")).engines())


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "bestow-edge" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_directory() == tmp_path / "home" / ".cache" / "bestow-edge" / "engines"
