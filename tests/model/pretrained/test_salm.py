"""A whole SALM of NeMo's speechlm2: outputs equal NeMo's own class; wrong and partial checkpoints are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run_here
from safetensors.torch import load_file, save_file
from salm_files import make_qformer
from tiny_llms import make_llm
from tokenizers import Tokenizer, models, pre_tokenizers

from bestow_edge.core.checkpoint import load_config, read_notes
from bestow_edge.core.errors import CheckpointError, ConfigError, PromptError
from bestow_edge.core.features import log_mel
from bestow_edge.core.prompts import parse_pair, prompt_text
from bestow_edge.core.specs.prepend import prepend
from bestow_edge.core.specs.windowed import windowed
from bestow_edge.export.graphs.base import speech_side
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.salm import matches
from bestow_edge.model.pretrained.salm_prompts import FORMATS, salm_chat
from bestow_edge.model.pretrained.whole import init_whole

pytestmark = pytest.mark.usefixtures("no_line")
FIXTURE = Path(__file__).parents[2] / "fixtures" / "salm"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def nemo() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "salm.npz"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("salm") / "checkpoint"
    init_whole(WholeRequest(source=str(FIXTURE / "salm")), out, progress=lambda _: None)
    return out


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> SpeechModel:
    return load_checkpoint(checkpoint)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "copy")
    return tmp_path / "copy" / "salm"


def greedy(model: SpeechModel, prompt: list[int], speech: Any, number: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(number):
        ids = torch.tensor([tokens])
        tokens.append(int(model(ids, speech, torch.zeros_like(ids)).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@torch.no_grad()
def test_everything_equals_nemo(model: SpeechModel, checkpoint: Path, nemo: dict[str, np.ndarray]) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompt = tokenizer.encode(prompt_text(parse_pair("en"), model.config.chat), add_special_tokens=False).ids
    assert prompt == nemo["prompt_ids"].tolist()
    assert prepend(model.config).speech_token == int(nemo["audio_id"])
    mel = log_mel(nemo["waveform"], model.config.features)
    np.testing.assert_allclose(mel, nemo["features"][: len(mel)], atol=1e-4)
    speech = model.encode(torch.from_numpy(mel)[None], torch.tensor([len(mel)]))
    np.testing.assert_allclose(speech.steps[0], nemo["encoded"], atol=1e-5)
    (projected,) = speech_side(model)(speech.steps)
    np.testing.assert_allclose(projected[0], nemo["projected"], atol=1e-5)
    logits = model(torch.tensor([prompt]), speech, torch.zeros(1, len(prompt))).logits[0]
    behind = len(nemo["logits"])
    np.testing.assert_allclose(logits[-behind:], nemo["logits"], atol=1e-5)
    assert greedy(model, prompt, speech, 24) == nemo["answer_ids"].tolist()


def test_stored_constants_are_used(model: SpeechModel) -> None:
    assert (model.config.features.constants, model.config.rotary) == ("bfloat16", "bfloat16")
    frequencies: Any = model.llm.model.rotary_emb.inv_freq
    assert torch.equal(frequencies, frequencies.bfloat16().float())


@torch.no_grad()
def test_rows_of_a_batch_are_apart(model: SpeechModel) -> None:
    """Utterances and prompts of different lengths, and one without speech."""
    mel = torch.randn(3, 160, 128, generator=torch.Generator().manual_seed(0))
    lens, tag = torch.tensor([160, 93, 160]), prepend(model.config).speech_token
    mel[1, 93:] = 0
    ids = torch.tensor([[5, 6, tag, 7, 8, 9], [tag, 3, 4, 0, 0, 0], [9, 8, 7, 6, 5, 4]])
    together = model(ids, model.encode(mel, lens), torch.zeros_like(ids)).logits
    for row, tokens in enumerate((6, 3, 6)):
        frames = int(lens[row])
        speech = model.encode(mel[row : row + 1, :frames], lens[row : row + 1])
        alone = model(ids[row : row + 1, :tokens], speech, torch.zeros(1, tokens)).logits[0]
        torch.testing.assert_close(together[row, :tokens], alone, atol=1e-4, rtol=1e-4)
    text = model(ids[2:], None, torch.zeros(1, 6)).logits[0]
    torch.testing.assert_close(together[2], text, atol=1e-4, rtol=1e-4)


def test_inspect_shows_the_origin(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = "LoRA merged in float32: 4 weights, rank 8, factor 2"
    assert merged in read_notes(checkpoint)
    code, printed, _ = run_here(capsys, "inspect", checkpoint)
    assert (code, merged in printed) == (0, True)
    code, printed, _ = run_here(capsys, "inspect", checkpoint, "--json")
    assert merged in json.loads(printed)["notes"]


def test_without_lora(copy: Path, model: SpeechModel, tmp_path: Path) -> None:
    """Weights that NeMo has merged stand under shorter names."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("llm.")}
    old = {name: tensor for name, tensor in load_file(copy / "model.safetensors").items() if name.startswith("percep")}
    llm = {"embed_tokens.weight": state.pop("llm.model.embed_tokens.weight"), **state}
    del llm["llm.lm_head.weight"]
    save_file(old | llm, copy / "model.safetensors")
    result = init_whole(WholeRequest(source=str(copy)), tmp_path / "out", progress=lambda _: None)
    assert not any("LoRA" in note for note in result.notes)
    again = load_checkpoint(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def configured(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda folder: edit(folder / "config.json", change)


def weighed(change: Callable[[dict[str, Any]], object]) -> Change:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


LORA = "llm.base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"
MODULES = "nemo.collections.speechlm2.modules.perception"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (weighed(lambda w: w.pop("perception.proj.bias")), "1 missing weights: connector.projection.bias"),
        (weighed(lambda w: w.update(extra=torch.zeros(1))), "1 unknown weights: extra"),
        (weighed(lambda w: w.update({"embed_tokens.weight": torch.zeros(7, 64)})),
         r"embed_tokens.weight \(7, 64\), config says \(512, 64\)"),
        (weighed(lambda w: w.pop(LORA)), "LoRA of llm.model.layers.1.self_attn.q_proj.weight is not whole"),
        (weighed(lambda w: w.update({"perception.preprocessor.featurizer.fb": torch.zeros(1, 128, 257)})),
         "preprocessor.featurizer.fb differs by"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04K\x01."), "not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (configured(lambda c: c.pop("lora")), "no lora section with r and lora_alpha"),
        (configured(lambda c: c["lora"].update(use_dora=True)), "lora sets use_dora, which is not supported"),
        (configured(lambda c: c["perception"]["modality_adapter"].update(_target_=f"{MODULES}.OtherConnector")),
         "OtherConnector; only IdentityConnector and ConformerEncoder, with a d_model"),
        (configured(lambda c: c["perception"]["modality_adapter"].update(_target_=f"{MODULES}.QformerConnector")),
         "modality_adapter: unknown d_model; known are target_layer_ids"),
        (configured(lambda c: c["perception"]["encoder"].update(n_layers=3)), "missing weights: encoder.layers.2"),
        (configured(lambda c: c["perception"]["encoder"].update(warp=1)), "unknown warp"),
        (configured(lambda c: c["perception"]["preprocessor"].update(window="hamming")), "window is 'hamming'"),
        (configured(lambda c: c.update(prompt_format="t5nmt")), "prompt_format 't5nmt' is not supported; expected one"),
        (configured(lambda c: c.pop("audio_locator_tag")), "names no audio_locator_tag"),
        (configured(lambda c: c.pop("pretrained_llm")), "names no pretrained_llm; name the LLM with --llm"),
        (configured(lambda c: c.update(pretrained_llm="no/such/llm")), "no/such/llm: no such file or folder"),
    ],
)  # fmt: skip
def test_damaged_checkpoints(copy: Path, tmp_path: Path, damage: Change, message: str) -> None:
    damage(copy)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        init_whole(WholeRequest(source=str(copy)), tmp_path / "out", progress=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"padding_s": 3.0}, ConfigError, "is a SALM: leave out --padding"),
        ({"pairs": ("en-xx",)}, PromptError, "en-xx"),
        ({"instruction": "Hear <|audioplaceholder|> now"}, ConfigError, "speech follows the instruction; leave"),
    ],
)
def test_options_that_do_not_suit(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    request = WholeRequest(source=str(FIXTURE / "salm"), **options)
    with pytest.raises(error, match=message.replace("|", r"\|")):
        init_whole(request, tmp_path / "out", progress=lambda _: None)


def test_other_models_of_its_model_type_are_none() -> None:
    """transformers gives `nemo_speechlm` to Nemotron 3.5 Transcribe, whose encoder is another one."""
    assert not matches({"model_type": "nemo_speechlm"})
    assert not matches({"perception": {"encoder": {"asr_encoder": {}}}})
    assert matches({"perception": {"encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder"}}})


