"""The default languages of a request: what the model can do."""

from __future__ import annotations

from typing import Any

import pytest

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError, PromptError
from bestow_edge.core.request import Request, default_pair
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_layers import CrossLayersConfig


def config(languages: dict[str, int] | None = None, **fields: Any) -> ModelConfig:
    network = {"model_type": "nemotron_asr_streaming_encoder", "hidden_size": 8}
    connector = CrossLayersConfig(alignment_heads=((0, 0),), languages=languages or {})
    llm = {"model_type": "llama", "hidden_size": 8}
    return ModelConfig(encoder=ChunkedConfig(network=network), connector=connector, llm=llm, **fields)


@pytest.mark.parametrize(
    ("model", "pair"),
    [
        (config(pairs=("en-de", "de-de", "en-en")), "en-en"),
        (config(pairs=("de-en", "de-de", "fr-fr")), "de-de"),
        (config(pairs=("de-en", "en-de")), "de-en"),
        (config(), "en-en"),
        (config({"en": 1}, pairs=("en-de", "en-en")), "auto"),
        (config({"en": 1, "de": 2}, pairs=("en-en", "de-de", "de-en")), "auto"),
        (config(pairs=("fr-fr", "fr-en")), "fr-fr"),
    ],
)
def test_the_default_pair_is_one_of_the_model(model: ModelConfig, pair: str) -> None:
    assert list(map(str, Request().asked(model))) == [pair]
    assert default_pair(model, auto=False) == pair.replace("auto", "en-en")
    assert list(map(str, Request(lang="de-en,de").asked(model))) == ["de-en", "de-de"]


@pytest.mark.parametrize(("questions", "source"), [(("de", "en"), "en"), (("de", "fr"), "de"), ((), "en")])
def test_the_default_language_of_questions(questions: tuple[str, ...], source: str) -> None:
    (question,) = Request(ask=("Who?",)).asked(config(questions=questions))
    assert (question.source, str(question)) == (source, "Who?")


def test_a_beam_has_one_text() -> None:
    for wrong in (Request, lambda **fields: Request(lang="en,en-de", stream=False, **fields),
                  lambda **fields: Request(ask=("Who?", "What?"), stream=False, **fields)):  # fmt: skip
        with pytest.raises(ConfigError, match="a beam searches one text"):
            wrong(beam_size=2)
    assert Request(stream=False, beam_size=2).beam_size == 2
    with pytest.raises(PromptError, match="language pair 'xx'"):
        Request(lang="xx")
