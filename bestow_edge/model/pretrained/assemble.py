"""Pretrained encoder + pretrained LLM + a fresh connector = a checkpoint that training starts from.

The connector begins silent: the LLM starts out as exactly the one that was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from bestow_edge.core.config import ConnectorConfig, EncoderConfig, ModelConfig, PolicyConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.files import check_free
from bestow_edge.core.prompts import parse_pair, prompt_text
from bestow_edge.core.request import check_follows, default_policy
from bestow_edge.core.room import segments
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import save_checkpoint
from bestow_edge.model.pretrained import whisper
from bestow_edge.model.pretrained.components import EncoderPart, LlmPart, plain_config
from bestow_edge.model.pretrained.configs import read_fields
from bestow_edge.model.pretrained.decoder_start import decoder_config, start_as_decoder
from bestow_edge.model.pretrained.huggingface import huggingface_encoder
from bestow_edge.model.pretrained.llm import add_mark, read_llm
from bestow_edge.model.pretrained.nemo import nemo_encoder
from bestow_edge.model.pretrained.repository import find_source, origins, pinned

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class InitRequest:
    """The parts to make a checkpoint of."""

    encoder: str
    """Folder, `.nemo` file or Hub id of the speech encoder."""
    llm: str
    """Folder or Hub id of the LLM."""
    connector: ConnectorConfig | None
    """The fresh connector; None for an adapter that begins as the decoder of the Whisper in `encoder`."""
    pairs: tuple[str, ...] = ("en-en",)
    """Language pairs it will be trained for."""
    instruction: str | None = None
    """Instruction of a pair, see `ChatTemplate.instruction`."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Default policy."""
    dtype: Dtype = "auto"
    """Of the stored weights; `auto` keeps what each part has, float32 for the connector."""
    seed: int = 0
    """Of the connector's random weights."""
    offline: bool = False
    """Use files and the Hub's cache alone."""


@dataclass(frozen=True, slots=True)
class PartSummary:
    """One part of the checkpoint, for people."""

    part: str
    kind: str
    parameters: int
    dtype: str
    source: str


@dataclass(frozen=True, slots=True)
class InitResult:
    """A finished checkpoint."""

    directory: Path
    config: ModelConfig
    parts: tuple[PartSummary, ...]
    left_out: dict[str, int]
    """Weights of the recogniser's other parts, which were not taken."""
    has_chat_template: bool
    """The LLM's tokenizer brought a chat template."""
    notes: tuple[str, ...] = ()
    """What was found, merged and left out, in words for people."""


def init_checkpoint(
    request: InitRequest, out: Path, *, force: bool = False, every_name: bool = False, progress: Progress
) -> InitResult:
    """Make a checkpoint out of pretrained parts.

    Args:
        request: the parts.
        out: directory to make; it appears complete or not at all.
        force: replace a directory that is there.
        every_name: an error about weights names all of them.
        progress: called with a few words at the start of each step.

    Raises:
        CheckpointError: if a part is missing, damaged, or its weights do not fit its config.
        HubError: if a model of the Hub is missing, refused or out of reach.
        ConfigError: if a part is of an unsupported kind, the sizes do not fit, or `out` exists.
        PromptError: if a language pair is unknown.
    """
    check_free(out, replace=force)
    pairs = tuple(str(parse_pair(pair)) for pair in request.pairs)
    progress(f"encoder: looking for {request.encoder}")
    encoder_path = find_source(request.encoder, "encoder", offline=request.offline)
    progress(f"LLM: looking for {request.llm}")
    llm_path = find_source(request.llm, "llm", offline=request.offline)
    progress(f"encoder: reading {encoder_path}")
    encoder = _read_encoder(encoder_path, every_name=every_name)
    progress(f"LLM: reading {llm_path}")
    llm = read_llm(llm_path, every_name=every_name)
    fields, chat = plain_config(llm.module.config), llm.chat
    connector = decoder_config(encoder_path) if request.connector is None else request.connector.for_llm(fields)
    if connector.mark:
        connector = connector.with_mark(add_mark(llm, connector.mark))
        chat = replace(chat, after=f"{connector.mark}{chat.after}")
    config = ModelConfig(
        encoder=_fitting_encoder(encoder.config.for_policy(request.policy.l), connector),
        connector=connector,
        llm=plain_config(llm.module.config),
        features=encoder.features,
        policy=request.policy,
        chat=replace(chat, instruction=request.instruction),
        pairs=pairs,
    )
    check_follows(default_policy(None, request.policy), config)
    CONNECTORS[connector.kind].speech(config)  # it refuses an encoder that does not fit
    config = replace(config, segments=segments(config, _longest_prompt(config, llm)))
    model = _put_together(config, encoder, llm, request, encoder_path)
    check_rebuilds(model)
    progress(f"writing {out}")
    sources = {"encoder": pinned(request.encoder, encoder_path), "LLM": pinned(request.llm, llm_path)}
    notes = origins(sources)
    save_checkpoint(model, llm.tokenizer.to_str(), out, replace=force, notes=notes)
    parts = (
        summary("encoder", config.encoder.network["model_type"], model.encoder, sources["encoder"]),
        summary("connector", config.connector.describe(), model.connector, _origin(request)),
        summary("llm", config.llm["model_type"], model.llm, sources["LLM"]),
    )
    return InitResult(out, config, parts, encoder.left_out, llm.has_chat_template, notes)


