"""The tokenizer of a model trained from scratch, and answers as token ids. Knows text only.

A pretrained LLM brings its own `tokenizer.json`; this one is for small models: byte-level BPE, so that no text is
unknown, trained on the transcripts, with the chat format's special tokens.
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
    texts: Iterable[str], pairs: Iterable[str], vocab_size: int, words: Collection[str] = ()
) -> Tokenizer:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: transcripts and translations.
        pairs: language pairs, whose prompts are learned too.
        vocab_size: number of tokens, special ones and 256 bytes included.
        words: words that count as if `WORD_TEXTS` texts had them, so that each becomes a token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = [parse_pair(pair).instruction for pair in pairs]
    often = (" ".join([word] * WORD_TEXTS) for word in sorted(words))
    tokenizer.train_from_iterator([*sorted(set(texts)), *prompts, *often], trainer)
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, asked: str | Asked, chat: ChatTemplate) -> list[int]:
    """Return the token ids of a whole prompt, of a language pair (`en-de`) or of what else is asked."""
    what = parse_pair(asked) if isinstance(asked, str) else asked
    ids: list[int] = tokenizer.encode(prompt_text(what, chat), add_special_tokens=False).ids
    return ids


def answer_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of an answer, without the end token."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
