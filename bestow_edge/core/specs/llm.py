"""The contract of `llm_step`, the graph of a decoder-only LLM without its token embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bestow_edge.core.errors import BestowEdgeError, ExportError
from bestow_edge.core.tensors import (
    BATCH,
    CACHE,
    CAPACITY,
    INPUTS_EMBEDS,
    KINDS,
    LOG_PROB,
    LOGITS,
    NEW,
    PAST_TOKENS,
    SCORED,
    SCORED_TOKENS,
    TOKEN_ID,
    TOKEN_IDS,
    TOKENS,
    GraphSpec,
    TensorSpec,
)

GRAPH = "llm_step"
EMBEDDING = "token_embedding"
MUTUAL_TOKENS = "mutual_tokens"  # how many of the new tokens, the first ones, see each other in both directions


def embedding_spec(llm: dict[str, Any]) -> GraphSpec:
    """Return the contract of `token_embedding`: token ids in, embeddings of the LLM out."""
    return GraphSpec(
        name=EMBEDDING,
        part="connector",
        inputs=(TensorSpec(TOKEN_IDS, "int64", (BATCH, TOKENS)),),
        outputs=(TensorSpec(INPUTS_EMBEDS, "float32", (BATCH, TOKENS, llm["hidden_size"])),),
    )


def check_exportable(llm: dict[str, Any], where: str, error_type: type[BestowEdgeError] = ExportError) -> None:
    """Refuse an LLM that no graph of this project can compute.

    Args:
        llm: its transformers config.
        where: name of the source, for messages.
        error_type: of the error.

    Raises:
        BestowEdgeError: of this type; one sentence names the reason and the remedy.
    """
    kind, instead = llm.get("model_type", "LLM"), "choose an LLM with plain attention, such as Llama, Qwen or Gemma"
    if llm.get("kv_lora_rank"):
        raise error_type(f"{where}: {kind} has latent attention (kv_lora_rank), which export cannot compute; {instead}")
    for types in _rope_types(llm):
        if types in {"dynamic", "longrope"} and not _short(llm):
            got = f"{kind} has rotary embeddings of type {types}, whose frequencies depend on the length of the text"
            raise error_type(f"{where}: {got}; export cannot compute them: choose another rope_type or another LLM")


def _rope_types(llm: dict[str, Any]) -> list[object]:
    """Return the types of rotary embeddings; some LLMs have one for each kind of layer."""
    found = []
    for name in ("rope_parameters", "rope_scaling"):
        fields = llm.get(name)
        if isinstance(fields, dict):
            found += [
                part.get("rope_type", part.get("type")) for part in (fields, *fields.values()) if isinstance(part, dict)
            ]
    return found


def _short(llm: dict[str, Any]) -> bool:
    """Return whether the context is so short that frequencies never change."""
    fields = llm.get("rope_parameters") or llm.get("rope_scaling") or {}
    original = llm.get("original_max_position_embeddings") or fields.get("original_max_position_embeddings")
    most = llm.get("max_position_embeddings")
    return isinstance(original, int) and isinstance(most, int) and most <= original


def llm_spec(llm: dict[str, Any], *, mutual: bool = False) -> GraphSpec:
    """`llm_step`: embeddings and KV caches -> the token that follows, keys and values of the new tokens.

    `token_id` is the most probable token and `log_prob` its natural logarithm: most steps of a session need nothing
    more, and `logits` are large. The first `past_tokens` slots of a cache buffer count. Keys and values of the new
    tokens come out, and the runtime stores them behind.

    Args:
        llm: the LLM's transformers config.
        mutual: whether the first new tokens of a row may see each other in both directions, `mutual_tokens` of them.
    """
    heads = llm.get("num_key_value_heads") or llm["num_attention_heads"]
    head_dim = llm.get("head_dim") or llm["hidden_size"] // llm["num_attention_heads"]
    inputs = [
        TensorSpec(INPUTS_EMBEDS, "float32", (BATCH, TOKENS, llm["hidden_size"])),
        TensorSpec(PAST_TOKENS, "int64", (BATCH,)),
        *((TensorSpec(MUTUAL_TOKENS, "int64", (BATCH,)),) if mutual else ()),
    ]
    outputs = [
        TensorSpec(LOGITS, "float32", (BATCH, llm["vocab_size"])),
        TensorSpec(TOKEN_ID, "int64", (BATCH,)),
        TensorSpec(LOG_PROB, "float32", (BATCH,)),
    ]
    for layer in range(llm["num_hidden_layers"]):
        for kind in KINDS:
            inputs.append(TensorSpec(f"{CACHE}{kind}_{layer}", "float32", (BATCH, heads, CAPACITY, head_dim)))
            outputs.append(TensorSpec(f"{NEW}{kind}_{layer}", "float32", (BATCH, heads, TOKENS, head_dim)))
    return GraphSpec(name=GRAPH, part="llm", inputs=tuple(inputs), outputs=tuple(outputs))


def scoring_several(spec: GraphSpec) -> GraphSpec:
    """Return the contract of an `llm_step` that scores several new tokens of each row instead of the last one.

    `scored_tokens` are their places among the new tokens, the same in each row. Such a graph computes the same bits for
    a token whether those before it are in the cache or in the same run, if runs have an even number of tokens.
    """
    scored = TensorSpec(SCORED_TOKENS, "int64", (SCORED,))
    after = spec.input_names.index(PAST_TOKENS) + 1
    outputs = (
        replace(tensor, axes=(BATCH, SCORED, *tensor.axes[1:]))
        if tensor.name in {LOGITS, TOKEN_ID, LOG_PROB}
        else tensor
        for tensor in spec.outputs
    )
    return replace(spec, inputs=(*spec.inputs[:after], scored, *spec.inputs[after:]), outputs=tuple(outputs))
