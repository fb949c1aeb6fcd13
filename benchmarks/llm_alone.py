"""The LLM of a checkpoint without speech, in PyTorch: what a cascade asks about a transcript."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer

from bestow_edge.core.prompts import Written, prompt_text
from bestow_edge.model.base import Speech
from bestow_edge.model.checkpoint import load_checkpoint


def llm_alone(checkpoint: Path, most_tokens: int) -> Callable[[Written], str]:
    """Return a function that answers a written prompt greedily with at most that many tokens."""
    model = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    silence = Speech(torch.zeros(1, 0, model.config.encoder.width), torch.tensor([0]))

    @torch.no_grad()
    def write(asked: Written) -> str:
        tokens = tokenizer.encode(prompt_text(asked, model.config.chat), add_special_tokens=False).ids
        prompt = len(tokens)
        while len(tokens) < prompt + most_tokens:
            ids = torch.tensor([tokens])
            best = int(model(ids, silence, torch.zeros_like(ids)).logits[0, -1].argmax())  # sees the null frame alone
            if best == model.config.llm["eos_token_id"]:
                break
            tokens.append(best)
        return str(tokenizer.decode(tokens[prompt:])).strip()

    return write