def _read_encoder(path: Path, *, every_name: bool) -> EncoderPart:
    if path.is_file():
        return nemo_encoder(path, every_name=every_name)
    read = whisper.whisper_encoder if whisper.matches(read_fields(path / "config.json")) else huggingface_encoder
    return read(path, every_name=every_name)


def _fitting_encoder(encoder: EncoderConfig, connector: ConnectorConfig) -> EncoderConfig:
    """Return the encoder's config as the connector needs it: chunks of whole units, no dropped steps.

    Raises:
        ConfigError: if no look-ahead of the encoder fits.
    """
    encoder = encoder.for_unit(connector.unit)
    if isinstance(encoder, WindowedConfig) and connector.sees_all and connector.mark:
        return replace(encoder, right_context=0)  # each encoding replaces all speech, so every step counts
    return encoder


def _longest_prompt(config: ModelConfig, llm: LlmPart) -> int:
    """Return the tokens of the longest prompt.

    Raises:
        ConfigError: if the context is too short for a prompt and an answer.
    """
    longest = 0
    for pair in config.pairs:
        text = prompt_text(parse_pair(pair), config.chat)
        length = len(llm.tokenizer.encode(text, add_special_tokens=False).ids)
        if length >= config.max_text_tokens:
            got = f"the prompt of {pair} has {length} tokens, the model's context {config.max_text_tokens}"
            raise ConfigError(f"llm: {got}; choose an LLM with a longer one")
        longest = max(longest, length)
    return longest


def _origin(request: InitRequest) -> str:
    """Return where the connector comes from, for people."""
    return f"decoder of {request.encoder}" if request.connector is None else f"fresh, seed {request.seed}"


def _put_together(
    config: ModelConfig, encoder: EncoderPart, llm: LlmPart, request: InitRequest, encoder_path: Path
) -> SpeechModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = SpeechModel(config, encoder.module, llm.module)
    if request.connector is None:
        start_as_decoder(model, llm.tokenizer, encoder_path)
    else:
        model.connector.start_silent()
    if request.dtype != "auto":
        model.to(getattr(torch, request.dtype))
    return model.eval()


def check_rebuilds(model: SpeechModel) -> None:
    """Make sure that the stored config alone gives a model with the same weights.

    Raises:
        CheckpointError: if it gives another model.
    """
    with torch.device("meta"):
        again = SpeechModel.from_config(ModelConfig.from_dict(model.config.to_dict())).state_dict()
    got = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if got != (want := {name: tensor.shape for name, tensor in again.items()}):
        names = ", ".join(sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))[:6])
        raise CheckpointError(f"its config does not rebuild the model: {names} differ; choose another encoder or LLM")


def summary(part: str, kind: str, module: nn.Module, source: str) -> PartSummary:
    """Return a part's size, its dtype and its source."""
    weights = list(module.parameters())  # tied ones come once
    dtype = str(weights[0].dtype).removeprefix("torch.")
    return PartSummary(part, kind, sum(weight.numel() for weight in weights), dtype, source)
