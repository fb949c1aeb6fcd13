"""Damaged and hostile models of every kind that `init` reads: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_here
from safetensors.torch import load_file, save_file
from sources import SOURCES, Source
from torch import Tensor

pytestmark = pytest.mark.usefixtures("no_line")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Fault = Callable[[Path, Source], object]
MEMORY = 3_000_000_000  # bytes a fault may make the process ask for


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undamaged model of every kind."""
    folder = tmp_path_factory.mktemp("sources")
    for name, source in SOURCES.items():
        source.write(folder / name)
    return folder


@pytest.fixture
def limited() -> Iterator[None]:
    """Let an allocation of many GB fail, not the machine."""
    if sys.platform != "linux":
        yield
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def put(**values: Callable[[Tensor], Tensor]) -> Fault:
    """Return a fault that changes the weight of a source."""
    ((_, convert),) = values.items()
    return lambda folder, source: change(
        folder, lambda weights: weights.update({source.weight: convert(weights[source.weight]).contiguous()})
    )


def spoil(tensor: Tensor, value: float) -> Tensor:
    spoilt = tensor.clone()
    spoilt.view(-1)[3] = value
    return spoilt


def header(edit: Callable[[dict[str, Any], str], object]) -> Fault:
    """Return a fault that changes the header of the weights."""

    def fault(folder: Path, source: Source) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        fields = json.loads(content[8 : 8 + size])
        edit(fields, source.weight)
        changed = json.dumps(fields).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])

    return fault


def overlap(fields: dict[str, Any], name: str) -> None:
    other = next(key for key in fields if key not in (name, "__metadata__"))
    start = fields[other]["data_offsets"][0]
    begin, end = fields[name]["data_offsets"]
    fields[name]["data_offsets"] = [start, start + end - begin]


def index(*files: str) -> Fault:
    """Return a fault that replaces the weights by an index of files."""

    def fault(folder: Path, _: Source) -> None:
        names = list(load_file(folder / WEIGHTS))
        (folder / WEIGHTS).rename(folder / "model-1.safetensors")
        table = {name: files[number % len(files)] for number, name in enumerate(names)}
        (folder / INDEX).write_text(json.dumps({"weight_map": table}))

    return fault


def twice(folder: Path, source: Source) -> None:
    index("model-1.safetensors", "model-2.safetensors")(folder, source)
    shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors")


def link(name: str) -> Fault:
    def fault(folder: Path, _: Source) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return fault


def config(keys: str, value: object) -> Fault:
    """Return a fault that changes a number in config.json: `width` or `layers` of the source."""

    def fault(folder: Path, source: Source) -> None:
        path: Any = getattr(source, keys)
        fields = json.loads((folder / "config.json").read_text())
        section = fields
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        (folder / "config.json").write_text(json.dumps(fields))

    return fault


def text(content: str, name: str = "config.json") -> Fault:
    return lambda folder, _: (folder / name).write_text(content)


def nested(folder: Path, _: Source) -> None:
    fields = json.loads((folder / "config.json").read_text())
    deep: Any = {}
    for _level in range(60):
        deep = {"deep": deep}
    (folder / "config.json").write_text(json.dumps(fields | {"deep": deep}))


