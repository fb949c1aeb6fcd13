"""Readers of what commands keep for the next one; each damages what is stored and reads it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from fuzz.mutation import changed_bytes, changed_tree


def damage(random: Random, path: Path) -> None:
    """Change a file; JSON keeps its structure mostly."""
    content = path.read_bytes()
    if path.suffix in {".json", ".log", ".jsonl"} and random.random() < 0.8:
        tree = [json.loads(line) for line in content.splitlines()] if path.suffix != ".json" else json.loads(content)
        changed = changed_tree(random, tree)
        lines = changed if path.suffix != ".json" and isinstance(changed, list) else [changed]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    else:
        path.write_bytes(changed_bytes(random, content))


def engines(random: Random, folder: Path) -> None:
    """The store of TensorRT engines: a damaged engine is built again."""
    from bestow_edge.runtime.devices.tensorrt.engine_store import EngineKey, EngineStore, Machine

    machine = Machine(gpu="g", driver="1", tensorrt="10")
    key = EngineKey(graph="llm", onnx_sha256="ab", precision="fp16", profiles="cd", options="", machine=machine)
    store = EngineStore(folder)
    store.save(key, b"plan", source=folder / "llm.onnx", built_s=1.0)
    damage(random, random.choice(sorted(folder.iterdir())))
    store.has(key)
    list(store.engines())
    assert store.load(key) in {None, b"plan"}
    store.prune(lambda _record: True)


def hashes(random: Random, folder: Path) -> None:
    """The memory of hashes: damaged, it knows nothing."""
    from bestow_edge.core.hash_memory import HashMemory

    path, file = folder / "hashes.json", folder / "a"
    file.write_bytes(b"a")
    memory = HashMemory(path)
    memory.add(file, file.stat(), "ab" * 32)
    memory.save()
    damage(random, path)
    memory = HashMemory(path)
    memory.knows(file, file.stat(), "ab" * 32)
    memory.add(file, file.stat(), "cd" * 32)
    memory.save()


def indexes(random: Random, folder: Path) -> None:
    """The cache of a corpus: a damaged index is made again."""
    from bestow_edge.training.data.corpora.filters import Report
    from bestow_edge.training.data.corpora.index_cache import cached

    manifest = folder / "m.jsonl"
    manifest.write_text("{}\n", encoding="utf-8")

    def read() -> None:
        made, report = cached(folder / "cache", ["a"], [manifest], Report("s"), lambda _: np.arange(7))
        assert made.tolist() == list(range(7))
        assert report.name == "s"

    read()
    (stored,) = (folder / "cache").glob("*.npz")
    damage(random, stored)
    read()


def evaluations(random: Random, folder: Path) -> None:
    """The directory of an evaluation that goes on."""
    from bestow_edge.evaluation.run.directory import Store
    from bestow_edge.evaluation.run.settings import Setting
    from bestow_edge.evaluation.scores.instances import Instance

    setting = Setting("wait-k", {"k": 3}, 1)
    evaluated = {"bundle": "ab", "lang": "en-en"}
    store = Store(folder / "e", evaluated)
    for index in range(2):
        instance = Instance(index=index, prediction="a b", reference="a c", delays=(1.0, 2.0), source_length=3.0)
        store.add(setting, instance)
    damage(random, random.choice([path for path in sorted((folder / "e").rglob("*")) if path.is_file()]))
    store = Store(folder / "e", evaluated)
    if len(store.finished(setting, 2)) == 2:
        store.complete(setting, 2)


def training(random: Random, folder: Path) -> None:
    """What a run of training keeps: its log and the times of words."""
    from bestow_edge.training.data.alignment import read_times
    from bestow_edge.training.learning.log import drop_records

    log, times = folder / "log.jsonl", folder / "times.jsonl"
    log.write_text("".join(f'{{"stage": "a", "step": {step}, "loss": 1.5}}\n' for step in range(4)), encoding="utf-8")
    times.write_text('{"where": "m.jsonl:1", "word_times": [[0.1, 0.5], [0.6, 0.9]]}\n', encoding="utf-8")
    damage(random, random.choice((log, times)))
    drop_records(log, "a", after=1)
    read_times([times])


STORES: tuple[Callable[[Random, Path], None], ...] = (engines, hashes, indexes, evaluations, training)