def test_init_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, llm = tmp_path / "checkpoint", shutil.copytree(FIXTURE / "salm-llm", tmp_path / "other-llm")
    options = ("--llm", llm, "--pairs", "en-en,en-de", "--instruction", "Task {task} to {target}: ", "--json")
    code, printed, err = run_here(capsys, "init", "--from", FIXTURE / "salm", "--out", out, *options)
    assert code == 0, err
    assert [part["part"] for part in json.loads(printed)["parts"]] == ["encoder", "connector", "llm"]
    config = load_config(out)
    assert config.pairs == ("en-en", "en-de")
    text = "<|im_start|>user\nTask translate to de: <|audioplaceholder|><|im_end|>\n<|im_start|>assistant\n"
    assert prompt_text(parse_pair("en-de"), config.chat) == text


def test_llm_beside_the_weights(copy: Path, tmp_path: Path) -> None:
    """As newer checkpoints have it: the config in a folder, the tokenizer beside it."""
    shutil.copytree(FIXTURE / "salm-llm", copy / "llm_backbone")
    edit(copy / "config.json", lambda fields: fields.update(pretrained_llm="elsewhere/llm"))
    request = WholeRequest(source=str(copy))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing beside llm_backbone"):
        init_whole(request, tmp_path / "out", progress=lambda _: None)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / "llm_backbone" / name).rename(copy / name)
    assert init_whole(request, tmp_path / "out", progress=lambda _: None).config.llm["vocab_size"] == 512