NO_FILE, NOT_JSON, ANOTHER_DTYPE = "not a safetensors file", "not valid JSON", "1 weights of another dtype: "
FAULTS: dict[str, tuple[Fault, str]] = {
    "missing tensor": (
        lambda folder, source: change(folder, lambda weights: weights.pop(source.weight)), "1 missing weights: "),
    "extra tensor": (
        lambda folder, _: change(folder, lambda weights: weights.update({"surprise.x": torch.zeros(1)})),
        r"1 unknown weights: (llm\.)?surprise\.x"),
    "other shape": (put(cut=lambda tensor: tensor[:-1]), "1 weights of another shape: .*, config says "),
    "int8": (put(int8=lambda tensor: tensor.to(torch.int8)), ANOTHER_DTYPE),
    "float64": (put(double=lambda tensor: tensor.double()), ANOTHER_DTYPE),
    "float8": (put(quarter=lambda tensor: tensor.to(torch.float8_e4m3fn)), ANOTHER_DTYPE),
    "NaN": (put(nan=lambda tensor: spoil(tensor, float("nan"))), "1 weights with NaN or infinite values: "),
    "infinite": (put(inf=lambda tensor: spoil(tensor, float("-inf"))), "1 weights with NaN or infinite values: "),
    "pickle": (lambda folder, _: (folder / WEIGHTS).write_bytes(pickle.dumps({"a": 1})), NO_FILE),
    "torch.save": (lambda folder, _: torch.save({"a": torch.zeros(9)}, folder / WEIGHTS), NO_FILE),
    "empty": (lambda folder, _: (folder / WEIGHTS).write_bytes(b""), NO_FILE),
    "truncated": (
        lambda folder, _: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), NO_FILE),
    "offsets beyond the file": (
        header(lambda fields, name: fields[name].update(data_offsets=[10**12, 10**12 + 64])), NO_FILE),
    "offsets that overlap": (header(overlap), NO_FILE),
    "header of 2 GB": (
        lambda folder, _: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2 << 30) + b"{}" * 64), NO_FILE),
    "no weights": (lambda folder, _: (folder / WEIGHTS).unlink(), r"model\.safetensors is missing"),
    "index to a parent": (index("model-1.safetensors", "../model-1.safetensors"), "a file outside its folder"),
    "index to a root": (index("/etc/hosts"), "a file outside its folder"),
    "missing shard": (index("model-1.safetensors", "model-2.safetensors"), r"model-2\.safetensors is missing"),
    "index of numbers": (text('{"weight_map": {"a": 1}}', INDEX), "weight_map is no table of file names"),
    "weight in two shards": (twice, "is in another file too; expected each weight once"),
    "link of the weights": (link(WEIGHTS), "links to .*elsewhere, outside its folder; put the file there"),
    "link of the config": (link("config.json"), "links to .*elsewhere, outside its folder; put the file there"),
    "list": (text("[]"), "expected a JSON object, got list"),
    "open brackets": (text('{"a": ' + "[" * 200_000), NOT_JSON),
    "deep": (nested, "nested deeper than 30 levels"),
    "NaN in config": (config("width", float("nan")), rf"{NOT_JSON} \(NaN is no number\)"),
    "long number": (text('{"a": ' + "9" * 5000 + "}"), NOT_JSON),
    "many bits": (config("width", 10**30), "a number of 31 digits, expected at most 20"),
    "negative": (config("width", -64), "is -64; expected at least 1|is -64, expected a whole number of at least 1"),
    "zero": (config("layers", 0), "is 0; expected at least 1|is 0, expected a whole number of at least 1"),
    "text": (config("width", "wide"), "transformers refuses its|is 'wide', expected a whole number|not an LLM that"),
    "huge": (config("width", 10**9), "another shape|describes .* weights|refuses its|is supported|expected at most"),
    "many layers": (config("layers", 10**9), "is 1000000000; expected at most 1000"),
}  # fmt: skip
WORDS = json.dumps(  # a tokenizer of two words
    {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1}, "unk_token": "one"},
    }
    | dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"))
)
TOKENIZER_FAULTS: dict[str, tuple[str, str]] = {
    "empty": ("", "tokenizer"),
    "list": ("[]", "tokenizer"),
    "no model": ('{"added_tokens": []}', "tokenizer"),
    "another model": ('{"model": {"type": "Nope", "vocab": {}}}', "tokenizer"),
    "without special tokens": (WORDS, "token"),
}


def refuses(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], out: Path, message: str, source: Path
) -> None:
    code, printed, err = run_here(capsys, "init", *options, "--out", out, "--offline")
    assert (code, printed) == (2, ""), err
    assert "Traceback" not in err
    sentence = err.partition("error: ")[2].strip()
    assert pytest.raises(ValueError, match=message).matches(ValueError(sentence)), sentence
    assert source.name in sentence
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.usefixtures("limited")
def test_faults(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, fault: str) -> None:
    source, (damage, message) = SOURCES[kind], FAULTS[fault]
    shutil.copytree(whole / kind, tmp_path / kind)
    shutil.copytree(whole / "salm-llm", tmp_path / "salm-llm")
    damage(tmp_path / kind, source)
    refuses(capsys, source.options(tmp_path / kind, whole), tmp_path / "out", message, tmp_path / kind)


@pytest.mark.parametrize("fault", TOKENIZER_FAULTS)
@pytest.mark.parametrize("kind", [kind for kind, source in SOURCES.items() if source.tokenizer])
def test_tokenizers(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, fault: str) -> None:
    source, (content, message) = SOURCES[kind], TOKENIZER_FAULTS[fault]
    shutil.copytree(whole / kind, tmp_path / kind)
    shutil.copytree(whole / "salm-llm", tmp_path / "salm-llm")
    (tmp_path / kind / source.tokenizer).write_text(content)
    refuses(capsys, source.options(tmp_path / kind, whole), tmp_path / "out", message, tmp_path / kind)


