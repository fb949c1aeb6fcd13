"""A whole Qwen3-ASR, as transformers saves it or as its authors do: its blocks of 8 s never change once they are full.

It transcribes 29 languages. The prompt forces the language, so that an answer is the transcript alone.

Source of the prompt: transformers' `Qwen3ASRProcessor.apply_transcription_request`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from bestow_edge.core.config import ChatTemplate, ModelConfig, PolicyConfig, SegmentConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.specs.blocks import CHUNK_STEPS, QWEN3_ASR, BlocksConfig
from bestow_edge.core.specs.prepend import PrependConfig
from bestow_edge.model.pretrained.components import WholePart, WholeRequest, empty_model, plain_config, refuse_options
from bestow_edge.model.pretrained.configs import read_fields, refused
from bestow_edge.model.pretrained.llm import llm_tokenizer, plain_tokenizer
from bestow_edge.model.pretrained.weights import fill, load_tensors, read_tensors
from bestow_edge.model.pretrained.whisper import FEATURES

Fields = dict[str, Any]  # Any: decoded JSON
Untyped = Any  # a transformers config: they have no types
POLICY = PolicyConfig(name="local-agreement", l=CHUNK_STEPS)
SEGMENT_S = 60.0  # of the 20 minutes that it reads at once: the text behind the speech is run again and again
SPEECH = "<|audio_pad|>"
SYSTEM = "<|im_start|>system\n"
CHAT = ChatTemplate(
    before=f"{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    f"<|audio_start|>{SPEECH}<|audio_end|><|im_end|>\n<|im_start|>assistant\n",
    instruction="language {source_name}<asr_text>",
    before_hotwords=SYSTEM,
)
LANGUAGES = (
    "en", "ar", "cs", "da", "de", "el", "es", "fa", "fi", "fil", "fr", "hi", "hu", "id", "it", "ja", "ko", "mk", "ms",
    "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "vi", "yue", "zh",
)  # fmt: skip
_PARTS = ("audio_config", "text_config")
_NAMES = (
    ("thinker.audio_tower.proj1.", "connector.hidden.0."),
    ("thinker.audio_tower.proj2.", "connector.projection."),
    ("thinker.audio_tower.", "encoder."),
    ("thinker.model.", "llm.model."),
    ("thinker.lm_head.", "llm.lm_head."),
    ("model.multi_modal_projector.linear_1.", "connector.hidden.0."),
    ("model.multi_modal_projector.linear_2.", "connector.projection."),
    ("model.audio_tower.", "encoder."),
    ("model.language_model.", "llm.model."),
    ("lm_head.", "llm.lm_head."),
)


def matches(fields: Fields) -> bool:
    """Return whether a config.json is that of a Qwen3-ASR."""
    return fields.get("model_type") == "qwen3_asr"


def whole(folder: Path, request: WholeRequest) -> WholePart:
    """Read a whole model.

    Args:
        folder: with config.json, tokenizer and weights as safetensors.
        request: with `policy`.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights do not fit the config.
        ConfigError: if transformers refuses the config, or a part of it is not supported.
    """
    refuse_options(request, "Qwen3-ASR", "llm", "pairs", "instruction", "padding_s")
    policy = request.policy or POLICY
    config = _config(read_fields(folder / "config.json"), folder)
    audio, llm = config.audio_config, config.text_config
    tokenizer = plain_tokenizer(llm_tokenizer(folder, llm), folder)
    if (got := tokenizer.token_to_id(SPEECH)) != config.audio_token_id:
        raise CheckpointError(f"{folder}: the tokenizer has {SPEECH} as {got}, config.json as {config.audio_token_id}")
    llm.eos_token_id = config.eos_token_id
    network = plain_config(audio) | {
        "hidden_size": audio.d_model,
        "num_hidden_layers": audio.encoder_layers,
        "num_attention_heads": audio.encoder_attention_heads,
    }
    model_config = ModelConfig(
        encoder=BlocksConfig(network=network).for_policy(policy.l),
        connector=PrependConfig(speech_token=config.audio_token_id, hidden=audio.d_model),
        llm=plain_config(llm),
        features=replace(FEATURES, num_mel_bins=audio.num_mel_bins, end="mirrored"),
        policy=policy,
        segments=SegmentConfig(max_s=SEGMENT_S),
        chat=CHAT,
        pairs=tuple(f"{code}-{code}" for code in LANGUAGES),
    )
    model = empty_model(model_config, str(folder))
    tensors = {_renamed(name): tensor for name, tensor in load_tensors(read_tensors(folder)).items()}
    embeddings = tensors.get("llm.model.embed_tokens.weight")
    if llm.tie_word_embeddings and embeddings is not None:
        tensors["llm.lm_head.weight"] = embeddings
    fill(model, tensors, str(folder), surplus=(), every=request.every_name, one_dtype=False)
    model.llm.tie_weights()
    return WholePart(model.eval(), tokenizer, (f"Qwen3-ASR: {len(LANGUAGES)} languages, the prompt names one",))


def _config(fields: Fields, folder: Path) -> Untyped:
    """Return transformers' config, also of the authors' own file, whose parts stand under `thinker_config`.

    Their rotary embedding has three sections, which are the same for speech and text.
    """
    whole = fields.get("thinker_config") or fields
    if not isinstance(whole, dict) or not all(isinstance(whole.get(name), dict) for name in _PARTS):
        raise ConfigError(f"{folder}: config.json has no {' and no '.join(_PARTS)}; expected those of a Qwen3-ASR")
    parts = {name: dict(whole[name]) for name in _PARTS}
    parts["audio_config"]["model_type"], parts["text_config"]["model_type"] = QWEN3_ASR, "qwen3"
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(rope := parts["text_config"].get(name), dict) and "mrope_section" in rope:
            del parts["text_config"][name]
    others = ("audio_token_id", "eos_token_id", "tie_word_embeddings")
    with refused(f"{folder}: transformers refuses its config"):
        config: Untyped = AutoConfig.for_model(
            "qwen3_asr", **parts, **{name: whole[name] for name in others if whole.get(name) is not None}
        )
    audio, width = config.audio_config, config.text_config.hidden_size
    got = {name: getattr(audio, name) for name in ("activation_function", "scale_embedding", "output_dim")}
    if got != (want := {"activation_function": "gelu", "scale_embedding": False, "output_dim": width}):
        raise ConfigError(f"{folder}: audio_config: {got}; only {want} is supported")
    return config


def _renamed(name: str) -> str:
    """Return a checkpoint's name of a weight; an unknown one stays, and is refused by its name."""
    for theirs, ours in _NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
