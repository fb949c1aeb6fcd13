"""A whole SALM as NeMo's `speechlm2` saves it: canary-qwen-2.5b, and models that people train with NeMo.

One safetensors file and a training config. The encoder is a FastConformer. The connector is of kind `prepend`, see
`salm_connector`. The LLM is one of transformers; its config and tokenizer stand elsewhere. LoRA is merged.

Source of names, prompts and the merge: NeMo 3.0.0, `speechlm2/models/salm.py`, `speechlm2/modules/perception.py`,
`speechlm2/vllm/salm/backends.py`, `common/prompts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from bestow_edge.core.config import EncoderConfig, ModelConfig, PolicyConfig, SegmentConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.prompts import parse_pair
from bestow_edge.core.specs.chunked import NEMOTRON
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.model.pretrained.components import (
    WholePart,
    WholeRequest,
    build_encoder,
    empty_model,
    plain_config,
    refuse_options,
)
from bestow_edge.model.pretrained.configs import read_fields
from bestow_edge.model.pretrained.llm import llm_config, llm_tokenizer, plain_tokenizer
from bestow_edge.model.pretrained.nemo import front_end, renamed
from bestow_edge.model.pretrained.nemo_config import chunked_config, encoder_config
from bestow_edge.model.pretrained.repository import find_source
from bestow_edge.model.pretrained.salm_connector import CONFORMER, connector_name, salm_connector
from bestow_edge.model.pretrained.salm_prompts import INSTRUCTION, salm_chat
from bestow_edge.model.pretrained.weights import check_values, fill, load_tensors, read_tensors

Fields = dict[str, Any]  # Any: decoded JSON
Untyped = Any  # a transformers config or tokenizer: they have no types
POLICY = PolicyConfig(name="local-agreement", l=12)
WINDOW_S = 40.0  # the longest recordings that the published model is trained for
PERCEPTION = "perception."
FEATURIZER = "preprocessor.featurizer."
_ENCODERS = (f"{PERCEPTION}encoder.", f"{PERCEPTION}encoder_multilayer.encoder.")  # the latter gives layers' outputs
_LORA = re.compile(r"\.lora_([AB])(\.default)?\.weight$")
_LORA_VARIANTS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias")
_WITHOUT_EFFECT = ("._extra_state",)  # ends of names


def matches(fields: Fields) -> bool:
    """Return whether a config.json is that of a SALM: by its encoder's class, since `model_type` names others too."""
    perception = fields.get("perception")
    encoder = perception.get("encoder") if isinstance(perception, dict) else None
    return isinstance(encoder, dict) and str(encoder.get("_target_")).endswith(f".{CONFORMER}")


def whole(folder: Path, request: WholeRequest) -> WholePart:
    """Read a whole model.

    Args:
        folder: with config.json and weights as safetensors.
        request: with `llm`, `pairs` and `instruction`.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights do not fit the config.
        ConfigError: if the config describes a part that is not supported.
        PromptError: if a language pair is unknown.
    """
    refuse_options(request, "SALM", "padding_s")
    fields, where = read_fields(folder / "config.json"), str(folder)
    perception, policy = fields["perception"], request.policy or POLICY
    llm_folder, tokenizer_folder = _llm_folders(folder, fields, request)
    llm = llm_config(llm_folder)
    tokenizer = llm_tokenizer(tokenizer_folder, llm)
    names = read_tensors(folder)
    featurizer = load_tensors({name: file for name, file in names.items() if name.startswith(PERCEPTION + FEATURIZER)})
    stored = {name.removeprefix(PERCEPTION): tensor for name, tensor in featurizer.items()}
    features = front_end(perception, stored, where)
    network = plain_config(build_encoder(encoder_config(perception, where), where).config)
    step_s = WindowedConfig.frames_per_step * features.frame_s
    window = round(float(fields.get("encoder_chunk_size_seconds") or WINDOW_S) / step_s)
    tag, plain = _tagged(tokenizer, fields, tokenizer_folder)
    connector, taps = salm_connector(perception, network, tag, where)
    encoder: EncoderConfig
    if network["model_type"] == NEMOTRON:
        encoder = chunked_config(perception, network, where)
    else:
        encoder = WindowedConfig(network=network, block=policy.l, window=window, taps=taps)
        encoder = replace(encoder, right_context=0) if connector.sees_all else encoder  # no step can be dropped
    llm.eos_token_id = tokenizer.eos_token_id
    config = ModelConfig(
        encoder=encoder,
        connector=connector,
        llm=plain_config(llm),
        # One cast of the whole model rounded the front-end's constants and these frequencies alike.
        rotary=features.constants,
        features=features,
        policy=policy,
        segments=SegmentConfig(max_s=(window - encoder.default_right_context) * step_s),
        chat=salm_chat(fields, tokenizer, plain, request.instruction or INSTRUCTION, where),
        pairs=tuple(str(parse_pair(pair)) for pair in request.pairs or ("en-en",)),
    )
    model = empty_model(config, where)
    tensors, notes = _weights(load_tensors(names), fields, network["model_type"], where)
    if llm.tie_word_embeddings and "llm.lm_head.weight" not in tensors:
        tensors["llm.lm_head.weight"] = tensors["llm.model.embed_tokens.weight"]
    fill(model, tensors, where, surplus=(), every=request.every_name, one_dtype=False)
    model.llm.tie_weights()
    notes = (f"SALM: prompt format {fields['prompt_format']}, LLM config and tokenizer of {llm_folder}", *notes)
    if taps:
        notes += (f"connector reads the outputs of layers {', '.join(map(str, taps))}",)
    if features.constants != "float32":
        rounded = "mel filters, window and rotary frequencies of the LLM"
        notes += (f"{rounded} are rounded to {features.constants}, as in the model that was saved",)
    return WholePart(model.eval(), plain, notes)


