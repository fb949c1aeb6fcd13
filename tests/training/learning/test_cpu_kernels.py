"""The faster ways for CPUs compute what transformers' own compute."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.models.nemotron_asr_streaming import modeling_nemotron_asr_streaming as theirs

from bestow_edge.model.base import SpeechModel
from bestow_edge.training.learning.cpu_kernels import relative_shift, use_fast_kernels
from bestow_edge.training.learning.run import Run
from bestow_edge.training.recipe.recipe import Recipe

ATTENTION = theirs.NemotronAsrStreamingEncoderAttention


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 7), (2, 2), (5, 5), (4, 9)])
def test_the_shift_is_transformers(queries: int, keys: int) -> None:
    scores = torch.randn(2, 3, queries, queries + keys - 1)
    wanted = ATTENTION._rel_shift(None, scores)[..., :keys]
    assert torch.equal(relative_shift(scores)[..., :keys], wanted)


def test_outputs_and_gradients_stay(source_recipe: Callable[..., Recipe], sentences: Path, tmp_path: Path) -> None:
    source = {"name": "asr", "manifests": ["train.jsonl"], "tasks": ["transcribe"]}
    run = Run(source_recipe(sources=[source]), sentences, tmp_path / "run", weights=False)
    torch.manual_seed(0)
    slow = SpeechModel.from_config(run.config).eval()
    fast = copy.deepcopy(slow)
    use_fast_kernels(fast)
    batch = run.dataset(run.recipe.stages[0], dev=False)[0]
    found = []
    for model in (slow, fast):
        speech = model.encode(batch["mel"], batch["frame_lens"], 6)
        model(batch["token_ids"], speech, batch["visible_steps"]).logits.square().mean().backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found.append([speech.steps.detach(), *gradients])
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in zip(*found, strict=True))
