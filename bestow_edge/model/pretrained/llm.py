"""A decoder-only LLM and its tokenizer out of a folder as transformers saves it. No code of the folder is run.

An LLM must be causal, read text alone, take embeddings as input, and have a fast tokenizer and an end token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import AddedToken, Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.specs.llm import check_exportable
from bestow_edge.model.pretrained.chat_template import chat_template, end_ids
from bestow_edge.model.pretrained.components import LlmPart
from bestow_edge.model.pretrained.configs import read_config, refused
from bestow_edge.model.pretrained.weights import (
    PICKLE,
    WEIGHTS,
    check_dtypes,
    check_names,
    check_values,
    has_weights,
    listed,
    stored_dtypes,
    weight_files,
)

Untyped = Any  # a transformers config or tokenizer: they have no types
_SPARE_WEIGHTS = 100_000_000  # may be described beyond two a byte: errors about few missing weights name them
_NEEDED = ("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def read_llm(folder: Path, *, every_name: bool = False) -> LlmPart:
    """Read an LLM; its weights keep the dtype they are stored in.

    Args:
        folder: with config.json, weights and a tokenizer.
        every_name: an error about weights names all of them.

    Raises:
        CheckpointError: if files are missing or damaged, weights do not fit, or there is no end token.
        ConfigError: if it is not a decoder-only LLM that transformers supports.
    """
    config = llm_config(folder)
    tokenizer = llm_tokenizer(folder, config)
    generation = None
    if (folder / "generation_config.json").is_file():
        with refused(f"{folder}: transformers refuses its generation_config.json"):
            generation = GenerationConfig.from_pretrained(folder)
    ends = end_ids(tokenizer, config, generation, str(folder))
    model = _model(folder, config, every=every_name)
    config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.config.eos_token_id = config.eos_token_id
    chat = chat_template(tokenizer, str(folder))
    return LlmPart(model, plain_tokenizer(tokenizer, folder), chat, bool(tokenizer.chat_template))


def add_mark(part: LlmPart, mark: str) -> int:
    """Give an LLM a special token, and return its id.

    A vocabulary without room for it grows by a row, the mean of all rows: such a token is never the most probable one.
    """
    part.tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False)])
    token_id: Untyped = part.tokenizer.token_to_id(mark)  # an int: it was added
    llm: Untyped = part.module
    if token_id >= llm.config.vocab_size:
        llm.resize_token_embeddings(token_id + 1, mean_resizing=False)
        with torch.no_grad():
            for table in {id(one): one for one in (llm.get_input_embeddings(), llm.get_output_embeddings())}.values():
                table.weight[token_id] = table.weight[:token_id].float().mean(0)
    return int(token_id)


def llm_config(folder: Path) -> Untyped:
    """Return the config of an LLM.

    Raises:
        ConfigError: if it is not a decoder-only LLM that transformers supports.
    """
    config = read_config(folder, "not an LLM that transformers supports")
    check_exportable(config.to_dict(), str(folder), ConfigError)
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{folder}: holds an adapter of another model (adapter_config.json); merge it with peft first"
        )
    if config.get_text_config() is not config:
        raise ConfigError(f"{folder}: a {config.model_type} takes more than text; give a text-only LLM of this family")
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(f"{folder}: its weights are quantised; give the original ones, export quantises them")
    if type(config) not in AutoModelForCausalLM._model_mapping or getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{folder}: a {config.model_type} is no decoder-only LLM; give one such as Llama or Qwen")
    if missing := [name for name in _NEEDED if not isinstance(getattr(config, name, None), int)]:
        raise ConfigError(f"{folder}: config.json has no {', '.join(missing)}; choose another LLM")
    return config


def llm_tokenizer(folder: Path, config: Untyped) -> Untyped:
    """Return transformers' tokenizer of an LLM.

    Raises:
        CheckpointError: if it is missing, has no fast form, or has more tokens than the LLM embeddings.
    """
    with refused(
        f"{folder}: its tokenizer does not load", CheckpointError, Exception
    ):  # of tokenizers: no type narrower
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise CheckpointError(f"{folder}: its tokenizer has no tokenizer.json form; convert it with transformers first")
    most = max(tokenizer.get_vocab().values(), default=-1)
    if most >= config.vocab_size:
        got = f"the tokenizer has ids up to {most}, but the model {config.vocab_size} embeddings"
        raise CheckpointError(f"{folder}: {got}; they do not belong together")
    return tokenizer


def plain_tokenizer(tokenizer: Untyped, folder: Path) -> Tokenizer:
    """Return a tokenizer of transformers as a session uses it: no truncation, no padding.

    Raises:
        CheckpointError: if it is empty.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    if not backend.encode("one two", add_special_tokens=False).ids:
        raise CheckpointError(f"{folder}: its tokenizer knows no token for 'one two'; it is empty")
    return backend