FIELDS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "end token of text": ("llm", "generation_config.json", {"eos_token_id": "x"}, "eos_token_id is 'x'; expected"),
    "no end tokens": ("llm", "generation_config.json", {"eos_token_id": []}, "expected the number of a token"),
    "length of a list": ("llm", "tokenizer_config.json", {"model_max_length": [1]}, "its tokenizer does not encode"),
    "adapter": ("llm", "adapter_config.json", {"base_model_name_or_path": "/"}, "merge it with peft first"),
    "kernel of the Hub": ("llm", "config.json", {"attn_implementation": "a/b"}, "is 'a/b', which may name code"),
    "kernel of a part": ("qwen3-asr", "config.json", {"x": {"_attn_implementation": "a/b"}}, "which may name code"),
    "kernels by part": ("whisper", "config.json", {"attn_implementation": {"": "a/b"}}, "which may name code"),
    "kernel of experts": ("encoder", "config.json", {"experts_implementation": "a/b"}, "which may name code"),
    "prompt of a list": ("salm", "config.json", {"prompt_format": [1]}, r"prompt_format \[1\] is not supported"),
    "rank of zero": ("salm", "config.json", {"lora": {"r": 0, "lora_alpha": 1}}, "r is 0; expected the rank"),
    "languages of a number": ("whisper", "generation_config.json", {"lang_to_id": 1.5}, "lang_to_id is 1.5"),
    "no such head": ("whisper", "generation_config.json", {"alignment_heads": [[9, 0]]}, r"alignment head \(9, 0\)"),
    "head of text": ("whisper", "generation_config.json", {"alignment_heads": ["x"]}, "expected a list, got str"),
    "no such token": ("whisper", "generation_config.json", {"suppress_tokens": [10**6]}, "are beyond the vocabulary"),
    "mel bins of text": ("encoder", "preprocessor_config.json", {"feature_size": "x"}, "expected int, got str"),
    "many mel bins": (
        "encoder",
        "preprocessor_config.json",
        {"feature_size": 10**9},
        "1000000000; expected at most",
    ),
    "long window": (
        "encoder",
        "preprocessor_config.json",
        {"n_fft": 10**9, "win_length": 10**9},
        "n_fft is 1000000000; expected",
    ),
    "no parts": ("qwen3-asr", "config.json", {"audio_config": []}, "no audio_config and no text_config; expected"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    kind, file, fields, message = FIELDS[name]
    shutil.copytree(whole / kind, tmp_path / kind)
    shutil.copytree(whole / "salm-llm", tmp_path / "salm-llm")
    path = tmp_path / kind / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | fields))
    refuses(capsys, SOURCES[kind].options(tmp_path / kind, whole), tmp_path / "out", message, tmp_path / kind)


def test_lora_of_another_shape(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "salm"
    shutil.copytree(whole / "salm", folder)
    shutil.copytree(whole / "salm-llm", tmp_path / "salm-llm")
    name = next(name for name in load_file(folder / WEIGHTS) if name.endswith("lora_A.default.weight"))
    change(folder, lambda weights: weights.update({name: weights[name][:, :-1].contiguous()}))
    refuses(capsys, ("--from", folder), tmp_path / "out", "LoRA of another shape than its weight", folder)
    change(folder, lambda weights: weights.update({name: weights[name].to(torch.int8)}))
    refuses(capsys, ("--from", folder), tmp_path / "out", "lora_A int8", folder)


PICKLE_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "int8": (lambda weights: {name: tensor.to(torch.int8) for name, tensor in weights.items()}, "another dtype: "),
    "code": (lambda weights: weights | {"x": Path()}, "holds more than tensors"),
    "no names": (lambda weights: list(weights.values()), "no state dict of tensors"),
}


@pytest.mark.parametrize("fault", PICKLE_FAULTS)
def test_pickled_llms(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    folder, (damage, message) = tmp_path / "llm", PICKLE_FAULTS[fault]
    shutil.copytree(whole / "llm", folder)
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    options = SOURCES["llm"].options(folder, whole)
    torch.save(damage(weights), folder / "pytorch_model.bin")
    refuses(capsys, options, tmp_path / "out", message, folder)
    torch.save(weights, folder / "pytorch_model.bin")
    code, _, err = run_here(capsys, "init", *options, "--out", tmp_path / "out", "--offline")
    assert code == 0, err


@pytest.mark.parametrize("kind", SOURCES)
def test_no_code_is_run(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """A known model type is read without its code."""
    source = SOURCES[kind]
    folder = tmp_path / kind
    shutil.copytree(whole / kind, folder)
    shutil.copytree(whole / "salm-llm", tmp_path / "salm-llm")
    marker = tmp_path / "owned"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    names = (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoTokenizer",
        "AutoFeatureExtractor",
        "AutoProcessor",
    )
    fields = {"auto_map": dict.fromkeys(names, "evil.Evil"), "trust_remote_code": True}
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            values = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(values | fields))
    code, _, err = run_here(capsys, "init", *source.options(folder, whole), "--out", tmp_path / "out", "--offline")
    assert not marker.exists()
    assert code == 0, err


@pytest.mark.parametrize("kind", SOURCES)
def test_the_cache_of_the_hub_has_links(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    source = SOURCES[kind]
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(whole / kind, snapshot)
    shutil.copytree(whole / "salm-llm", snapshot.parent / "salm-llm")
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(repository / "blobs" / str(number))
        file.symlink_to(Path("..") / ".." / "blobs" / str(number))
    code, _, err = run_here(capsys, "init", *source.options(snapshot, whole), "--out", tmp_path / "out", "--offline")
    assert code == 0, err
