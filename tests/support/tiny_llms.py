"""LLMs of some thousand random weights with tokenizers and chat templates like those of the families they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

TEXTS = ["one two three four five six seven", "eins zwei drei vier fünf", "Transcribe the English speech."]
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TOKENIZERS: dict[str, dict[str, Any]] = {
    "qwen": {"special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "chat": CHATML, "eos": "<|im_end|>"},
    "llama": {
        "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "chat": LLAMA_3, "bos": "<|begin_of_text|>", "eos": "<|eot_id|>",
    },
    "gemma": {
        "special": ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        "chat": GEMMA, "bos": "<bos>", "eos": "<eos>",
    },
    "base": {"special": ["<unk>", "<s>", "</s>"], "chat": None, "bos": "<s>", "eos": "</s>", "begins": True},
}  # fmt: skip
END_IDS = {"qwen": [0, 2], "llama": [1, 4], "gemma": [1, 4], "base": 2}  # as their generation configs have them
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEADS_16: dict[str, Any] = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 40}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {  # tokenizer, model type, fields
    "llama": ("llama", "llama", {}),
    "llama-base": ("base", "llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen", "qwen2", {}),
    "qwen3-tied": ("qwen", "qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "smollm3": ("qwen", "smollm3", {}),
    "gemma": ("gemma", "gemma", {"head_dim": 16}),
    "gemma2": ("gemma", "gemma2", HEADS_16 | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}),
    "gemma3": ("gemma", "gemma3_text", HEADS_16 | {"layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": ("base", "mistral", {"sliding_window": 40}),
    "phi3": ("base", "phi3", {}),
    "granite": ("base", "granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
}


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 320 tokens with the special tokens and the chat template of a family."""
    fields = TOKENIZERS[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=fields["special"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if fields.get("begins"):
        begin = fields["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=fields.get("bos"), eos_token=fields.get("eos"), extra_special_tokens=[]
    )
    fast.chat_template = fields["chat"]
    return fast


def make_llm(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    """Write an LLM with random weights as transformers saves it."""
    tokenizer, model_type, fields = FAMILIES[family]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES | fields)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.1)
    model.generation_config.eos_token_id = END_IDS[tokenizer]
    save(model.to(dtype), folder)
    make_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def save(model: Any, folder: Path, **options: Any) -> Path:
    """Save a transformers model without its progress bar."""
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder, **options)
    finally:
        logging.enable_progress_bar()
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Change fields of a JSON object; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}), encoding="utf-8")
