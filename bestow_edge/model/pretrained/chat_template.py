"""A tokenizer's chat template as the two texts around a user turn, and the tokens that end an answer.

The template is rendered by transformers, in its sandbox, with a marker for the instruction; export and training need
only the texts before and behind the marker.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.errors import CheckpointError
from bestow_edge.model.pretrained.configs import refused

Untyped = Any  # a transformers tokenizer or config: they have no types
_MARK, _ANSWER = "BESTOWINSTRUCTION", "BESTOWANSWER"  # no template changes or splits a word like these
_CHOICES = {
    "enable_thinking": False,  # Qwen 3, SmolLM 3: the answer itself, no reasoning before it
    "date_string": "26 Jul 2024",  # Llama 3: its template's own default, not the day on which this runs
}
# The same for templates that ask for today; the empty text keeps a new line at their begin.
_NO_TODAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"


def chat_template(tokenizer: Untyped, where: str) -> ChatTemplate:
    """Return the texts before and behind an instruction, up to where the answer begins.

    Without a chat template: the begin token if the tokenizer puts one before texts, and a new line.

    Args:
        tokenizer: transformers' tokenizer.
        where: name of the source, for messages.

    Raises:
        CheckpointError: if the template fails, or drops or changes the instruction.
    """
    if not tokenizer.chat_template:
        ids = _ids(tokenizer, "a", where)
        begins = tokenizer.bos_token is not None and ids[:1] == [tokenizer.bos_token_id]
        return ChatTemplate(before=tokenizer.bos_token if begins else "", after="\n")
    text = _rendered(tokenizer, [{"role": "user", "content": _MARK}], where, add_generation_prompt=True)
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after:
        raise CheckpointError(f"{where}: its chat template holds a user turn {text.count(_MARK)} times, expected once")
    return ChatTemplate(before=before, after=after)


def end_ids(tokenizer: Untyped, config: Untyped, generation: Untyped, where: str) -> list[int]:
    """Return the tokens that end an answer, the one that a chat turn ends with first.

    Args:
        tokenizer: transformers' tokenizer.
        config: the model's config.
        generation: its generation config, which is asked before the others; or None.
        where: name of the source, for messages.

    Raises:
        CheckpointError: if there is no such token, or one is not in the vocabulary.
    """
    for source in (generation, config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            break
    else:
        raise CheckpointError(
            f"{where}: no token ends an answer: neither generation_config.json nor config.json has an eos_token_id, "
            "nor the tokenizer an eos_token; add one"
        )
    numbers = found if isinstance(found, list) else [found]
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise CheckpointError(f"{where}: eos_token_id is {found!r:.60}; expected the number of a token, or some")
    ids = list(dict.fromkeys(numbers))
    if beyond := [number for number in ids if number >= min(len(tokenizer), config.vocab_size)]:
        raise CheckpointError(f"{where}: end tokens {beyond} are not in the vocabulary of {len(tokenizer)} tokens")
    turn = _turn_end(tokenizer, where)
    return sorted(ids, key=lambda number: number != turn)  # stable: the others keep their order


def _turn_end(tokenizer: Untyped, where: str) -> int | None:
    """Return the token that the chat template writes behind an answer; the tokenizer's end token without one."""
    if not tokenizer.chat_template:
        return int(tokenizer.eos_token_id) if tokenizer.eos_token_id is not None else None
    turns = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _ANSWER}]
    text = _rendered(tokenizer, turns, where, add_generation_prompt=False)
    ids = _ids(tokenizer, text.rpartition(_ANSWER)[2].lstrip(), where, add_special_tokens=False)
    return ids[0] if ids else None


def _ids(tokenizer: Untyped, text: str, where: str, **options: bool) -> list[int]:
    with refused(f"{where}: its tokenizer does not encode", CheckpointError):
        return [int(number) for number in tokenizer(text, **options)["input_ids"]]


def _rendered(tokenizer: Untyped, turns: list[dict[str, str]], where: str, *, add_generation_prompt: bool) -> str:
    with refused(f"{where}: its chat template does not render", CheckpointError, TemplateError):
        template = _NO_TODAY + tokenizer.get_chat_template()
        text: str = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt, **_CHOICES
        )
    return text
