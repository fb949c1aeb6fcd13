"""Training of connector `interleave`: a whole run on tones, the loss of BLANK, and the texts written meanwhile."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interleaved import additive_config, interleaved_config

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.features import log_mel
from bestow_edge.core.policy import EveryStep
from bestow_edge.core.specs.interleave import SPEECH, delay_token
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.learning.decoding import Utterance, utterances_of, write_down
from bestow_edge.training.learning.objective import Objective, count_items
from bestow_edge.training.learning.run import Run
from bestow_edge.training.learning.trainer import train
from bestow_edge.training.recipe.recipe import Recipe

END = 2
WORDS = {"one", "two", "three", "eins", "zwei", "drei"}


@pytest.fixture
def recipe(recipe_values: dict[str, Any]) -> Recipe:
    recipe_values["model"] |= {
        "connector": {"kind": "interleave", "delays": [1, 4], "window": 128},
        "policy": {"name": "every-step", "l": 2, "delay": 4},
    }
    (offline, _) = recipe_values["stages"]
    recipe_values["stages"] = [offline | {"blank_weight": 0.25}]
    return decode(Recipe, recipe_values, "recipe")


def test_a_run(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    """The loss falls, hypotheses are scored, and the checkpoint has the delays."""
    train(recipe, corpus, tmp_path / "out")
    model = load_checkpoint(tmp_path / "out" / "checkpoint")
    assert model.connector.delays.weight.shape == (2, 32)
    records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [record["eval_loss"] for record in records if "eval_loss" in record]
    assert losses[-1] < losses[0]
    assert any("eval_wer" in record for record in records)


def test_a_run_of_the_additive_form(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    """The loss falls and hypotheses are scored; a batch has a position for each step, the mark and the rest."""
    assert recipe.model is not None
    connector = replace(recipe.model.connector, form="additive")
    policy = replace(recipe.model.policy, l=1, most_tokens=1)
    recipe = replace(recipe, model=replace(recipe.model, connector=connector, policy=policy))
    train(recipe, corpus, tmp_path / "out")
    assert load_checkpoint(tmp_path / "out" / "checkpoint").config.connector == connector
    records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [record["eval_loss"] for record in records if "eval_loss" in record]
    assert losses[-1] < losses[0]
    assert any("eval_wer" in record for record in records)
    run = Run(recipe, corpus, tmp_path / "again")
    batch = run.dataset(recipe.stages[0], dev=False)[0]
    steps = [run.config.encoder.num_steps(int(frames)) for frames in batch["frame_lens"]]
    assert not (batch["token_ids"] == SPEECH).any()
    assert batch["visible_steps"].amax(1).tolist() == [count + 1 for count in steps]
    for item in utterances_of(batch, continuous=True):
        assert set(run.tokenizer.decode(list(item.reference)).split()) <= WORDS
        assert list(item.prompt) in [run.maker(recipe.stages[0]).prompts[pair] for pair in run.config.pairs]


def test_batches_hold_turns(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    run = Run(recipe, corpus, tmp_path / "out")
    (stage,) = recipe.stages
    batch = run.dataset(stage, dev=False)[0]
    steps = [run.config.encoder.num_steps(int(frames)) for frames in batch["frame_lens"]]
    assert (batch["token_ids"] == SPEECH).sum(1).tolist() == steps
    assert batch["visible_steps"].amax(1).tolist() == [count + 1 for count in steps]
    delays = {delay_token(run.config, delay) for delay in (1, 4)}
    drawn = {token for token in batch["token_ids"].flatten().tolist() if token in delays}
    assert drawn
    for item in utterances_of(batch, continuous=True):
        assert set(run.tokenizer.decode(list(item.reference)).split()) <= WORDS
        assert list(item.prompt) in [run.maker(stage).prompts[pair] for pair in run.config.pairs]


def test_the_weight_of_blank(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    """Loss and items are those of all targets, with a quarter for each BLANK."""
    run = Run(recipe, corpus, tmp_path / "out")
    (stage,) = recipe.stages
    objective = run.objective.eval()
    objective.prepare(stage)
    batch, end = run.dataset(stage, dev=True)[0], run.end_id
    targets = batch["targets"]
    weights = objective.target_weights(targets)
    items = count_items(batch, weights)
    blanks, all_of_them = int((targets == end).sum()), int((targets != IGNORED).sum())
    assert float(items[0]) == all_of_them - 0.75 * blanks
    sums = objective(**batch, items=items)["sums"]
    speech = objective.encode(batch["mel"], batch["frame_lens"], int(batch["lookahead"]))
    log_probs = objective.logits(batch["token_ids"], speech, batch["visible_steps"]).log_softmax(-1)
    own = -log_probs.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    want = own[(targets != IGNORED) & (targets != end)].sum() + 0.25 * own[targets == end].sum()
    torch.testing.assert_close(sums[0], want.detach(), rtol=1e-4, atol=1e-3)


def test_recipes_that_do_not_fit(recipe_values: dict[str, Any], recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    (stage,) = recipe.stages
    with pytest.raises(
        ConfigError, match="stage offline: connector interleave has no use for streaming, pauses; remove"
    ):
        Run(replace(recipe, stages=(replace(stage, streaming=0.5, pauses=0.1),)), corpus, tmp_path, weights=False)
    (source,) = recipe.data.sources
    data = replace(recipe.data, sources=(replace(source, join=None),))
    plain = replace(recipe, data=data, stages=(replace(stage, alignment_weight=0.0, batch_s=60.0),))
    with pytest.raises(
        ConfigError, match="source words: connector interleave learns from word times when to write; set"
    ):
        Run(plain, corpus, tmp_path, weights=False)
    recipe_values["model"]["policy"] = {}
    with pytest.raises(ConfigError, match="policy: name wait-k; connector interleave decides itself when it writes"):
        Run(decode(Recipe, recipe_values, "recipe"), corpus, tmp_path, weights=False)


FORMS = {"turns": (interleaved_config, EveryStep(l=2, delay=1, most_tokens=2)),
         "additive": (additive_config, EveryStep(l=1, delay=1, most_tokens=1))}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_rows_together_are_the_live_loop(
    form: str, make_model: Callable[..., Any], model_config: Callable[..., ModelConfig], speech: np.ndarray
) -> None:
    make, policy = FORMS[form]
    config = make(model_config())
    model = make_model(config, seed=5)
    model.llm.lm_head.weight[END] += 0.3  # so that it waits and ends
    objective = Objective(model, vocab_size=300, label_smoothing=0.0).eval()
    items = [
        Utterance(torch.from_numpy(log_mel(speech[first : first + 16_000], config.features)), (1, 9, 20), ())
        for first in (0, 30_000)
    ]
    got = write_down(objective, items, policy, lookahead=13, end_id=END, device=torch.device("cpu"))
    alone = {"turns": live, "additive": live_added}[form]
    assert got == [alone(model, item, policy) for item in items]
    assert any(got)


def live(model: Any, item: Utterance, policy: EveryStep) -> list[int]:
    """The live loop of one utterance, written out plainly."""
    speech = model.encode(item.mel[None], torch.tensor([item.mel.shape[0]]), 13)
    last, text = int(speech.lens) + 1, []
    ids = [*item.prompt, delay_token(model.config, policy.delay)]
    visible = [0] * len(ids)
    for begin in range(0, last, policy.l):
        end = min(begin + policy.l, last)
        ids += [SPEECH if step < last else END for step in range(begin + 1, end + 1)]
        visible += range(begin + 1, end + 1)
        written = 0
        while len(text) < 256:
            token = int(model(torch.tensor([ids]), speech, torch.tensor([visible])).logits[0, -1].argmax())
            if token == END:
                break
            written += 1
            text.append(token)
            ids.append(token)
            visible.append(end)
            if written == policy.most_tokens and end < last:
                break
    return text


def live_added(model: Any, item: Utterance, policy: EveryStep) -> list[int]:
    """The same for the additive form."""
    speech = model.encode(item.mel[None], torch.tensor([item.mel.shape[0]]), 13)
    last, text = int(speech.lens) + 1, []
    ids = [*item.prompt, delay_token(model.config, policy.delay)]
    visible, newest = [0] * len(ids), END
    while len(text) < 256:
        ids.append(newest)
        visible.append(min(visible[-1] + 1, last))
        newest = int(model(torch.tensor([ids]), speech, torch.tensor([visible])).logits[0, -1].argmax())
        if newest != END:
            text.append(newest)
        elif visible[-1] == last:
            break
    return text
