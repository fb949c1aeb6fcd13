"""Make an LLM that passes an adapter's answer on, with the part of Whisper's vocabulary that some texts need.

    python examples/people/llm.py WHISPER OUT --texts en.txt de.txt --layers 1

Its embeddings are Whisper's own. Each layer begins by adding nothing, so that behind an adapter that is Whisper's
decoder it writes what Whisper would write. OUT is a folder for `bestow-edge init --llm`. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
SPECIALS = (END, "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>")
TEMPLATE = "<|startoftranscript|>{{ messages[0].content }}<|notimestamps|>"
NORM_SCALE = (
    20.0  # about the root of the mean square of what Whisper's decoder ends with, which the last norm divides by
)


def cut_vocabulary(tokenizer: Tokenizer, texts: Iterable[str], most: int) -> tuple[Tokenizer, list[int]]:
    """Return a tokenizer with the tokens that are used most, and their old ids in the order of the new ones.

    All single bytes stay, so that any text can be written; so do the tokens that a kept token is merged from.

    Args:
        tokenizer: Whisper's.
        texts: sentences; each is counted as the begin and as the middle of an answer.
        most: tokens to keep, special ones aside.
    """
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary, merges = document["model"]["vocab"], [tuple(pair) for pair in document["model"]["merges"]]
    parts = {left + right: (left, right) for left, right in reversed(merges)}
    counts: Counter[str] = Counter()
    for text in texts:
        for form in (text, f" {text}"):
            counts.update(tokenizer.encode(form, add_special_tokens=False).tokens)
    specials = {entry["content"]: entry for entry in document["added_tokens"]}
    kept = {name for name in vocabulary if name not in parts and name not in specials}  # single bytes
    for name, _ in counts.most_common():
        needed = _closure(name, parts) - kept if name in vocabulary else set()
        if len(kept) + len(needed) <= most:
            kept |= needed
    names = sorted(kept, key=lambda name: int(vocabulary[name]))
    document["model"]["vocab"] = {name: index for index, name in enumerate(names)}
    document["model"]["merges"] = [list(pair) for pair in merges if {*pair, "".join(pair)} <= kept]
    document["added_tokens"] = [specials[name] | {"id": len(names) + index} for index, name in enumerate(SPECIALS)]
    document["post_processor"] = None
    document["pre_tokenizer"]["add_prefix_space"] = True  # Whisper's answers begin with a space
    old = [int(vocabulary[name]) for name in names] + [int(specials[name]["id"]) for name in SPECIALS]
    return Tokenizer.from_str(json.dumps(document)), old


def _closure(name: str, parts: dict[str, tuple[str, str]]) -> set[str]:
    """Return a token and all that it is merged from."""
    found, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += parts.get(one, ())
    return found


@torch.no_grad()
def passing_llm(embeddings: torch.Tensor, layers: int, end: int, context: int) -> LlamaForCausalLM:
    """Return an LLM whose layers add nothing.

    Args:
        embeddings: (tokens, width) float, of input and output.
        layers: number of layers.
        end: token that ends an answer.
        context: most tokens of a text.
    """
    width = embeddings.shape[1]
    config = LlamaConfig(
        vocab_size=len(embeddings), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), max_position_embeddings=context, tie_word_embeddings=True,
        eos_token_id=end, bos_token_id=None, pad_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    llm = LlamaForCausalLM(config)
    llm.model.embed_tokens.weight.copy_(embeddings)
    llm.model.norm.weight.fill_(NORM_SCALE)
    for layer in llm.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return llm


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path, help="folder of a Whisper")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="files with a sentence a line")
    parser.add_argument("--tokens", type=int, default=60_000, help="most tokens that the texts use, special ones aside")
    parser.add_argument("--layers", type=int, default=1, help="layers of the LLM")
    options = parser.parse_args(arguments)
    lines = (line.strip() for path in options.texts for line in path.read_text(encoding="utf-8").splitlines())
    tokenizer, old = cut_vocabulary(Tokenizer.from_file(str(options.whisper / "tokenizer.json")), lines, options.tokens)
    context = json.loads((options.whisper / "config.json").read_text())["max_target_positions"]
    with safe_open(str(options.whisper / "model.safetensors"), "pt") as weights:
        table = weights.get_tensor("model.decoder.embed_tokens.weight").float()[old]
    llm = passing_llm(table, options.layers, tokenizer.token_to_id(END), context)
    llm.save_pretrained(options.out)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, chat_template=TEMPLATE)
    fast.save_pretrained(options.out)
    print(f"{options.out}: {len(old)} tokens, {options.layers} layers, {llm.num_parameters():,} weights")


if __name__ == "__main__":
    main()
