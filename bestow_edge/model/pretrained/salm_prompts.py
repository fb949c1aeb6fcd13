"""NeMo's prompt formats as chat templates.

NeMo makes the tokens of each part of a prompt apart. A format with a block for thoughts gets an empty one. Source:
NeMo 3.0.0, `common/prompts`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tokenizers import Tokenizer

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.errors import ConfigError

Fields = dict[str, Any]  # Any: decoded JSON
Untyped = Any  # a transformers tokenizer: they have no types
INSTRUCTION = "Transcribe the following: "  # of canary-qwen-2.5b


class PromptFormat(NamedTuple):
    """The parts of a prompt."""

    before: str
    """User turn before the message."""
    after: str
    """User turn behind the message."""
    answer: str = ""
    """Begin of the answer."""
    bos: bool = False
    """The tokenizer's begin token comes first."""


_QWEN = PromptFormat("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n")
FORMATS: dict[str, PromptFormat] = {
    "qwen": _QWEN,
    "qwen3": _QWEN._replace(answer=f"{_QWEN.answer}<think>\n\n</think>\n\n"),
    "llama2": PromptFormat("[INST] ", " [/INST]", bos=True),
    "llama3": PromptFormat(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": PromptFormat("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", bos=True),
    "phi2_qa": PromptFormat("Instruct: ", "\nOutput: "),
    "phi2_chat": PromptFormat("Human: ", "\nAI: "),
    "plain": PromptFormat("", ""),
}


def salm_chat(fields: Fields, tokenizer: Untyped, plain: Tokenizer, instruction: str, where: str) -> ChatTemplate:
    """Return the chat template of a SALM; speech follows the instruction.

    Args:
        fields: the model's config.json, with `prompt_format` and `audio_locator_tag`.
        tokenizer: transformers' tokenizer of the LLM.
        plain: the same with the tag.
        instruction: see `ChatTemplate.instruction`; it may end with the tag.
        where: name of the source, for messages.

    Raises:
        ConfigError: if the format is unknown, its tokens would not be NeMo's, or speech stands inside the instruction.
    """
    tag, name = fields["audio_locator_tag"], fields.get("prompt_format")
    if not isinstance(name, str) or name not in FORMATS:
        raise ConfigError(f"{where}: prompt_format {name!r} is not supported; expected one of {', '.join(FORMATS)}")
    form = FORMATS[name]
    instruction = instruction.removesuffix(tag)
    if tag in instruction:
        raise ConfigError(f"--instruction {instruction!r}: speech follows the instruction; leave {tag} out")
    bos = str(tokenizer.bos_token or "") if form.bos else ""
    chat = ChatTemplate(before=bos + form.before, instruction=instruction, after=tag + form.after + form.answer)
    parts = (bos, f"{form.before}{INSTRUCTION}{tag}{form.after}", form.answer)
    apart = [token for part in parts for token in plain.encode(part, add_special_tokens=False).ids]
    joined = plain.encode(f"{chat.before}{INSTRUCTION}{chat.after}", add_special_tokens=False).ids
    if apart != joined:
        raise ConfigError(
            f"{where}: prompt_format {name}: this tokenizer joins parts of a prompt that NeMo keeps apart"
        )
    return chat
