"""The whole BESTOW model in PyTorch: encoder -> adapter -> LLM, as training runs it over whole sequences.

Encoder and LLM are transformers classes built from their own configs; only the adapter is ours. It knows nothing of
data, policies or losses.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from bestow_edge.core.config import BIDIRECTIONAL_ENCODERS, CACHE_AWARE_ENCODERS, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.model.connectors.cross_adapter import Adapter

ENCODERS = (*CACHE_AWARE_ENCODERS, *BIDIRECTIONAL_ENCODERS)


class BestowModel(nn.Module):
    """Speech encoder, cross-attention adapter and decoder-only LLM (paper, Figure 1)."""

    def __init__(self, config: ModelConfig, encoder: PreTrainedModel, llm: PreTrainedModel) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.llm = llm
        self.adapter = Adapter(config.adapter, config.encoder["hidden_size"], config.llm["hidden_size"])

    @classmethod
    def from_config(cls, config: ModelConfig) -> BestowModel:
        """Build a model with fresh random weights.

        Raises:
            ConfigError: transformers has no such encoder or LLM.
        """
        encoder_type = config.encoder["model_type"]
        if encoder_type not in ENCODERS:
            raise ConfigError(f"encoder: model_type {encoder_type!r} is not one of {', '.join(ENCODERS)}")
        encoder_config = _transformers_config(config.encoder, "encoder")
        build: Any = AutoModel.from_config  # Any: transformers' auto classes have no types
        build_llm: Any = AutoModelForCausalLM.from_config
        encoder = build(encoder_config, attn_implementation="sdpa")
        llm = build_llm(_transformers_config(config.llm, "llm"))  # sdpa, unless the family needs eager (Gemma 2)
        return cls(config, encoder, llm)

    @property
    def streaming(self) -> bool:
        """The encoder is cache-aware and takes a look-ahead."""
        return self.config.encoder["model_type"] in CACHE_AWARE_ENCODERS

    def encode(self, mel: Tensor, frame_lens: Tensor, lookahead: int | None = None) -> tuple[Tensor, Tensor]:
        """Encode whole utterances.

        Args:
            mel: (batch, frames, mel_bins) float log-mel, zero behind each length.
            frame_lens: (batch,) int64 valid frames.
            lookahead: right attention context in steps, None for the config's default; streaming encoders only.

        Returns:
            (batch, steps, d_model) float and (batch,) int64 valid steps.
        """
        mask = torch.arange(mel.shape[1], device=mel.device) < frame_lens[:, None]
        options: dict[str, Any] = {}  # Any: arguments of two encoder classes
        if self.streaming:
            options["num_lookahead_tokens"] = (
                self.config.streaming.default_lookahead if lookahead is None else lookahead
            )
        out = self.encoder(mel, attention_mask=mask, output_attention_mask=True, **options)
        return out.last_hidden_state, out.attention_mask.sum(-1)

    def forward(self, token_ids: Tensor, speech: Tensor, visible_steps: Tensor) -> Tensor:
        """Return next-token logits of whole sequences, (batch, tokens, vocab) float; arguments as for `align`."""
        return self.align(token_ids, speech, visible_steps)[0]

    def align(self, token_ids: Tensor, speech: Tensor, visible_steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return next-token logits of whole sequences and where the adapter looked for them.

        Args:
            token_ids: (batch, tokens) int64, prompt and answer, padded on the right.
            speech: (batch, steps, d_model) float from `encode`.
            visible_steps: (batch, tokens) int64 from `bestow_edge.core.policy.visible_steps`.

        Returns:
            (batch, tokens, vocab) float, and (batch, tokens, steps + 1) float cross-attention, see `Adapter.align`.
        """
        embeddings = self.llm.get_input_embeddings()(token_ids)  # (batch, tokens, hidden)
        embeddings, alignment = self.adapter.align(embeddings, speech, visible_steps)
        return self.llm(inputs_embeds=embeddings, use_cache=False).logits, alignment


def _transformers_config(values: dict[str, Any], part: str) -> Any:  # Any: a PretrainedConfig subclass of many
    options = dict(values)
    try:
        return AutoConfig.for_model(options.pop("model_type"), **options)
    except (ValueError, StrictDataclassError) as error:
        raise ConfigError(f"{part}: transformers refuses this config: {error}") from error