def _llm_folders(folder: Path, fields: Fields, request: WholeRequest) -> tuple[Path, Path]:
    """Return the folders of the LLM's config and of its tokenizer.

    They are those of `--llm`, or stand beside the weights, or in the folder or on the Hub under the name in the config.
    """
    if request.llm is None and (folder / "llm_backbone" / "config.json").is_file():
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder}: tokenizer.json is missing beside llm_backbone; name the LLM with --llm")
        return folder / "llm_backbone", folder
    name = request.llm or fields.get("tokenizer_path") or fields.get("pretrained_llm")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{folder}: config.json names no pretrained_llm; name the LLM with --llm")
    beside = folder.parent / name
    found = beside if (beside / "config.json").is_file() else find_source(name, "tokenizer", offline=request.offline)
    return found, found


def _tagged(tokenizer: Untyped, fields: Fields, folder: Path) -> tuple[int, Tokenizer]:
    """Return the token that marks the place of speech, and the tokenizer with it.

    Raises:
        ConfigError: if the config names no such token, or the tokenizer splits it.
    """
    tag = fields.get("audio_locator_tag")
    if not isinstance(tag, str) or not tag:
        raise ConfigError("config.json names no audio_locator_tag; without it speech has no place in the prompt")
    plain = plain_tokenizer(tokenizer, folder)
    plain.add_special_tokens([AddedToken(tag, special=True, normalized=False)])
    ids = plain.encode(tag, add_special_tokens=False).ids
    if len(ids) != 1:
        raise ConfigError(f"{folder}: its tokenizer makes {len(ids)} tokens of {tag}, expected 1")
    return ids[0], plain


def _weights(
    stored: Mapping[str, Tensor], fields: Fields, network: str, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights under the names of a checkpoint, LoRA merged, and notes on them."""
    tensors: dict[str, Tensor] = {}
    lora: dict[str, dict[str, Tensor]] = {}
    ignored = 0
    for name, tensor in stored.items():
        if name.startswith(PERCEPTION + FEATURIZER):
            continue  # `front_end` has compared them
        if name.endswith(_WITHOUT_EFFECT):
            ignored += 1
        elif found := _LORA.search(name):
            base = _renamed(name[: found.start()], network)
            lora.setdefault(f"{base}.weight", {})[found.group(1)] = tensor
        else:
            tensors[_renamed(name, network)] = tensor
    notes: tuple[str, ...] = ()
    if lora:
        factor = _lora_factor(fields, where)
        for name, pair in lora.items():
            if name not in tensors or len(pair) != 2:
                raise CheckpointError(f"{where}: LoRA of {name} is not whole; expected the weight, lora_A and lora_B")
            _check_lora(name, tensors[name], pair, where)
            tensors[name] = tensors[name].float() + factor * (pair["B"].float() @ pair["A"].float())
        rank = next(iter(lora.values()))["A"].shape[0]
        notes += (f"LoRA merged in float32: {len(lora)} weights, rank {rank}, factor {factor:g}",)
    if ignored:
        notes += (f"{ignored} entries without effect ignored ({', '.join(_WITHOUT_EFFECT)})",)
    return tensors, notes


def _check_lora(name: str, weight: Tensor, pair: dict[str, Tensor], where: str) -> None:
    """Refuse matrices whose product is no update of the weight.

    Raises:
        CheckpointError: if a dtype, a value or a shape is wrong.
    """
    parts = {name: weight, f"{name}: lora_A": pair["A"], f"{name}: lora_B": pair["B"]}
    check_values(parts, where, every=True)
    shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
    rows, (rank, columns) = weight.shape[0], (pair["A"].shape[0], pair["A"].shape[-1])
    if list(shapes.values()) != [(rows, columns), (rank, columns), (rows, rank)]:
        raise CheckpointError(f"{where}: LoRA of another shape than its weight: {shapes}; copy it again")


def _renamed(name: str, network: str) -> str:
    """Return a checkpoint's name of a weight; an unknown one stays, and is refused by its name."""
    for theirs, ours in (("llm.base_model.model.", "llm."), ("embed_tokens.", "llm.model.embed_tokens.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs).replace(".base_layer", "")
    for start in _ENCODERS:
        if name.startswith(start):
            return "encoder." + renamed(name.removeprefix(start), network)
    return (name.startswith(PERCEPTION) and connector_name(name.removeprefix(PERCEPTION))) or name


def _lora_factor(fields: Fields, where: str) -> float:
    """Return the factor on B @ A.

    Raises:
        ConfigError: if the config has no `lora` section, or one that changes more than the factor.
    """
    lora = fields.get("lora")
    if not isinstance(lora, dict) or not all(isinstance(lora.get(name), int | float) for name in ("r", "lora_alpha")):
        raise ConfigError(f"{where}: it has LoRA weights, but config.json no lora section with r and lora_alpha")
    if not lora["r"] > 0:
        raise ConfigError(f"{where}: lora: r is {lora['r']}; expected the rank")
    if odd := sorted(name for name in _LORA_VARIANTS if lora.get(name)):
        raise ConfigError(f"{where}: lora sets {', '.join(odd)}, which is not supported; merge it with NeMo first")
    return float(lora["lora_alpha"]) / float(lora["r"])
