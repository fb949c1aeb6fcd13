"""LLMs small enough to be made on the spot."""

from typing import Any

import pytest
from conftest import complete


@pytest.fixture(scope="session")
def tiny_llm_config() -> dict[str, Any]:
    """A transformers config of some hundred weights."""
    pytest.importorskip("torch")
    return complete(
        "llama", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
