"""What a session has to write, computed by PyTorch alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bestow_edge.core.features import log_mel
from bestow_edge.core.policy import Policy, visible_steps
from bestow_edge.runtime.model import Model

Floats = npt.NDArray[np.float32]
SPARE_TOKENS = 8  # what an answer may be longer than the speech has steps


@torch.no_grad()
def simulate(
    torch_model: Any, model: Model, samples: Floats, policy: Policy, lookahead: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Decode greedily with PyTorch alone: the whole utterance, the whole text and the policy's mask for every token.

    Returns:
        The tokens, and (visible steps, token) of every attempt.
    """
    mel = torch.from_numpy(log_mel(samples, model.config.features))
    speech = torch_model.encode(mel[None], torch.tensor([mel.shape[0]]), lookahead)
    source_steps = speech.steps.shape[1]
    prompt = list(model.manifest.prompts["de-de"])
    text, floors, at_least = list(prompt), [], 0
    attempts = []
    while len(text) - len(prompt) < source_steps + SPARE_TOKENS:
        mask = visible_steps(
            policy,
            prompt_tokens=len(prompt),
            text_tokens=len(text),
            source_steps=source_steps,
            at_least=np.array([*floors, at_least]),
        )
        logits = torch_model(torch.tensor([text]), speech, torch.from_numpy(mask)[None]).logits[0, -1]
        token, visible = int(logits.argmax()), int(mask[-1])
        attempts.append((visible, token))
        if token not in model.manifest.end_ids:
            text.append(token)
            floors.append(visible)
            at_least = visible
        elif visible == source_steps:
            break
        else:
            at_least = visible + policy.read_steps
    return text[len(prompt) :], attempts