def _model(folder: Path, config: Untyped, *, every: bool) -> PreTrainedModel:
    _check_stored(folder, config, every=every)
    load: Untyped = AutoModelForCausalLM.from_pretrained
    with refused(f"{folder}: its weights do not load; copy it again", CheckpointError, SafetensorError), _quiet():
        model, report = load(
            folder,
            config=config,
            dtype="auto",
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are reported, and named below
            output_loading_info=True,
        )
    check_names(str(folder), missing=report["missing_keys"], surplus=report["unexpected_keys"], every=every)
    if odd := [f"{name} {tuple(got)}, config says {tuple(want)}" for name, got, want in report["mismatched_keys"]]:
        raise CheckpointError(f"{folder}: {listed('weights of another shape', odd, every=every)}")
    check_values(dict(model.named_parameters()), str(folder), every=every)
    _keep_head(model)
    llm: PreTrainedModel = model
    return llm


def _keep_head(model: Untyped) -> None:
    """Say in the config that the head is no copy of the embedding where the files have one of its own.

    Merged adapters and resized vocabularies have it while config.json still says that they are tied; a model built of
    this config would take the embedding for the head.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(model.config, "tie_word_embeddings", False) and head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False


def _check_stored(folder: Path, config: Untyped, *, every: bool) -> None:
    """Check the files before transformers reads them: it converts dtypes and makes up missing weights in silence.

    Raises:
        CheckpointError: if files are missing, damaged, hold weights of other dtypes or are too small.
        ConfigError: if transformers refuses the sizes.
    """
    build: Untyped = AutoModelForCausalLM.from_config
    with refused(f"{folder}: transformers refuses its sizes"), torch.device("meta"):
        empty: Untyped = build(config)
    files = weight_files(folder, PICKLE if has_weights(folder, PICKLE) and not has_weights(folder) else WEIGHTS)
    described, stored = sum(weight.numel() for weight in empty.parameters()), sum(file.stat().st_size for file in files)
    if described > _SPARE_WEIGHTS + 2 * stored:
        got = f"config.json describes {described} weights, but its files have {stored} bytes"
        raise CheckpointError(f"{folder}: {got}; they do not belong together")
    own, prefix = {name for name, _ in empty.named_parameters(remove_duplicate=False)}, f"{empty.base_model_prefix}."
    dtypes = stored_dtypes(files)
    wanted = (name for name in dtypes if not own.isdisjoint((name, prefix + name, name.removeprefix(prefix))))
    check_dtypes({name: dtypes[name] for name in wanted}, str(folder), every=every)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing a progress bar and from logging tables: errors name the problems."""
    transformers: Untyped = hf_logging
    level, bar = transformers.get_verbosity(), transformers.is_progress_bar_enabled()
    transformers.set_verbosity(logging.CRITICAL)
    transformers.disable_progress_bar()
    try:
        yield
    finally:
        transformers.set_verbosity(level)
        if bar:
            transformers.enable_progress_bar()
