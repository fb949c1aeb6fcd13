"""Targets: each takes the seeds and returns a function that damages one of them and has it read as the product does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from fuzz.harness import Attempt
from fuzz.mutation import changed_bytes, changed_tree
from fuzz.seeds import RATE_HZ, ROOT, Seeds, recordings, sound


def bundle(seeds: Seeds) -> Attempt:
    """A manifest, graph, tokenizer or golden file of a bundle; the hashes fit, as those of somebody hostile do."""
    import onnx

    from bestow_edge.runtime import load
    from bestow_edge.runtime.records.golden import verify

    files = {path.name: path.read_bytes() for path in seeds.bundle.iterdir() if path.is_file()}
    manifest = json.loads(files.pop("bundle.json"))
    graphs = {name: onnx.load_from_string(content) for name, content in files.items() if name.endswith(".onnx")}
    tokenizer = json.loads(files["tokenizer.json"])

    def damaged(random: Random, name: str) -> bytes:
        if name == "tokenizer.json" and random.random() < 0.8:
            return json.dumps(changed_tree(random, tokenizer)).encode()
        if name in graphs and random.random() < 0.7:
            return changed_graph(random, graphs[name])
        if name.endswith(".npz") and random.random() < 0.7:
            return changed_zip(random, files[name])
        return changed_bytes(random, files[name])

    def attempt(random: Random, folder: Path) -> None:
        changed = dict(manifest)
        name = random.choice(["bundle.json", "bundle.json", "bundle.json", *files])
        for other in files.keys() - {name}:
            os.link(seeds.bundle / other, folder / other)
        if name == "bundle.json":
            changed = changed_tree(random, manifest)
        else:
            content = damaged(random, name)
            (folder / name).write_bytes(content)
            entries = [entry | _entry(content) if entry["path"] == name else entry for entry in manifest["files"]]
            changed["files"] = entries
        (folder / "bundle.json").write_text(json.dumps(changed), encoding="utf-8")
        if name.endswith(".npz"):
            verify(folder)
            return
        model = load(folder, threads=1)
        with model.session(source="en") as session:
            session.feed(sound(1.5))
            session.finish()

    return attempt


def _entry(content: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def changed_graph(random: Random, graph: Any) -> bytes:
    """Return an ONNX model with a changed node, tensor or shape."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    graph = model.graph
    kind = random.randrange(5)
    node = random.choice(graph.node)
    if kind == 0 and node.input:
        names = [name for other in graph.node for name in other.output] + [value.name for value in graph.input]
        node.input[random.randrange(len(node.input))] = random.choice(names)
    elif kind == 1:
        node.op_type = random.choice(("Add", "MatMul", "Reshape", "Expand", "Loop", "Tile", "Identity", "NoSuch"))
    elif kind == 2 and (numbers := [item for other in graph.node for item in other.attribute if item.type == 2]):
        random.choice(numbers).i = random.choice((-(2**63), -1, 0, 1, 2, 1000, 2**31, 2**63 - 1))
    elif kind == 3 and graph.initializer:
        tensor = random.choice(graph.initializer)
        if tensor.raw_data and random.random() < 0.7:
            tensor.raw_data = changed_bytes(random, tensor.raw_data)
        else:
            tensor.dims.append(random.choice((0, 1, 2, 2**40)))
    else:
        value = random.choice([*graph.input, *graph.output])
        dims = value.type.tensor_type.shape.dim
        if dims and random.random() < 0.6:
            random.choice(dims).dim_value = random.choice((0, 1, 3, 2**40))
        else:
            value.name += random.choice(("_", "x"))
    return model.SerializeToString()