@pytest.mark.parametrize("name", FORMATS)
def test_prompt_formats(name: str) -> None:
    """Whole prompts as NeMo's classes write them."""
    want = {
        "qwen": "<|im_start|>user\nHear: <a><|im_end|>\n<|im_start|>assistant\n",
        "qwen3": "<|im_start|>user\nHear: <a><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "llama2": "<s>[INST] Hear: <a> [/INST]",
        "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHear: <a><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "gemma": "<s><start_of_turn>user\nHear: <a><end_of_turn>\n<start_of_turn>model\n",
        "phi2_qa": "Instruct: Hear: <a>\nOutput: ",
        "phi2_chat": "Human: Hear: <a>\nAI: ",
        "plain": "Hear: <a>",
    }[name]
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.add_special_tokens(["<s>", "<a>"])
    transformers: Any = type("Tokenizer", (), {"bos_token": "<s>"})
    fields = {"audio_locator_tag": "<a>", "prompt_format": name}
    assert prompt_text(parse_pair("en"), salm_chat(fields, transformers, plain, "Hear: ", "here")) == want


def test_a_plain_llm_is_no_whole_model(tmp_path: Path) -> None:
    folder = make_llm(tmp_path / "llm", "llama")
    with pytest.raises(ConfigError, match="a llama is no whole model that is supported; expected a Whisper, a SALM"):
        init_whole(WholeRequest(source=str(folder)), tmp_path / "out", progress=lambda _: None)


@torch.no_grad()
def test_conformer_layers_equal_nemo(tmp_path: Path, nemo: dict[str, np.ndarray]) -> None:
    want = np.load(FIXTURE / "conformer.npz")
    result = init_whole(WholeRequest(source=str(FIXTURE / "conformer")), tmp_path / "out", progress=lambda _: None)
    assert prepend(result.config).describe().startswith("2 Conformer layers of width 48, linear projection")
    model = load_checkpoint(tmp_path / "out")
    mel = log_mel(nemo["waveform"], model.config.features)
    speech = model.encode(torch.from_numpy(mel)[None], torch.tensor([len(mel)]))
    (projected,) = speech_side(model)(speech.steps)
    np.testing.assert_allclose(projected[0], want["projected"], atol=1e-5)
    prompt = torch.from_numpy(want["prompt_ids"])[None]
    logits = model(prompt, speech, torch.zeros_like(prompt)).logits[0]
    np.testing.assert_allclose(logits[-len(want["logits"]) :], want["logits"], atol=1e-5)


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SpeechModel]:
    """Models whose connectors read several layers."""
    directory = tmp_path_factory.mktemp("tapped")
    sources = {"layers": FIXTURE / "layers", "qformer": make_qformer(directory)}
    for name, source in sources.items():
        result = init_whole(WholeRequest(source=str(source)), directory / f"{name}-out", progress=lambda _: None)
        assert result.notes[1].startswith("connector reads the outputs of layers 0, 1")
    return {name: load_checkpoint(directory / f"{name}-out") for name in sources}


