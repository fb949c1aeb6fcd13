"""Connector kind `prepend` in PyTorch: where speech stands, rows of a batch, texts without speech."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from speech_llms import speech_config

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.prepend import PrependConfig
from bestow_edge.model.base import Speech, SpeechModel
from bestow_edge.model.connectors.prepend import EMBEDDING_STD, insert

MARK = 5
MARKED = torch.tensor([[1, 7, MARK, 8, 9]])


@pytest.fixture
def model(make_model: Callable[..., Any], model_config: Callable[..., ModelConfig]) -> SpeechModel:
    made: SpeechModel = make_model(speech_config(model_config(), PrependConfig()))
    return made


def speech_of(*lens: int) -> Speech:
    torch.manual_seed(len(lens))
    return Speech(torch.randn(len(lens), max(lens), 64), torch.tensor(lens))


def logits_of(model: SpeechModel, token_ids: torch.Tensor, speech: Speech | None) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(token_ids, speech, torch.zeros_like(token_ids)).logits
    return logits


@pytest.mark.parametrize(("lens", "want"), [(3, "ABxyzCD"), (2, "ABxyCD"), (0, "ABCD")])
def test_speech_takes_the_place_of_its_token(lens: int, want: str) -> None:
    letters = {letter: float(number) for number, letter in enumerate("ABCD-xyz")}
    words = torch.tensor([[letters[letter] for letter in "AB-CD"]])[..., None]
    speech = torch.tensor([[letters[letter] for letter in "xyz"]])[..., None]
    marks = words[..., 0] == letters["-"]
    whole, valid, places, heard = insert(words, marks, speech, torch.tensor([lens]))
    assert whole[0, : len(want), 0].tolist() == [letters[letter] for letter in want]
    assert valid[0].sum() == len(want)
    assert heard[0].nonzero().flatten().tolist() == list(range(2, 2 + lens))
    assert places[0].tolist() == [0, 1, 1 + lens, 2 + lens, 3 + lens]


def test_rows_together_are_rows_alone(model: SpeechModel) -> None:
    token_ids = torch.tensor([[1, MARK, 8, 9, 0], [1, 7, 30, MARK, 9], [1, 7, 30, 31, 9]])  # the last has no mark
    speech = speech_of(9, 4, 6)
    together = logits_of(model, token_ids, speech)
    for row, tokens in enumerate((4, 5, 5)):
        lens = int(speech.lens[row])
        alone = Speech(speech.steps[row : row + 1, :lens], speech.lens[row : row + 1])
        want = logits_of(model, token_ids[row : row + 1, :tokens], alone)
        torch.testing.assert_close(together[row, :tokens], want[0], atol=1e-4, rtol=1e-4)
    plain = model.llm(input_ids=token_ids[2:]).logits
    torch.testing.assert_close(together[2], plain[0], atol=1e-4, rtol=1e-4)


def test_without_speech_the_token_is_left_out(model: SpeechModel) -> None:
    want = model.llm(input_ids=torch.tensor([[1, 7, 8, 9]])).logits
    for speech in (None, Speech(torch.zeros(1, 0, 64), torch.tensor([0]))):
        got = logits_of(model, MARKED, speech)
        torch.testing.assert_close(got[0, [0, 1, 3, 4]], want[0], atol=1e-4, rtol=1e-4)


def test_every_weight_takes_part_in_a_batch_of_texts(model: SpeechModel) -> None:
    """Other processes wait for its gradient."""
    speech = Speech(torch.zeros(1, 0, 64), torch.tensor([0]))
    model(MARKED, speech, torch.zeros_like(MARKED)).logits.sum().backward()
    assert [name for name, weight in model.connector.named_parameters() if weight.grad is None] == []


def test_speech_begins_as_loud_as_words(model: SpeechModel) -> None:
    model.connector.start_silent()
    embeds, lens = model.connector.embeddings(speech_of(50), torch.zeros(1, 1, 48))
    assert float(embeds.detach().std()) == pytest.approx(EMBEDDING_STD, rel=0.2)
    assert lens.tolist() == [50]


def test_it_needs_the_llm(model: SpeechModel) -> None:
    with pytest.raises(ConfigError, match="leave out objective reading"):
        model(MARKED, speech_of(3), torch.zeros_like(MARKED), with_llm=False)
