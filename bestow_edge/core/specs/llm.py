"""The contract of `llm_step`, the graph of a decoder-only LLM without its token embedding."""

from __future__ import annotations

from typing import Any

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
    TOKEN_ID,
    TOKENS,
    GraphSpec,
    TensorSpec,
)

GRAPH = "llm_step"


def llm_spec(llm: dict[str, Any]) -> GraphSpec:
    """`llm_step`: embeddings and KV caches -> the token that follows, keys and values of the new tokens.

    `token_id` is the most probable token and `log_prob` its natural logarithm: most steps of a session need nothing
    more, and `logits` are large. The first `past_tokens` slots of a cache buffer count. Keys and values of the new
    tokens come out, and the runtime stores them behind.

    Args:
        llm: the LLM's transformers config.
    """
    heads = llm.get("num_key_value_heads") or llm["num_attention_heads"]
    head_dim = llm.get("head_dim") or llm["hidden_size"] // llm["num_attention_heads"]
    inputs = [
        TensorSpec(INPUTS_EMBEDS, "float32", (BATCH, TOKENS, llm["hidden_size"])),
        TensorSpec(PAST_TOKENS, "int64", (BATCH,)),
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
