"""A tiny model that interleaves speech and text, as checkpoint and bundle, and its sequences in PyTorch alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.config import ModelConfig, PolicyConfig
from bestow_edge.core.features import log_mel
from bestow_edge.core.policy import EveryStep
from bestow_edge.core.specs.interleave import SPEECH, InterleaveConfig, delay_token
from bestow_edge.runtime.model import Model

BLANKS = (2, *range(3, 300, 3))  # a third of all tokens: random weights then wait as often as they write
Floats = npt.NDArray[np.float32]


def interleaved_config(config: ModelConfig, **fields: Any) -> ModelConfig:
    """Return a config with connector `interleave` in place of another one; turns have two steps."""
    connector = InterleaveConfig(**{"delays": (1, 4), "hidden": 40, "window": 192, **fields})
    l, most = (1, 1) if connector.form == "additive" else (2, 8)  # noqa: E741 - the paper's letter
    return replace(config, connector=connector, policy=PolicyConfig(name="every-step", l=l, delay=4, most_tokens=most))


def additive_config(config: ModelConfig, **fields: Any) -> ModelConfig:
    """Return the same in the additive form."""
    return interleaved_config(config, form="additive", **fields)


def with_blanks(bundle: Path, **fields: Any) -> Model:
    """Load a bundle with many end tokens, and with other fields of its connector."""
    manifest = read_manifest(bundle)
    connector = replace(manifest.model.connector, **fields)
    manifest = replace(manifest, end_ids=BLANKS, model=replace(manifest.model, connector=connector))
    return Model(bundle, manifest, device="cpu", threads=1)


@torch.no_grad()
def simulate(
    torch_model: Any, model: Model, samples: Floats, policy: EveryStep, lookahead: int, pair: str = "en-en"
) -> list[tuple[int, int, float]]:
    """Return visible steps, token and log-probability of every decision of a stream, by whole forward passes."""
    speech = _encoded(torch_model, model, samples, lookahead)
    last, ends = speech.steps.shape[1] + 1, model.manifest.end_ids
    ids = [*model.manifest.prompts[pair], delay_token(model.config, policy.delay)]
    visible, decisions, seen = [0] * len(ids), [], 0
    while seen < last:
        end = min(seen + policy.l, last)
        for step in range(seen + 1, end + 1):
            ids.append(SPEECH if step < last else ends[0])
            visible.append(step)
        seen = end
        for written in range(1000):
            logits = torch_model(torch.tensor([ids]), speech, torch.tensor([visible])).logits[0, -1]
            log_probs = logits.log_softmax(-1)
            token = int((log_probs + policy.end_bias * _marks(ends, len(log_probs)) * (seen < last)).argmax())
            decisions.append((seen, token, float(log_probs[token])))
            if token in ends:
                break
            ids.append(token)
            visible.append(seen)
            if written + 1 == policy.most_tokens and seen < last:
                break
    return decisions


@torch.no_grad()
def simulate_additive(
    torch_model: Any, model: Model, samples: Floats, policy: EveryStep, lookahead: int, pair: str = "en-en"
) -> list[tuple[int, int, float]]:
    """Return the same for the additive form: embeddings of tokens and steps are added here, without the connector."""
    speech = _encoded(torch_model, model, samples, lookahead)
    steps, ends = torch_model.connector.project(speech.steps)[0], model.manifest.end_ids
    words, delays = torch_model.llm.get_input_embeddings(), torch_model.connector.delays.weight
    delay = delays[model.config.connector.delays.index(policy.delay)]
    embeds = [*words(torch.tensor(model.manifest.prompts[pair])), delay]
    decisions, newest, last = [], ends[0], len(steps) + 1
    for seen in range(1, last + 1000):
        embeds.append(words(torch.tensor(newest)) + (steps[seen - 1] if seen < last else 0))
        log_probs = torch_model.llm(inputs_embeds=torch.stack(embeds)[None]).logits[0, -1].log_softmax(-1)
        newest = int((log_probs + policy.end_bias * _marks(ends, len(log_probs)) * (seen < last)).argmax())
        decisions.append((min(seen, last), newest, float(log_probs[newest])))
        if newest in ends:
            if seen >= last:
                break
            newest = ends[0]
    return decisions


def _encoded(torch_model: Any, model: Model, samples: Floats, lookahead: int) -> Any:
    mel = torch.from_numpy(log_mel(samples, model.config.features))
    return torch_model.encode(mel[None], torch.tensor([mel.shape[0]]), lookahead)


def _marks(ids: tuple[int, ...], size: int) -> torch.Tensor:
    marks = torch.zeros(size)
    marks[list(ids)] = 1
    return marks
