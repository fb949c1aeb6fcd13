"""Weights on their way to files: LoRA merged as peft does it, tied weights, means, what does not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.training.learning.run import Run
from bestow_edge.training.learning.weights import (
    add_lora,
    load_state,
    mean_state,
    merged,
    read_state,
    save_state,
    split,
)
from bestow_edge.training.recipe.stages import LoraRecipe


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's use of transformers
def test_lora_is_merged_as_peft_does_it(tiny_run: Run) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraRecipe(rank=3, alpha=7.0, targets=("q_proj", "down_proj"))
    objective, other = tiny_run.new_objective(), tiny_run.new_objective()
    plain = {name: weight.clone() for name, weight in objective.state_dict().items()}
    other.load_state_dict(plain)
    add_lora(objective.model.llm, lora)
    theirs = get_peft_model(other.model.llm, LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for (_, own), (_, peer) in zip(
        *[
            [item for item in module.named_parameters() if ".lora_" in item[0]]
            for module in (objective.model.llm, theirs)
        ],
        strict=True,
    ):
        own.data.normal_()
        peer.data.copy_(own.data)
    got, want = merged(objective.state_dict(), lora), theirs.merge_and_unload().state_dict()
    assert got.keys() == plain.keys()
    changed = [name for name in plain if not torch.equal(got[name], plain[name])]
    assert len(changed) == 2
    for name, weight in want.items():
        torch.testing.assert_close(got[f"model.llm.{name}"], weight)


def test_targets_that_are_not_there(tiny_run: Run) -> None:
    with pytest.raises(ConfigError, match="lora: targets c_attn"):
        add_lora(tiny_run.new_objective().model.llm, LoraRecipe(targets=("c_attn",)))


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    save_state(module.state_dict(), tmp_path / "w.safetensors")
    assert len(load_file(tmp_path / "w.safetensors")) == 1
    load_state(other, read_state(tmp_path / "w.safetensors"), "w")
    assert torch.equal(other.head.weight, module.head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="w: weights do not fit: missing bias; surplus none"):
        load_state(module, {"weight": torch.zeros(2, 2)}, "w")
    with pytest.raises(CheckpointError, match="surplus other"):
        load_state(module, {**module.state_dict(), "other": torch.zeros(1)}, "w")
    with pytest.raises(CheckpointError, match=r"w: weights do not load: (.|\n)*size mismatch"):
        load_state(module, {**module.state_dict(), "bias": torch.zeros(3)}, "w")
    (tmp_path / "w").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="weights do not load"):
        read_state(tmp_path / "w")


def test_the_mean_over_saves(tmp_path: Path) -> None:
    for step in range(3):
        save_state({"a": torch.full((2,), float(step)), "n": torch.tensor(step)}, tmp_path / f"{step}")
    mean = mean_state([tmp_path / "1", tmp_path / "2"])
    assert torch.equal(mean["a"], torch.full((2,), 1.5))
    assert int(mean["n"]) == 2


def test_heads_are_apart_from_the_model(tiny_run: Run) -> None:
    model, heads = split(tiny_run.objective.state_dict())
    assert model.keys() == tiny_run.objective.model.state_dict().keys()
    assert heads.keys() == {f"{head}.{kind}" for head in ("ctc_head", "count_head") for kind in ("weight", "bias")}
