"""Whisper out of a folder as transformers saves it: its encoder alone, or the whole model as a checkpoint.

The whole model needs no training: its decoder is the LLM, and the connector is of kind `cross_layers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from bestow_edge.core.config import ChatTemplate, FeatureConfig, ModelConfig, PolicyConfig, SegmentConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.languages import LANGUAGES
from bestow_edge.core.specs.cross_layers import CrossLayersConfig
from bestow_edge.core.specs.windowed import POSITIONS_PER_STEP, WHISPER, WindowedConfig
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.pretrained.components import (
    EncoderPart,
    WholePart,
    WholeRequest,
    build_encoder,
    empty_model,
    plain_config,
    refuse_options,
)
from bestow_edge.model.pretrained.configs import decoded, read_config, read_fields
from bestow_edge.model.pretrained.weights import fill, load_tensors, part_sizes, read_tensors

Fields = dict[str, Any]  # Any: decoded JSON
Untyped = Any  # a transformers config: they have no types
POLICY = PolicyConfig(name="align-att", l=12, threshold=12, pool=1, least_share=0.5)
"""Default read/write policy of a whole one."""
PADDING_S = 8.0  # 5 s were too few for some recordings: the decoder said all of it again and again
SEGMENT_S = 28.0  # of the 30 s that the encoder has positions for: a segment ends at the next block
FEATURES = FeatureConfig(
    n_fft=400, window="periodic", preemphasis=0.0, start="mirrored", log_guard=1e-10, guard="least", normalize="peak"
)
"""The front-end of every Whisper, but for its mel bins."""
MULTILINGUAL = ChatTemplate(
    before="<|startoftranscript|>",
    instruction="<|{source}|><|{task}|>",
    after="<|notimestamps|>",
    previous="<|startofprev|>",
)
ENGLISH = replace(MULTILINGUAL, instruction="")
_ENCODER = "model.encoder."


def matches(fields: Fields) -> bool:
    """Return whether a config.json is that of a Whisper."""
    return fields.get("model_type") == WHISPER


def whisper_encoder(folder: Path, *, every_name: bool = False) -> EncoderPart:
    """Read the encoder of a folder, for any connector; windows are not filled up to 30 s.

    Args:
        folder: with config.json and weights as safetensors.
        every_name: an error about weights names all of them.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights do not fit the config.
        ConfigError: if transformers refuses the config.
    """
    config, tensors = _config(folder), read_tensors(folder)
    own = {name: file for name, file in tensors.items() if name.startswith(_ENCODER)}
    left_out, unknown = part_sizes(tensors.keys() - own.keys())
    encoder = build_encoder(_network(config), str(folder))
    weights = {name.removeprefix(_ENCODER): tensor for name, tensor in load_tensors(own).items()}
    fill(encoder, weights, f"{folder}: encoder", surplus=unknown, every=every_name)
    windowed = WindowedConfig(network=_network(config), window=_window(config))
    return EncoderPart(encoder, windowed, _features(folder, config), left_out)


def whole(folder: Path, request: WholeRequest) -> WholePart:
    """Read a whole model.

    Args:
        folder: with config.json, generation_config.json, tokenizer.json and weights as safetensors.
        request: with `padding_s`: the decoder does not stop without some silence.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights do not fit the config.
        ConfigError: if transformers refuses the config, or the generation config names no alignment heads.
    """
    refuse_options(request, "Whisper", "llm", "pairs", "instruction")
    padding_s = PADDING_S if request.padding_s is None else request.padding_s
    policy = request.policy or POLICY
    whisper, generation = _config(folder), _json(folder / "generation_config.json")
    tokenizer = _tokenizer(folder, whisper)
    if not whisper.tie_word_embeddings:
        raise ConfigError(f"{folder}: tie_word_embeddings is false; Whisper's head is its token embeddings")
    named = generation.get("lang_to_id") or {}
    if not isinstance(named, dict):
        raise ConfigError(f"{folder}: generation_config.json: lang_to_id is {named!r:.60}; expected tokens by language")
    languages = {code: token for name, token in named.items() if (code := name.strip("<|>")) in LANGUAGES}
    network, features = _network(whisper), _features(folder, whisper)
    padding = round(padding_s / (WindowedConfig.frames_per_step * features.frame_s))
    decoder = {"num_hidden_layers": whisper.decoder_layers, "num_attention_heads": whisper.decoder_attention_heads}
    config = ModelConfig(
        encoder=WindowedConfig(
            network=network,
            block=policy.l,
            right_context=0,
            window=_window(whisper),
            padding=padding,
        ),
        connector=_connector(generation, languages, whisper, str(folder)),
        llm=network | decoder | {"max_position_embeddings": whisper.max_target_positions},
        features=features,
        policy=policy,
        segments=SegmentConfig(max_s=SEGMENT_S),
        chat=MULTILINGUAL if languages else ENGLISH,
        pairs=_pairs(languages or ["en"]),
    )
    empty = empty_model(config, str(folder))
    fill(empty, _renamed(folder), str(folder), surplus=(), every=request.every_name)
    model = SpeechModel(config, empty.encoder, empty.llm)  # so that the connector's buffers are on a device
    model.llm.tie_weights()
    return WholePart(model.eval(), tokenizer)


def _connector(generation: Fields, languages: Fields, whisper: Untyped, where: str) -> CrossLayersConfig:
    """Return the connector that a generation config describes.

    Raises:
        ConfigError: if it names no alignment heads, or heads or tokens that the model does not have.
    """
    where = f"{where}: generation_config.json"
    if not generation.get("alignment_heads"):
        raise ConfigError(f"{where} names no alignment_heads; take it from a newer copy")
    fields = {
        "alignment_heads": generation["alignment_heads"],
        "suppressed": generation.get("suppress_tokens") or [],
        "specials_from": whisper.eos_token_id,
        "languages": languages,
    }
    config = decoded(CrossLayersConfig, fields, "connector", where)
    sizes = whisper.decoder_layers, whisper.decoder_attention_heads
    for pair in config.alignment_heads:
        if len(pair) != 2 or not all(0 <= index < size for index, size in zip(pair, sizes, strict=True)):
            raise ConfigError(f"{where}: alignment head {pair}; expected layer and head below {sizes}")
    tokens = *config.suppressed, *config.languages.values(), config.specials_from
    if beyond := [token for token in tokens if token >= whisper.vocab_size]:
        raise ConfigError(f"{where}: tokens {beyond[:3]} are beyond the vocabulary of {whisper.vocab_size}")
    suppressed = tuple(sorted(token for token in config.suppressed if token >= 0))
    return replace(config, suppressed=suppressed, specials_from=config.specials_from + 1)


def _config(folder: Path) -> Untyped:
    """Return the model's config, with the sizes of a Whisper."""
    return read_config(folder)


