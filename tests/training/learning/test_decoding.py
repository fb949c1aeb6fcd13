"""What is written during training is what the runtime would write, scores are jiwer's and sacrebleu's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.features import log_mel
from bestow_edge.core.policy import WaitK
from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.learning.decoding import Utterance, scores, utterances_of, write_down
from bestow_edge.training.learning.objective import Objective
from bestow_edge.training.learning.run import Run

END = 2


def reference(objective: Objective, item: Utterance, policy: WaitK, lookahead: int) -> list[int]:
    """The live loop of one utterance, written out plainly."""
    model = objective.model
    speech = model.encode(item.mel[None], torch.tensor([item.mel.shape[0]]), lookahead)
    steps, tokens = int(speech.lens), list(item.prompt)
    visible = [0] * (len(item.prompt) - 1)
    heard = 0
    while len(tokens) - len(item.prompt) < min(steps + 8, 256):
        heard = min(max(heard, policy.steps_needed(len(tokens) - len(item.prompt))), steps)
        outputs = model(torch.tensor([tokens]), speech, torch.tensor([[*visible, heard]]))
        token = int(outputs.logits[0, -1].argmax())
        if token == END and heard == steps:
            break
        if token == END:
            heard = min(heard + policy.l, steps)
            continue
        tokens.append(token)
        visible.append(heard)
    return tokens[len(item.prompt) :]


@torch.no_grad()
def test_rows_together_are_rows_alone(
    make_model: Callable[..., Any], model_config: Callable[..., ModelConfig], speech: np.ndarray
) -> None:
    config = model_config()
    model = make_model(config, seed=5)
    model.llm.lm_head.weight[END] += 0.3  # so that it pauses and ends
    objective = Objective(model, vocab_size=300, label_smoothing=0.0).eval()
    items = [
        Utterance(
            torch.from_numpy(log_mel(speech[first : first + length], config.features)), (1, 9, 20 + first % 7), ()
        )
        for first, length in ((0, 40_000), (8_000, 25_000), (30_000, 60_000))
    ]
    for policy, lookahead in ((WaitK(1, 4), 13), (WaitK(3, 2), 1)):
        got = write_down(objective, items, policy, lookahead=lookahead, end_id=END, device=torch.device("cpu"))
        assert got == [reference(objective, item, policy, lookahead) for item in items]
        assert len({tuple(answer) for answer in got}) > 1


def test_a_batch_taken_apart(tiny_run: Run) -> None:
    batch = tiny_run.dataset(tiny_run.recipe.stages[0], dev=True)[0]
    items = utterances_of(batch, continuous=False)
    assert len(items) == batch["mel"].shape[0]
    for row, item in enumerate(items):
        first = int((batch["targets"][row] != IGNORED).nonzero()[0])
        assert item.prompt == tuple(batch["token_ids"][row, : first + 1].tolist())
        text = tiny_run.tokenizer.decode(list(item.reference)).split()
        assert set(text) <= {"one", "two", "three", "eins", "zwei", "drei"}
        assert item.mel.shape[0] == int(batch["frame_lens"][row])


def test_scores() -> None:
    kinds = {"en-en": True, "en-de": False}
    texts = [
        ("en-en", "one two three four", "one too three"),
        ("en-en", "", "one"),
        ("en-de", "eins zwei", "eins zwei"),
    ]
    found = scores(texts, kinds)
    assert found["wer"] == pytest.approx(75)
    assert found["bleu"] == pytest.approx(100)
    assert scores([], kinds) == {}
    assert scores([("en-en", "", "")], kinds) == {}
