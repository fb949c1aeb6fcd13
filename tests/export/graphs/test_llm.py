"""The `llm_step` graph against PyTorch: parity, prefill in parts, batches with different pasts, buffers, refusals."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from graph_files import quantize_file, write_graph
from transformers import PreTrainedModel

from bestow_edge.core.errors import ExportError, ParityError
from bestow_edge.core.specs.llm import llm_spec
from bestow_edge.export.graphs.llm import llm_step

VOCAB = 97
HIDDEN = 64
LAYERS = 2
WINDOW = 6  # tokens of the sliding layers: shorter than every text below
TOLERANCE = 1e-4  # float32 sums in another order, logits near 3: 2e-6 was measured
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = ["sliding_attention", "full_attention"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZES),
    "qwen3-tied": ("Qwen3", {**SIZES, "head_dim": 32, "tie_word_embeddings": True}),
    "gemma2-capped": (
        "Gemma2",
        {
            **SIZES,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3-sliding": ("Gemma3", {**SIZES, "head_dim": 16, "sliding_window": WINDOW, "layer_types": MIXED}),
}
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def random_llm(name: str, sizes: dict[str, Any]) -> PreTrainedModel:
    """A random model with weights large enough that its logits differ clearly."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig if name == "Gemma3" else getattr(transformers, f"{name}Config")
    llm: PreTrainedModel = getattr(transformers, f"{name}ForCausalLM")(config(**sizes))
    with torch.no_grad():
        for weight in llm.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.1)
    return llm.train(False)


@dataclass
class Step:
    """A session with the buffers a runtime would keep."""

    session: ort.InferenceSession
    past: Ints  # (batch,)
    caches: dict[str, Floats]  # each (batch, kv_heads, capacity, head_dim)

    @classmethod
    def load(cls, path: Path, batch: int = 2, capacity: int = 64) -> "Step":
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        # As in the product: x64 processors without VNNI add int8 products in 16 bits, which overflow (error 0.11).
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        shapes = {item.name: item.shape for item in session.get_inputs()[2:]}
        caches = {
            name: np.zeros((batch, heads, capacity, dim), np.float32) for name, (_, heads, _, dim) in shapes.items()
        }
        return cls(session, np.zeros(batch, np.int64), caches)

    def run(self, embeds: Floats) -> Floats:
        """Feed (batch, tokens, hidden), store the new slots, return logits (batch, vocab)."""
        feed = {"inputs_embeds": embeds, "past_tokens": self.past, **self.caches}
        logits, token_id, log_prob, *new = self.session.run(None, feed)
        assert token_id.tolist() == logits.argmax(-1).tolist()
        np.testing.assert_allclose(log_prob, -np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)), atol=1e-5)
        for cache, slots in zip(self.caches.values(), new, strict=True):
            for row, past in enumerate(self.past):
                cache[row, :, past : past + embeds.shape[1]] = slots[row]
        self.past = self.past + embeds.shape[1]
        return logits


@dataclass
class Case:
    """A model and its graph."""

    llm: PreTrainedModel
    path: Path

    def embed(self, token_ids: Ints) -> Floats:
        with torch.no_grad():
            return self.llm.get_input_embeddings()(torch.from_numpy(token_ids)).numpy()

    def logits(self, token_ids: Ints) -> Floats:
        """PyTorch's logits of the last token, without any cache."""
        with torch.no_grad():
            return self.llm(input_ids=torch.from_numpy(token_ids), use_cache=False).logits[:, -1].numpy()


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    llm = random_llm(*KINDS[request.param])
    path = tmp_path_factory.mktemp("llm") / "llm_step.onnx"
    spec = llm_spec(llm.config.to_dict())
    with llm_step(llm) as step:
        write_graph(step, spec, path)
    return Case(llm, path)


def tokens(batch: int, length: int) -> Ints:
    return np.random.default_rng(0).integers(0, VOCAB, (batch, length))


def test_greedy_decoding_after_a_prefill_in_two_parts_equals_pytorch(case: Case) -> None:
    token_ids = tokens(2, 9)
    step = Step.load(case.path)
    step.run(case.embed(token_ids[:, :5]))
    logits = step.run(case.embed(token_ids[:, 5:]))
    for _ in range(30):
        expected = case.logits(token_ids)
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
        chosen = logits.argmax(-1)[:, None]
        assert chosen[:, 0].tolist() == expected.argmax(-1).tolist()
        token_ids = np.concatenate([token_ids, chosen], axis=1)
        logits = step.run(case.embed(chosen))