@pytest.mark.parametrize("name", ["layers", "qformer"])
@torch.no_grad()
def test_connectors_of_several_layers_equal_nemo(
    name: str, tapped: dict[str, SpeechModel], nemo: dict[str, np.ndarray]
) -> None:
    want, model = np.load(FIXTURE / f"{name}.npz"), tapped[name]
    mel = log_mel(nemo["waveform"], model.config.features)
    speech = model.encode(torch.from_numpy(mel)[None], torch.tensor([len(mel)]))
    np.testing.assert_allclose(speech.steps[0], want["layers"], atol=1e-4)
    (projected,) = speech_side(model)(speech.steps)
    np.testing.assert_allclose(projected[0], want["projected"], atol=1e-4)
    prompt = want["prompt_ids"].tolist()
    logits = model(torch.tensor([prompt]), speech, torch.zeros(1, len(prompt))).logits[0]
    np.testing.assert_allclose(logits[-len(want["logits"]) :], want["logits"], atol=1e-4)
    assert greedy(model, prompt, speech, 24) == want["answer_ids"].tolist()


def test_layers_that_a_connector_reads(tapped: dict[str, SpeechModel]) -> None:
    """In NeMo's order: [-2, 0] and the final output, and [-3, 1] without it."""
    layers, qformer = (windowed(tapped[name].config) for name in ("layers", "qformer"))
    assert (layers.taps, layers.right_context, layers.width) == ((0, 1, 2), 13, 48)
    assert (qformer.taps, qformer.right_context, qformer.width) == ((0, 1), 0, 32)
    assert layers.describe().endswith("right context 13, outputs of layers 0, 1, 2")
    shown = prepend(tapped["qformer"].config).describe()
    assert shown == "Q-Former of 2 layers, 2 heads: 6 embeddings of all steps, in the place of token 310"


@torch.no_grad()
def test_a_qformer_sees_no_padding(tapped: dict[str, SpeechModel]) -> None:
    model = tapped["qformer"]
    mel = torch.randn(2, 160, 64, generator=torch.Generator().manual_seed(0))
    lens, tag = torch.tensor([160, 93]), prepend(model.config).speech_token
    mel[1, 93:] = 0
    ids = torch.tensor([[5, 6, tag, 7, 8, 9], [tag, 3, 4, 0, 0, 0]])
    together = model(ids, model.encode(mel, lens), torch.zeros_like(ids)).logits
    alone = model(ids[1:, :3], model.encode(mel[1:, :93], lens[1:]), torch.zeros(1, 3)).logits[0]
    torch.testing.assert_close(together[1, :3], alone, atol=1e-4, rtol=1e-4)


def adapter(**values: Any) -> Change:
    return configured(lambda config: config["perception"]["modality_adapter"].update(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (adapter(target_layer_ids=[]), r"target_layer_ids \[\]; expected at least one of the encoder's 3 layers"),
        (adapter(target_layer_ids=[0, 3]), r"target_layer_ids \[0, 3\]; expected at least one"),
        (adapter(target_layer_ids=["1"]), r"modality_adapter\.target_layer_ids\[0\]: expected int, got str '1'"),
        (adapter(prompt_size=0), "connector.qformer: all sizes must be at least 1"),
        (adapter(encoder_config={"d_model": 16}), r"modality_adapter\.num_heads: expected int, got NoneType"),
        (adapter(encoder_config={"d_model": 16, "encoder_attention_heads": 3}), "width 16 is not a multiple of num_h"),
        (adapter(encoder_config={"d_model": 512}), r"encoder_config\.d_model 512, but the encoder has 16"),
        (adapter(warp=1), "modality_adapter: unknown warp; known are target_layer_ids"),
        (configured(lambda c: c["perception"]["modality_adapter"].pop("prompt_size")), "prompt_size is missing"),
        (adapter(include_final_output=True), r"qformer.queries.2"),
        (configured(lambda c: c["perception"]["encoder"].update(
            causal_downsampling=True, att_context_style="chunked_limited", att_context_size=[70, 13],
            conv_context_size="causal", conv_norm_type="layer_norm")),
         "modality_adapter is .*QformerConnector, which reads several layers, but the encoder goes chunk by chunk"),
    ],
)  # fmt: skip
def test_connectors_that_do_not_fit(tmp_path: Path, damage: Change, message: str) -> None:
    source = make_qformer(tmp_path)
    damage(source)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        init_whole(WholeRequest(source=str(source)), tmp_path / "out", progress=lambda _: None)
    assert not (tmp_path / "out").exists()
