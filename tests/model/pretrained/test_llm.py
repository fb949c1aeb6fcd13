"""LLMs out of folders: nothing of them changes, their chat format and end tokens, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import complete
from safetensors.torch import load_file, save_file
from tiny_llms import FAMILIES, SIZES, edit_json, make_llm, make_tokenizer
from transformers import AutoModelForCausalLM

from bestow_edge.core.config import ChatTemplate, ModelConfig
from bestow_edge.core.errors import BestowEdgeError, CheckpointError, ConfigError, ExportError
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.export.graphs.llm import llm_step
from bestow_edge.model.base import Speech, SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint, save_checkpoint, skeleton
from bestow_edge.model.pretrained.chat_template import chat_template
from bestow_edge.model.pretrained.components import plain_config
from bestow_edge.model.pretrained.llm import read_llm

CHATS = {
    "qwen": ChatTemplate(
        before="<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "llama": ChatTemplate(
        before="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        after="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": ChatTemplate(before="<bos><start_of_turn>user\n", after="<end_of_turn>\n<start_of_turn>model\n"),
    "base": ChatTemplate(before="<s>", after="\n"),
}
ENDS: dict[str, Any] = {"qwen": [2, 0], "llama": [4, 1], "gemma": [4, 1], "base": 2}  # the end of a turn comes first


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    """A Llama that may be damaged."""
    return make_llm(tmp_path / "llm")


def bestow(model: Any, network: dict[str, Any]) -> SpeechModel:
    """Rebuild a model from its stored config, with an adapter that adds nothing."""
    config = ModelConfig(
        encoder=ChunkedConfig(network=network),
        connector=CrossAdapterConfig(num_layers=1, width=16, num_heads=2),
        llm=plain_config(model.config),
    )
    built = SpeechModel.from_config(ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))))
    built.llm.load_state_dict(model.state_dict())
    built.connector.start_silent()
    return built.eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_behind_a_silent_adapter_it_is_the_llm_it_was(tmp_path: Path, family: str) -> None:
    folder = make_llm(tmp_path / "llm", family)
    network = complete(
        "nemotron_asr_streaming_encoder", hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, subsampling_conv_channels=2,
    )  # fmt: skip
    part = read_llm(folder)
    model = bestow(part.module, network)
    token_ids = torch.arange(120).view(2, 60) + 5  # longer than the sliding windows
    original = AutoModelForCausalLM.from_pretrained(folder).eval()
    want = original(input_ids=token_ids, use_cache=False).logits
    speech = Speech(torch.zeros(2, 3, 8), torch.tensor([3, 3]))
    got = model(token_ids, speech, torch.full((2, 60), 3)).logits
    assert torch.equal(got, want)  # also where embeddings are scaled, inside the LLM or before it
    shared = model.llm.get_input_embeddings().weight is model.llm.get_output_embeddings().weight
    assert shared == bool(original.config.tie_word_embeddings)
    with llm_step(model.llm):  # raises if the graph would compute something else
        pass


@pytest.mark.parametrize("family", ["llama", "llama-base", "qwen2", "gemma3"])
def test_chat_and_end_tokens(tmp_path: Path, family: str) -> None:
    kind = FAMILIES[family][0]
    part = read_llm(make_llm(tmp_path / "llm", family))
    assert part.chat == CHATS[kind]
    assert part.has_chat_template == (kind != "base")
    assert part.module.config.eos_token_id == ENDS[kind]
    text = f"{part.chat.before}one two{part.chat.after}"
    tokenizer = make_tokenizer(kind)
    if kind != "base":
        turns = [{"role": "user", "content": "one two"}]
        options = {"enable_thinking": False, "date_string": "26 Jul 2024"}
        want = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **options)["input_ids"]
        assert part.tokenizer.encode(text, add_special_tokens=False).ids == want
    first = tokenizer.convert_tokens_to_ids(part.tokenizer.encode(text, add_special_tokens=False).tokens[0])
    assert first == part.tokenizer.token_to_id(tokenizer.bos_token or "<|im_start|>")


def test_end_tokens_come_from_the_config_or_the_tokenizer_if_need_be(llm: Path) -> None:
    (llm / "generation_config.json").unlink()
    assert read_llm(llm).module.config.eos_token_id == 2
    edit_json(llm / "config.json", eos_token_id=None)
    config = json.loads((llm / "config.json").read_text())
    assert "eos_token_id" not in config
    (llm / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    assert read_llm(llm).module.config.eos_token_id == 4


def test_without_an_end_token_it_is_refused(llm: Path) -> None:
    (llm / "generation_config.json").unlink()
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    edit_json(llm / "tokenizer_config.json", eos_token=None)
    with pytest.raises(CheckpointError, match=r"no token ends an answer: neither generation_config\.json nor"):
        read_llm(llm)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no users') }}", r"does not render \(no users\)"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}x", None),
        ("nothing", "holds a user turn 0 times, expected once"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "holds a user turn 2 times"),
        ("{{ messages[0].content | lower }}", "holds a user turn 0 times"),
        ("{{ ''.__class__.__mro__ }}", "does not render"),  # the sandbox
        ("{% if %}", "does not render"),
    ],
)
def test_odd_chat_templates(template: str, message: str | None) -> None:
    tokenizer = make_tokenizer("llama")
    tokenizer.chat_template = template
    if message is None:
        assert chat_template(tokenizer, "x") == ChatTemplate(before="", after="x")
        return
    with pytest.raises(CheckpointError, match=message):
        chat_template(tokenizer, "x")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    part = read_llm(make_llm(tmp_path / "llm", "qwen3-tied", dtype))
    assert {weight.dtype for weight in part.module.parameters()} == {dtype}
    assert "dtype" not in plain_config(part.module.config)


def remove(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if ".1.mlp" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {"visual.patch": torch.zeros(1)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, Callable[[Path], object]] = {
    r"3 missing weights: model\.layers\.1\.mlp\.down_proj\.weight, ": remove,
    r"1 unknown weights: visual\.patch": add,
    r"not a safetensors file": truncate,
    r"model\.safetensors is missing; expected weights as safetensors": lambda folder: (
        folder / "model.safetensors"
    ).unlink(),
    r"weights of another shape: ": lambda folder: edit_json(folder / "config.json", intermediate_size=32),
    r"tokenizer does not load": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    r"not an LLM that transformers supports": lambda folder: (folder / "config.json").write_text(
        '{"model_type": "nope"}'
    ),
    r"a parakeet_encoder is no decoder-only LLM": lambda folder: (folder / "config.json").write_text(
        '{"model_type": "parakeet_encoder"}'
    ),
    r"a t5 is no decoder-only LLM": lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}'),
    r"a gemma3 takes more than text; give a text-only": lambda folder: (folder / "config.json").write_text(
        '{"model_type": "gemma3"}'
    ),
    r"its weights are quantised; give the original": lambda folder: edit_json(
        folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}
    ),
    r"ids up to 319, but the model 300 embeddings": lambda folder: edit_json(folder / "config.json", vocab_size=300),
    r"end tokens \[999\] are not in the vocabulary of 320": lambda folder: edit_json(
        folder / "generation_config.json", eos_token_id=[2, 999]
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_named(llm: Path, message: str) -> None:
    DAMAGE[message](llm)
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        read_llm(llm)
    assert str(llm) in str(caught.value)
    assert isinstance(caught.value, BestowEdgeError)


def test_no_code_of_a_folder_is_run(llm: Path, tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    (llm / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    edit_json(
        llm / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"},
    )
    with pytest.raises(ConfigError, match="not an LLM that transformers supports"):
        read_llm(llm)
    assert not marker.exists()


def test_all_names_of_missing_weights_on_request(llm: Path) -> None:
    weights = load_file(llm / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layers.1" not in name}
    save_file(kept, llm / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"9 missing weights: .* and 3 more \(--all-names\)"):
        read_llm(llm)
    with pytest.raises(CheckpointError, match=r"9 missing weights: .*self_attn\.v_proj\.weight$"):
        read_llm(llm, every_name=True)


def test_more_embeddings_than_tokens_are_fine(tmp_path: Path) -> None:
    folder = make_llm(tmp_path / "llm")
    copy = shutil.copytree(folder, tmp_path / "copy")
    tokenizer = make_tokenizer("llama")
    assert len(tokenizer) == SIZES["vocab_size"]
    assert read_llm(Path(copy)).module.config.vocab_size == 320


@torch.no_grad()
def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    """Merged adapters and resized vocabularies have one, while their config still says that it is the embedding."""
    folder = make_llm(tmp_path / "llm", "llama-base")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    part = read_llm(folder)
    assert plain_config(part.module.config)["tie_word_embeddings"] is False
    token_ids = torch.arange(20)[None] + 5
    network = complete(
        "nemotron_asr_streaming_encoder", hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, subsampling_conv_channels=2,
    )  # fmt: skip
    model = bestow(part.module, network)
    original = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(model.llm(input_ids=token_ids).logits, original(input_ids=token_ids).logits)
    save_checkpoint(model, part.tokenizer.to_str(), tmp_path / "checkpoint")
    assert torch.equal(load_checkpoint(tmp_path / "checkpoint").llm.lm_head.weight, weights["lm_head.weight"])
    edit_json(
        tmp_path / "checkpoint" / "config.json",
        model=model.config.to_dict() | {"llm": model.config.llm | {"tie_word_embeddings": True}},
    )
    with pytest.raises(CheckpointError, match=r"config\.json ties .*lm_head.*, but the file holds both; set tie_word"):
        skeleton(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kv_lora_rank": 16}, "llama has latent attention .kv_lora_rank., which export cannot compute; choose an LLM"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "llama has rotary embeddings of type dynamic, whose frequencies depend on the length of the text",
        ),
    ],
)
def test_what_export_cannot_compute_is_refused_in_one_sentence(llm: Path, fields: dict[str, Any], message: str) -> None:
    edit_json(llm / "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        read_llm(llm)
    model = AutoModelForCausalLM.from_pretrained(llm).eval()
    with pytest.raises(ExportError, match=message), llm_step(model):
        pass


def test_no_date_enters_a_prompt() -> None:
    tokenizer = make_tokenizer("llama")
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.content }}{% endfor %}"
    assert chat_template(tokenizer, "x").before == "26 Jul 2024 "
