"""A Qwen3-ASR of some thousand random weights with its tokenizer, as transformers or as its authors save it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>",
            "<asr_text>")  # fmt: skip
SECONDS = 2  # of a block, instead of 8


def save_qwen3_asr(folder: Path, *, authors: bool = False, seed: int = 0) -> Path:
    """Write a random model.

    Args:
        folder: where it goes.
        authors: names and config as in the authors' own repository, not as transformers saves them.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = ["system user assistant language English German one two three four"]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_special_tokens(list(SPECIALS))
    ids = {name: tokenizer.token_to_id(name) for name in SPECIALS}
    config = Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder", "num_mel_bins": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64, "d_model": 32, "n_window_infer": 100 * SECONDS, "output_dim": 48,
            "downsample_hidden_size": 16,
        },
        text_config={
            "model_type": "qwen3", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320,
            "max_position_embeddings": 2048, "tie_word_embeddings": True,
        },
        audio_token_id=ids["<|audio_pad|>"], eos_token_id=[ids["<|endoftext|>"], ids["<|im_end|>"]],
        pad_token_id=ids["<|endoftext|>"],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen3ASRForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # large enough for speech to change what it writes
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.dim() > 1 else 0.1) + (weight.dim() == 1) * weight)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    written = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    if authors:
        _as_authors(folder, model)
    return folder


def _as_authors(folder: Path, model: Qwen3ASRForConditionalGeneration) -> None:
    names = {
        "model.multi_modal_projector.linear_1.": "thinker.audio_tower.proj1.",
        "model.multi_modal_projector.linear_2.": "thinker.audio_tower.proj2.",
        "model.audio_tower.": "thinker.audio_tower.",
        "model.language_model.": "thinker.model.",
    }
    weights = {}
    for name, tensor in model.state_dict().items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), None)
        if prefix is not None:  # the head is tied
            weights[names[prefix] + name.removeprefix(prefix)] = tensor.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    text = fields["text_config"]
    text["model_type"] = "qwen3_asr_text"
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text["rope_scaling"] = {"mrope_section": [24, 20, 20], "rope_type": "default", "mrope_interleaved": True}
    fields["audio_config"]["model_type"] = "qwen3_asr_audio_encoder"
    thinker = {name: fields[name] for name in ("audio_config", "text_config", "audio_token_id", "eos_token_id")}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_asr", "thinker_config": thinker}))
