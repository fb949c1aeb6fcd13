"""A Whisper of some thousand random weights with its tokenizer and configs, as transformers saves it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from bestow_edge.core.config import PolicyConfig
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.checkpoint import save_checkpoint
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.whisper import whole

WORDS = ["one two three four five six seven", "eins zwei drei vier"]
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
            "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip
SECONDS = 2  # instead of 30
TIMES = 5  # tokens of time behind the special ones


def tiny_tokenizer(multilingual: bool = True) -> Tokenizer:
    """Return a byte-level tokenizer whose special tokens come last, as Whisper's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet))
    left_out = () if multilingual else ("<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>")
    tokenizer.add_special_tokens([name for name in SPECIALS if name not in left_out])
    return tokenizer


def save_whisper(folder: Path, *, multilingual: bool = True, seed: int = 0, **generation: Any) -> Path:
    """Write a random Whisper.

    Args:
        folder: where it goes.
        multilingual: without, it is as an `.en` one: no tokens for languages and tasks.
        seed: of the weights.
        **generation: further fields of its generation config.
    """
    tokenizer = tiny_tokenizer(multilingual)
    ids = {name: tokenizer.token_to_id(name) for name in SPECIALS}
    end = ids["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size() + TIMES, num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=50 * SECONDS, max_target_positions=96, decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=end, bos_token_id=end, pad_token_id=end, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():  # large enough for speech to change what it writes
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.dim() > 1 else 0.1) + (weight.dim() == 1) * weight)
    fields: dict[str, Any] = {
        "alignment_heads": [[0, 1], [1, 3]], "suppress_tokens": [5, 6, 7], "begin_suppress_tokens": None,
        "is_multilingual": multilingual, "no_timestamps_token_id": ids["<|notimestamps|>"], "max_length": 96,
    }  # fmt: skip
    if multilingual:
        fields["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in ("en", "de")}
        fields["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")}
    fields |= {"decoder_start_token_id": ids["<|startoftranscript|>"], "eos_token_id": end, "pad_token_id": end}
    model.generation_config = GenerationConfig(**(fields | generation))
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def export_whisper(folder: Path, out: Path, *, padding_s: float = SECONDS, detection_steps: int = 38) -> Path:
    """Make a float32 bundle of a Whisper, which streams by align-att, and return its directory."""
    policy = PolicyConfig(name="align-att", l=4, threshold=2)
    whisper = whole(folder, WholeRequest(source=str(folder), policy=policy, padding_s=padding_s))
    model = whisper.model
    connector = replace(model.config.connector, detection_steps=detection_steps)
    model.config = replace(model.config, connector=connector)
    save_checkpoint(model, whisper.tokenizer.to_str(), out / "checkpoint")
    export_bundle(out / "checkpoint", out / "fp32", precision="fp32", progress=lambda _: None)
    return out / "fp32"


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    kept = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
