"""The CTC compressor: equal to a plain loop over runs, chunk by chunk as in a stream, and defined for silence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from speech_llms import save_speech_llm, speech_config

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.specs.prepend import CompressorConfig, PrependConfig
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.model.base import Speech, SpeechModel
from bestow_edge.model.checkpoint import load_checkpoint, skeleton
from bestow_edge.model.connectors.ctc_compressor import compress
from bestow_edge.training.learning.objective import Objective

BLANK = 3
Strategy = Literal["frame_averaging", "blank_removal"]
STRATEGIES: tuple[Strategy, ...] = ("frame_averaging", "blank_removal")


def plain(
    steps: torch.Tensor, labels: list[int], strategy: Strategy, chunk: int
) -> tuple[list[torch.Tensor], list[int]]:
    """Return positions and ends by a loop."""
    found, ends = [], []
    numbered = list(enumerate(labels))
    for _, group in groupby(numbered, key=lambda item: (item[1], item[0] // chunk if chunk else 0)):
        places = [place for place, _ in group]
        if strategy == "frame_averaging":
            found.append(steps[places].mean(0))
            ends.append(places[-1] + 1)
        elif labels[places[0]] != BLANK:
            found += [steps[place] for place in places]
            ends += [place + 1 for place in places]
    return found, ends


@pytest.mark.parametrize("chunk", [0, 1, 7])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_equals_a_loop_over_runs(strategy: Strategy, chunk: int) -> None:
    torch.manual_seed(3)
    lens = torch.tensor([40, 23, 1])
    steps, labels = torch.randn(3, 40, 6), torch.randint(BLANK + 1, (3, 20)).repeat_interleave(2, 1)
    config = CompressorConfig(strategy=strategy, labels=BLANK)
    packed, ends = compress(steps, labels, lens, config, chunk)
    for row, length in enumerate(lens.tolist()):
        want, want_ends = plain(steps[row], labels[row, :length].tolist(), strategy, chunk)
        assert ends[row, : len(want)].tolist() == want_ends
        assert not ends[row, len(want) :].any()
        torch.testing.assert_close(packed[row, : len(want)], torch.stack(want) if want else packed[row, :0])
        assert not packed[row, len(want) :].any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chunks_alone_are_chunks_together(strategy: Strategy) -> None:
    torch.manual_seed(4)
    steps, labels = torch.randn(1, 28, 6), torch.randint(BLANK + 1, (1, 28))
    config = CompressorConfig(strategy=strategy, labels=BLANK)
    together, ends = compress(steps, labels, torch.tensor([28]), config, 7)
    alone = []
    for first in range(0, 28, 7):
        part, own = compress(steps[:, first : first + 7], labels[:, first : first + 7], torch.tensor([7]), config, 0)
        alone.append(part[0, own[0] > 0])
    torch.testing.assert_close(together[0, ends[0] > 0], torch.cat(alone))


def test_silence() -> None:
    """All steps are blank: nothing is left of them, or their mean."""
    steps, labels, lens = torch.randn(1, 9, 4), torch.full((1, 9), BLANK), torch.tensor([9])
    _, ends = compress(steps, labels, lens, CompressorConfig(strategy="blank_removal", labels=BLANK), 0)
    assert not ends.any()
    packed, ends = compress(steps, labels, lens, CompressorConfig(labels=BLANK), 0)
    assert ends[0].tolist() == [9] + [0] * 8
    torch.testing.assert_close(packed[0, 0], steps[0].mean(0))


@pytest.fixture
def silent(make_model: Callable[..., Any], model_config: Callable[..., ModelConfig]) -> SpeechModel:
    """A model whose head takes everything for a blank."""
    connector = PrependConfig(compressor=CompressorConfig(strategy="blank_removal", labels=BLANK))
    model: SpeechModel = make_model(speech_config(model_config(), connector))
    with torch.no_grad():
        model.connector.ctc_head.bias[BLANK] = 1e4
    return model


def test_silence_leaves_the_prompt_alone(silent: SpeechModel) -> None:
    token_ids = torch.tensor([[1, 7, 5, 8, 9]])
    speech = Speech(torch.randn(1, 30, 64), torch.tensor([30]), 14)
    with torch.no_grad():
        got = silent(token_ids, speech, torch.zeros_like(token_ids)).logits
        want = silent.llm(input_ids=torch.tensor([[1, 7, 8, 9]])).logits
    torch.testing.assert_close(got[:, [0, 1, 3, 4]], want)


def test_ctc_trains_its_head(silent: SpeechModel) -> None:
    objective = Objective(silent, vocab_size=BLANK, label_smoothing=0.0)
    assert objective.label_head is silent.connector.ctc_head
    assert not [name for name in objective.state_dict() if name.startswith("ctc_head")]


@pytest.mark.parametrize("load", [load_checkpoint, skeleton], ids=lambda load: load.__name__)
def test_a_missing_head(
    make_model: Callable[..., Any],
    model_config: Callable[..., ModelConfig],
    tmp_path: Path,
    load: Callable[[Path], Any],
) -> None:
    save_speech_llm(model_config, make_model, PrependConfig(compressor=CompressorConfig(labels=3)), tmp_path / "whole")
    path = tmp_path / "whole" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if "ctc_head" not in name}
    save_file(kept, path)
    with pytest.raises(CheckpointError, match=r"head of the CTC compressor \(connector.ctc_head.weight\) is missing"):
        load(tmp_path / "whole")


@pytest.mark.parametrize(
    ("connector", "message"),
    [
        (PrependConfig(compressor=CompressorConfig(labels=3)), "a compressor does not fit this encoder"),
        (PrependConfig(stack=3), "it joins 3 steps, but a block has 4"),
    ],
)
def test_encoders_that_do_not_fit(
    bidirectional_config: Callable[..., ModelConfig], connector: PrependConfig, message: str
) -> None:
    from dataclasses import replace

    config = replace(bidirectional_config(), connector=connector.with_mark(5))
    with pytest.raises(ConfigError, match=message):
        graph_sources(config)
