"""The tokenizer of a model trained from scratch, and token ids of prompts and answers.

A pretrained LLM has its own `tokenizer.json`. The tokenizer here is for small models: byte-level BPE, which encodes any
text, trained on the transcripts, with the special tokens of the chat format.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.prompts import Asked, parse_pair, prompt_text

BEGIN, END, PAD, USER, ASSISTANT = "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, BEGIN, END, USER, ASSISTANT]
WORD_TEXTS = 10_000
CHAT = ChatTemplate(before=f"{BEGIN}{USER}", after=ASSISTANT)


def train_tokenizer(
    texts: Iterable[str], pairs: Iterable[str], vocab_size: int, words: Collection[str] = (), mark: str = ""
) -> Tokenizer:
    """Train a byte-level BPE tokenizer on texts and on the prompts of language pairs.

    `vocab_size` counts special tokens and the 256 bytes too. `words` become tokens of their own: each counts as if
    `WORD_TEXTS` texts contained it. `mark` is the special token in whose place speech stands, if there is one.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, mark] if mark else SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = [parse_pair(pair).instruction for pair in pairs]
    often = (" ".join([word] * WORD_TEXTS) for word in sorted(words))
    tokenizer.train_from_iterator([*sorted(set(texts)), *prompts, *often], trainer)
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, asked: str | Asked, chat: ChatTemplate) -> list[int]:
    """Return the token ids of the prompt for a language pair (`en-de`) or for another request."""
    request = parse_pair(asked) if isinstance(asked, str) else asked
    ids: list[int] = tokenizer.encode(prompt_text(request, chat), add_special_tokens=False).ids
    return ids


def answer_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of an answer, without the end token."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