def changed_zip(random: Random, content: bytes) -> bytes:
    """Return an archive whose checksums fit, with changed members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    if name.endswith(".json") and random.random() < 0.8:
        members[name] = json.dumps(changed_tree(random, json.loads(members[name]))).encode()
    elif name.endswith(".npy") and random.random() < 0.3:
        buffer = io.BytesIO()
        odd = (np.zeros(0), np.float64("nan"), np.arange(5), np.array(["a"]), np.zeros((2, 2), dtype=np.complex64))
        np.save(buffer, np.asarray(random.choice(odd)))
        members[name] = buffer.getvalue()
    elif random.random() < 0.2:
        members[random.choice(("../x", "extra", name.upper()))] = members.pop(name)
    else:
        members[name] = changed_bytes(random, members[name])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return packed.getvalue()


def audio(_seeds: Seeds) -> Attempt:
    """A recording as a file, and as the content of a pipe."""
    from bestow_edge.runtime.audio.files import open_audio, open_recording

    made = recordings()

    def attempt(random: Random, folder: Path) -> None:
        name = random.choice(sorted(made))
        content = changed_bytes(random, made[name], head=128)
        if random.random() < 0.3:
            with open_recording(io.BytesIO(content), name) as recording:
                for _ in recording:
                    pass
            return
        (folder / name).write_bytes(content)
        rate_hz = random.choice((RATE_HZ, 8000, 44100))
        with open_audio(folder / name, rate_hz) as recording:
            for block in recording:
                assert np.isfinite(block).all()

    return attempt


def speech_manifest(_seeds: Seeds) -> Attempt:
    """Lines of a speech manifest, a table of texts and an index of shards."""
    from bestow_edge.training.data.corpora.check import check_manifests, check_texts
    from bestow_edge.training.data.corpora.filters import Sieve
    from bestow_edge.training.data.corpora.index import read_corpus
    from bestow_edge.training.data.corpora.shards import shard_indexes, write_shards
    from bestow_edge.training.recipe.data import FilterRecipe, SourceRecipe

    wave = recordings()["a.wav"]
    line = {
        "audio_filepath": "a.wav", "duration": 0.4, "offset": 0.0, "text": "one two", "lang": "en", "speaker": "a",
        "translations": {"de": "eins zwei"}, "question": "Who?", "answer": "Nobody.",
        "word_times": [[0.0, 0.1], [0.1, 0.2]],
    }  # fmt: skip
    sieve = Sieve(
        SourceRecipe(name="s", manifests=("m",)), FilterRecipe(dedup="text"), ("en-en",), needs_transcript=True
    )

    def attempt(random: Random, folder: Path) -> None:
        (folder / "a.wav").write_bytes(wave if random.random() < 0.9 else changed_bytes(random, wave))
        lines = [json.dumps(changed_tree(random, line)).encode(), json.dumps(line).encode()]
        content = b"\n".join(lines) + b"\n"
        path = folder / random.choice(("m.jsonl", "m.tsv"))
        path.write_bytes(content if random.random() < 0.8 else changed_bytes(random, content))
        kind = random.randrange(4)
        if kind == 0:
            check_texts(path)
        elif kind == 1:
            corpus, _ = read_corpus([path], sieve, folder / "cache")
            for index in range(len(corpus)):
                corpus.utterance(index)
        elif kind == 2:
            write_shards([path], folder / "shards", size_bytes=100_000, seed=0)
            plan = folder / "shards" / "shards.json"
            for file in sorted((folder / "shards").iterdir())[:1] if not plan.is_file() else [plan]:
                file.write_bytes(changed_bytes(random, file.read_bytes()))
            check_manifests(shard_indexes(folder / "shards"), rate_hz=RATE_HZ, jobs=1)
        else:
            check_manifests([path], rate_hz=RATE_HZ, jobs=1)

    return attempt


def recipe(_seeds: Seeds) -> Attempt:
    """A recipe of training."""
    from bestow_edge.training.recipe.recipe import load_recipe

    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").rglob("*.yaml"))]
    trees = [tree for tree in map(yaml.safe_load, texts) if isinstance(tree, dict) and "stages" in tree]
    assert trees

    def attempt(random: Random, folder: Path) -> None:
        number = random.randrange(len(trees))
        content = yaml.dump(changed_tree(random, trees[number]), allow_unicode=True).encode("utf-8", "surrogatepass")
        if random.random() < 0.25:
            content = changed_bytes(random, texts[number].encode(), head=4000)
        (folder / "r.yaml").write_bytes(content)
        load_recipe(folder / "r.yaml")

    return attempt


def checkpoint(seeds: Seeds) -> Attempt:
    """The config, the weights or the tokenizer of a checkpoint."""
    from bestow_edge.core.checkpoint import weights_by_part
    from bestow_edge.model.checkpoint import load_checkpoint
    from bestow_edge.runtime.stream.text import load_tokenizer

    files = {path.name: path.read_bytes() for path in seeds.checkpoint.iterdir() if path.is_file()}
    trees = {name: json.loads(content) for name, content in files.items() if name.endswith(".json")}
    weights = files["model.safetensors"]
    size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + size])

    def attempt(random: Random, folder: Path) -> None:
        name = random.choice(["model.safetensors", *sorted(trees)])
        for other in files.keys() - {name}:
            os.link(seeds.checkpoint / other, folder / other)
        if name in trees:
            content = json.dumps(changed_tree(random, trees[name])).encode()
        elif random.random() < 0.7:
            text = json.dumps(changed_tree(random, header)).encode()
            content = len(text).to_bytes(8, "little") + text + weights[8 + size :]
        else:
            content = changed_bytes(random, weights, head=8)
        (folder / name).write_bytes(content)
        weights_by_part(folder)
        load_checkpoint(folder)
        load_tokenizer(folder / "tokenizer.json")

    return attempt


def nemo(_seeds: Seeds) -> Attempt:
    """A `.nemo` file: its config, its weights' pickle, its archive."""
    import tarfile

    from nemo_files import nemo_fixture

    from bestow_edge.model.pretrained.nemo import nemo_encoder

    packed = [nemo_fixture(name).read_bytes() for name in ("offline.nemo", "streaming.nemo")]
    members = []
    for content in packed:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = [member for member in archive.getmembers() if member.isfile()]
            members.append({member.name: archive.extractfile(member).read() for member in files})  # type: ignore[union-attr]

    def attempt(random: Random, folder: Path) -> None:
        number = random.randrange(len(packed))
        path = folder / "m.nemo"
        if random.random() < 0.25:
            path.write_bytes(changed_bytes(random, packed[number], head=1024))
        else:
            content = dict(members[number])
            name = random.choice(sorted(content))
            if name.endswith(".yaml") and random.random() < 0.8:
                content[name] = yaml.dump(changed_tree(random, yaml.safe_load(content[name]))).encode(
                    "utf-8", "replace"
                )
            elif name.endswith(".ckpt") and random.random() < 0.5:
                content[name] = changed_zip(random, content[name])
            else:
                content[name] = changed_bytes(random, content[name])
            _pack(path, content)
        nemo_encoder(path)

    return attempt