def _json(path: Path) -> Fields:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing; copy the folder again")
    return read_fields(path)


def _network(config: Untyped) -> Fields:
    """Return the config as a checkpoint keeps it, with the sizes of the encoder under their usual names."""
    return plain_config(config) | {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.encoder_layers,
        "num_attention_heads": config.encoder_attention_heads,
    }


def _window(config: Untyped) -> int:
    """Return the steps that the encoder has positions for (30 s)."""
    return int(config.max_source_positions) // POSITIONS_PER_STEP[WHISPER]


def _features(folder: Path, config: Untyped) -> FeatureConfig:
    """Return the front-end: that of every Whisper, which its preprocessor must name."""
    features = replace(FEATURES, num_mel_bins=config.num_mel_bins)
    named = _json(folder / "preprocessor_config.json")
    for theirs, ours in (
        ("feature_size", "num_mel_bins"),
        ("sampling_rate", "sample_rate_hz"),
        ("hop_length", "hop_samples"),
        ("n_fft", "n_fft"),
    ):
        if (got := named.get(theirs)) != (want := getattr(features, ours)):
            raise ConfigError(f"{folder}: preprocessor_config.json: {theirs} is {got}, expected {want}")
    return features


def _tokenizer(folder: Path, config: Untyped) -> Tokenizer:
    """Return the tokenizer; it must know the special tokens of prompts."""
    if not (path := folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: tokenizer.json is missing; save the tokenizer with transformers")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path}: does not load ({str(error).strip():.200}); copy it again") from error
    if (got := tokenizer.token_to_id("<|startoftranscript|>")) != config.decoder_start_token_id:
        raise CheckpointError(
            f"{path}: <|startoftranscript|> is {got}, config.json says {config.decoder_start_token_id}"
        )
    return tokenizer


def _pairs(languages: Iterable[str]) -> tuple[str, ...]:
    """Return the pairs it is trained for: English alone, or all languages and their translations to English."""
    spoken = sorted(languages, key=lambda code: code != "en")  # the first pair is the default of `bench`
    return (*(f"{code}-{code}" for code in spoken), *(f"{code}-en" for code in spoken if code != "en"))


def _renamed(folder: Path) -> dict[str, Tensor]:
    """Return the weights under the names of a checkpoint."""
    weights = {}
    for name, tensor in load_tensors(read_tensors(folder)).items():
        if name.startswith(_ENCODER):
            weights[f"encoder.{name.removeprefix(_ENCODER)}"] = tensor
        else:
            weights[f"llm.{name}"] = tensor
    embeddings = weights.get("llm.model.decoder.embed_tokens.weight")
    if embeddings is not None:
        weights["llm.proj_out.weight"] = embeddings
    return weights
