"""Losses: sums over what they count, the same however batches are spread; batches of text; what moves in each stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bestow_edge.model.base import SpeechModel
from bestow_edge.training.data.batches import Batch
from bestow_edge.training.data.examples import IGNORED, NULL_FRAME
from bestow_edge.training.learning.objective import PARTS, Objective, count_items
from bestow_edge.training.learning.run import Run
from bestow_edge.training.learning.weights import add_lora
from bestow_edge.training.recipe.stages import LoraRecipe, StageRecipe

ALL_LOSSES = StageRecipe(
    name="all",
    steps=1,
    batch_s=4,
    learning_rate=0.1,
    ctc_weight=0.5,
    alignment_weight=0.5,
    count_weight=0.25,
    attention_weight=0.2,
    reading_weight=0.3,
)


def objective_of(run: Run, stage: StageRecipe) -> Objective:
    torch.manual_seed(0)
    objective = Objective(
        SpeechModel.from_config(run.config), vocab_size=run.tokenizer.get_vocab_size(), label_smoothing=0.1
    )
    if stage.lora:
        add_lora(objective.model.llm, stage.lora)
    objective.prepare(stage)
    return objective.train()


def batch_of(run: Run, stage: int, index: int) -> Batch:
    return run.dataset(run.recipe.stages[stage], dev=False)[index]


def text_batch(run: Run) -> Batch:
    """Two texts without speech, in the agreed form: no frames, nothing visible."""
    ids = torch.tensor([[1, 10, 11, 12, 2], [1, 13, 14, 2, 0]])
    targets = torch.tensor([[10, 11, 12, 2, IGNORED], [13, 14, 2, IGNORED, IGNORED]])
    return {
        "mel": torch.zeros(2, 0, run.config.features.num_mel_bins),
        "frame_lens": torch.zeros(2, dtype=torch.int64),
        "token_ids": ids,
        "visible_steps": torch.zeros_like(ids),
        "targets": targets,
        "transcript_ids": torch.full((2, 0), -1),
        "step_labels": torch.full((2, 0), IGNORED),
        "step_counts": torch.full((2, 0), IGNORED),
        "word_steps": torch.full((2, 5, 2), IGNORED),
        "lookahead": torch.tensor(13),
    }


def test_the_loss_reaches_every_part(tiny_run: Run) -> None:
    objective = objective_of(tiny_run, ALL_LOSSES)
    batch = batch_of(tiny_run, 1, 1)
    items = count_items(batch)
    outputs = objective(**batch, items=items)
    parts = outputs["sums"] / items
    weighted = sum(weight * part for weight, part in zip(objective.loss_weights, parts, strict=True))
    torch.testing.assert_close(outputs["loss"].detach(), weighted)
    assert torch.isfinite(parts).all()
    assert all(part > 0 for name, part in zip(PARTS, parts, strict=True) if name != "right")
    assert 0 <= float(parts[PARTS.index("right")]) <= 1
    outputs["loss"].backward()
    model = objective.model
    for part in (model.encoder, model.connector, model.llm, objective.ctc_head, objective.count_head):
        gradients = [weight.grad for weight in part.parameters()]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_the_attention_loss_is_the_attention_paid_elsewhere(tiny_run: Run) -> None:
    """Three positions: one whose word has steps 1 and 2, one that writes nothing, one inside the prompt."""
    attention = torch.tensor([[[0.1, 0.3, 0.2, 0.4], [0.1, 0.1, 0.3, 0.5], [0.25, 0.25, 0.25, 0.25]]])
    words = torch.tensor([[[1, 3], [NULL_FRAME, NULL_FRAME], [IGNORED, IGNORED]]])
    assert float(tiny_run.objective._attention(attention, words)) == pytest.approx(-2 * np.log(0.5))


def test_batches_that_are_spread_add_up(tiny_run: Run) -> None:
    """Rows of one batch, each alone, divided by the count of all: gradients are those of the batch."""
    encoder = tiny_run.config.encoder
    off = dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0)
    quiet = replace(tiny_run.config, encoder=replace(encoder, network=encoder.network | off))
    torch.manual_seed(0)
    objective = Objective(SpeechModel.from_config(quiet), vocab_size=280, label_smoothing=0.1)
    objective.prepare(ALL_LOSSES)
    objective.train()
    batch = batch_of(tiny_run, 1, 1)
    items = count_items(batch)
    whole = objective(**batch, items=items)["loss"]
    whole.backward()
    wanted = [weight.grad.clone() for weight in objective.parameters()]
    objective.zero_grad()
    total = 0.0
    for row in range(batch["mel"].shape[0]):
        frames = int(batch["frame_lens"][row])
        one = {name: tensor[row : row + 1] for name, tensor in batch.items() if name != "lookahead"}
        steps = int((batch["step_counts"][row] != IGNORED).sum())
        one |= {"mel": one["mel"][:, :frames], "lookahead": batch["lookahead"]}
        one |= {name: one[name][:, :steps] for name in ("step_labels", "step_counts")}
        loss = objective(**one, items=items)["loss"]
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    for gradient, weight in zip(wanted, objective.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=2e-5, rtol=1e-3)


def test_a_batch_of_text_trains_adapter_and_llm(tiny_run: Run) -> None:
    objective = objective_of(tiny_run, ALL_LOSSES)
    batch = text_batch(tiny_run)
    items = count_items(batch)
    outputs = objective(**batch, items=items)
    outputs["loss"].backward()
    assert items[0] == 7
    assert outputs["loss"].item() == pytest.approx(outputs["sums"][0].item() / 7)
    for weight in objective.parameters():  # several processes wait for all of them
        assert weight.grad is not None
    assert not any(weight.grad.any() for weight in objective.model.encoder.parameters())
    assert any(weight.grad.any() for weight in objective.model.connector.parameters())
    assert objective.model.encoder.training


def test_text_pretraining_runs_the_llm_alone(tiny_run: Run) -> None:
    objective = objective_of(tiny_run, StageRecipe(name="t", steps=1, batch_s=1, learning_rate=1, objective="text"))
    batch = text_batch(tiny_run)
    outputs = objective(**batch, items=count_items(batch))
    outputs["loss"].backward()
    logits = objective.model.llm(input_ids=batch["token_ids"]).logits.log_softmax(-1)
    targets = batch["targets"]
    plain = -logits[targets != IGNORED].gather(1, targets[targets != IGNORED][:, None]).mean()
    smooth = -logits[targets != IGNORED].mean()
    assert outputs["loss"].item() == pytest.approx((0.9 * plain + 0.1 * smooth).item(), rel=1e-5)
    assert {name.split(".")[1] for name, weight in objective.named_parameters() if weight.grad is not None} == {"llm"}


def test_ctc_runs_the_encoder_alone(tiny_run: Run) -> None:
    stage = StageRecipe(name="c", steps=1, batch_s=1, learning_rate=1, objective="ctc", ctc_weight=1.0)
    objective = objective_of(tiny_run, stage)
    batch = batch_of(tiny_run, 1, 1)
    outputs = objective(**batch, items=count_items(batch))
    outputs["loss"].backward()
    touched = {name.partition(".")[0] for name, weight in objective.named_parameters() if weight.grad is not None}
    assert touched == {"model", "ctc_head"}
    assert not [
        n for n, w in objective.named_parameters() if w.requires_grad and n.startswith(("model.llm", "model.ad"))
    ]
    assert float(outputs["sums"][0]) == 0


READING = StageRecipe(name="r", steps=1, batch_s=1, learning_rate=1, objective="reading", attention_weight=0.2)


def test_reading_compares_what_the_adapter_adds_with_the_tokens(tiny_run: Run) -> None:
    """Its loss is that of the next token by the adapter alone; the LLM does not run and does not move."""
    objective = objective_of(tiny_run, READING)
    objective.model.llm.model.forward = None  # as a method it would be called
    batch = batch_of(tiny_run, 1, 1)
    objective.eval()
    outputs = objective(**batch, items=count_items(batch))
    outputs["loss"].backward()
    model, targets = objective.model, batch["targets"]
    words = model.llm.get_input_embeddings()(batch["token_ids"])
    speech = objective.encode(batch["mel"], batch["frame_lens"], int(batch["lookahead"]))
    added = model.connector.align(batch["token_ids"], words, speech.steps, batch["visible_steps"])[0]
    heard = (added @ model.llm.get_input_embeddings().weight.T)[targets != IGNORED].log_softmax(-1)
    plain, smooth = -heard.gather(1, targets[targets != IGNORED][:, None]).mean(), -heard.mean()
    token_loss = outputs["sums"][0] / count_items(batch)[0]
    assert float(token_loss) == pytest.approx((0.9 * plain + 0.1 * smooth).item(), rel=1e-4)
    assert outputs["sums"][PARTS.index("reading_loss")] == 0
    moved = {name.split(".")[1] for name, weight in objective.named_parameters() if weight.grad is not None}
    assert moved == {"encoder", "connector"}


def test_reading_begins_from_a_silent_adapter(tiny_run: Run) -> None:
    objective = objective_of(tiny_run, replace(READING, trains=("connector",)))
    objective.model.connector.start_silent()
    batch = batch_of(tiny_run, 1, 1)
    objective(**batch, items=count_items(batch))["loss"].backward()
    assert objective.model.connector.text_out.weight.grad.abs().max() > 0


def test_texts_without_speech_have_nothing_to_read(tiny_run: Run) -> None:
    objective = objective_of(tiny_run, replace(ALL_LOSSES, reading_weight=5.0))
    batch = text_batch(tiny_run)
    items = count_items(batch)
    place = PARTS.index("reading_loss")
    assert items[place] == 0
    assert objective(**batch, items=items)["sums"][place] == 0


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({}, {"encoder", "connector", "llm"}),
        ({"trains": ("encoder", "connector")}, {"encoder", "connector"}),
        ({"trains": ("connector", "llm")}, {"connector", "llm"}),
        ({"trains": ("connector",)}, {"connector"}),
        ({"lora": LoraRecipe(rank=2)}, {"encoder", "connector", "lora"}),
        ({"lora": LoraRecipe(rank=2), "trains": ("connector",)}, {"connector", "lora"}),
    ],
)
def test_what_moves(tiny_run: Run, changes: dict[str, object], moving: set[str]) -> None:
    plain = StageRecipe(name="x", steps=1, batch_s=1, learning_rate=1)
    objective = objective_of(tiny_run, replace(plain, **changes))  # type: ignore[arg-type]
    names = [name for name, weight in objective.named_parameters() if weight.requires_grad]
    assert {"lora" if ".lora_" in name else name.split(".")[1] for name in names} == moving
    assert objective.model.encoder.training == ("encoder" in moving)
    batch = batch_of(tiny_run, 1, 1)
    objective(**batch, items=count_items(batch))["loss"].backward()
    assert all(weight.grad is not None for weight in objective.parameters() if weight.requires_grad)


def test_activation_checkpointing_changes_no_gradient(tiny_run: Run) -> None:
    gradients = []
    for checkpointing in (False, True):
        objective = objective_of(tiny_run, replace(ALL_LOSSES, activation_checkpointing=checkpointing))
        batch = batch_of(tiny_run, 1, 1)
        torch.manual_seed(1)
        objective(**batch, items=count_items(batch))["loss"].backward()
        gradients.append([weight.grad for weight in objective.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