def _pack(path: Path, members: Mapping[str, bytes]) -> None:
    import tarfile

    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def trace(seeds: Seeds) -> Attempt:
    """A recorded stream, read and repeated."""
    import tempfile

    from bestow_edge.runtime import load
    from bestow_edge.runtime.records.replay import replay
    from bestow_edge.runtime.records.trace import Tracer, read_trace

    model = load(seeds.bundle, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.trace"
        with Tracer(model.session(source="en", k=1, l=2), path) as session:
            session.feed(sound(1.0))
            session.finish()
        content = path.read_bytes()

    def attempt(random: Random, folder: Path) -> None:
        path = folder / "t.trace"
        path.write_bytes(changed_zip(random, content) if random.random() < 0.8 else changed_bytes(random, content))
        read = read_trace(path)
        read.check_bundle(model)
        replay(read, model)

    return attempt


def store(_seeds: Seeds) -> Attempt:
    """What commands keep for the next one: engines, hashes, indexes, results of an evaluation."""
    from fuzz.stores import STORES

    def attempt(random: Random, folder: Path) -> None:
        random.choice(STORES)(random, folder)

    return attempt


def server(seeds: Seeds) -> Attempt:
    """Messages and fields of a client; an error that the server cannot answer would close its connection with 500."""
    from fuzz.messages import messages

    return messages(seeds)


TARGETS: dict[str, Callable[[Seeds], Attempt]] = {
    target.__name__: target
    for target in (bundle, audio, speech_manifest, recipe, checkpoint, nemo, trace, store, server)
}
"""Targets by name."""