def test_rows_of_a_batch_may_have_different_pasts(case: Case) -> None:
    long, short = tokens(1, 11), tokens(1, 4)[:, ::-1].copy()
    alone = [Step.load(case.path, batch=1) for _ in range(2)]
    for step, text in zip(alone, (long, short), strict=True):
        step.run(case.embed(text))
    both = Step.load(case.path)
    both.past = np.array([11, 4])
    for name, cache in both.caches.items():
        cache[:] = np.concatenate([step.caches[name] for step in alone])
    following = tokens(2, 3)
    logits = both.run(case.embed(following))
    for row, text in enumerate((long, short)):
        expected = case.logits(np.concatenate([text, following[row : row + 1]], axis=1))
        np.testing.assert_allclose(logits[row : row + 1], expected, atol=TOLERANCE)


def test_slots_behind_the_past_are_not_read_and_capacity_does_not_matter(case: Case) -> None:
    token_ids = tokens(2, 6)
    clean, used = Step.load(case.path, capacity=6), Step.load(case.path, capacity=50)
    for cache in used.caches.values():
        cache[:] = 1e3
    for step in (clean, used):
        step.run(case.embed(token_ids[:, :5]))
    np.testing.assert_allclose(
        used.run(case.embed(token_ids[:, 5:])), clean.run(case.embed(token_ids[:, 5:])), atol=TOLERANCE
    )


def test_the_graph_writes_no_buffer_and_returns_only_new_slots(case: Case) -> None:
    step = Step.load(case.path)
    before = {name: cache.copy() for name, cache in step.caches.items()}
    _, _, _, *new = step.session.run(
        None, {"inputs_embeds": case.embed(tokens(2, 3)), "past_tokens": step.past, **step.caches}
    )
    assert {slots.shape[2] for slots in new} == {3}
    for name, cache in step.caches.items():
        np.testing.assert_array_equal(cache, before[name])


def test_names_and_axes(case: Case) -> None:
    session = Step.load(case.path).session
    inputs = {item.name: item.shape for item in session.get_inputs()}
    outputs = {item.name: item.shape for item in session.get_outputs()}
    layers = [f"cache_{kind}_{layer}" for layer in range(LAYERS) for kind in ("keys", "values")]
    assert list(inputs) == ["inputs_embeds", "past_tokens", *layers]
    assert inputs["inputs_embeds"] == ["batch", "tokens", HIDDEN]
    assert inputs["past_tokens"] == ["batch"]
    assert inputs["cache_keys_0"][::2] == ["batch", "capacity"]
    best = ["logits", "token_id", "log_prob"]
    assert list(outputs) == [*best, *(f"new_{kind}_{n}" for n in range(LAYERS) for kind in ("keys", "values"))]
    assert outputs["logits"] == ["batch", VOCAB]
    assert outputs["new_values_1"][::2] == ["batch", "tokens"]


def test_the_graph_has_the_head_but_no_embedding_and_only_standard_operators(case: Case) -> None:
    model = onnx.load(case.path)
    wide = [list(item.dims) for item in model.graph.initializer if VOCAB in item.dims]
    assert wide == [[HIDDEN, VOCAB]]
    assert {node.domain for node in model.graph.node} == {""}


def test_half_precision_is_refused_with_the_remedy() -> None:
    llm = random_llm(*KINDS["llama"]).half()
    with pytest.raises(ExportError, match=r"torch.float16, expected torch.float32; call llm.float\(\)"), llm_step(llm):
        pass


def test_attention_sinks_are_noticed() -> None:
    sizes = {**SIZES, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}
    llm = random_llm("GptOss", sizes).train()
    before = llm.config._attn_implementation
    with pytest.raises(ParityError, match="sinks"), llm_step(llm):
        pass
    assert llm.training, "the model is left as it was, also after an error"
    assert llm.config._attn_implementation == before


def test_attention_outside_the_interface_is_refused() -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4}
    with pytest.raises(ExportError, match="0 of 2 layers"), llm_step(random_llm("Bloom", sizes)):
        pass


def test_int8_weights_keep_the_choice_of_tokens(case: Case, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    quantize_file(case.path, target)
    embeds = case.embed(tokens(2, 9))
    exact, rounded = Step.load(case.path).run(embeds), Step.load(target).run(embeds)
    # 8 bits for weights and activations: 1 to 3 % of the logits' size was measured on these models.
    assert np.sqrt(np.mean((exact - rounded) ** 2) / np.mean(exact**2)) < 0.1
    assert target.stat().st_size < case.path.stat().st_size
