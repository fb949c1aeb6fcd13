"""Prompts: a task and its languages as one user turn in the LLM's chat format. Plain Python.

Export turns the prompt of each language pair into token ids once and stores them in the bundle, so that the runtime
needs no template engine. A question's prompt holds the question, so its ids are made when it is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.errors import PromptError
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.languages import LANGUAGES

Task = Literal["transcribe", "translate"]
MOST_SHOWN = 12  # pairs that a message names one by one
AUTO = "auto"
"""In place of a language code: the language that a model detects in the speech."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Language of the speech and of the text; equal codes mean transcription.

    `auto` stands for the detected language: `Pair("auto", "auto")` transcribes, `Pair("auto", "en")` translates to
    English.
    """

    source: str
    target: str

    def __str__(self) -> str:
        return AUTO if self.target == AUTO else f"{self.source}-{self.target}"

    def spoken(self, language: str) -> Pair:
        """Return the pair with the language that was detected; a pair that names its language stays as it is."""
        if self.source != AUTO:
            return self
        return Pair(language, language if self.target == AUTO else self.target)

    @property
    def task(self) -> Task:
        """The task these languages make."""
        return "transcribe" if self.source == self.target else "translate"

    @property
    def instruction(self) -> str:
        """The user turn in English, as the LLM reads it."""
        source, target = LANGUAGES[self.source], LANGUAGES[self.target]
        if self.task == "transcribe":
            return f"Transcribe the {source} speech."
        return f"Translate the {source} speech to {target}."


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the speech, in the user's words; its answer is in the language of the question."""

    source: str
    """Language of the speech."""
    text: str
    """The question."""

    def __post_init__(self) -> None:
        """Check both, and write any white space in the question as one space."""
        check_languages(self.source)
        object.__setattr__(self, "text", _one_line(self.text, "question"))

    def __str__(self) -> str:
        return self.text

    def spoken(self, language: str) -> Question:  # noqa: ARG002 - see `Pair.spoken`
        """Return the question, which names its language."""
        return self

    @property
    def instruction(self) -> str:
        """The user turn in English, as the LLM reads it, with the question as it was asked."""
        return f"Answer the question about the {LANGUAGES[self.source]} speech: {self.text}"


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A written text to translate: what an LLM is taught without speech."""

    source: str
    target: str
    text: str

    def __post_init__(self) -> None:
        """Check the languages, and write any white space in the text as one space."""
        check_languages(self.source, self.target)
        object.__setattr__(self, "text", _one_line(self.text, "text to translate"))

    @property
    def instruction(self) -> str:
        """The user turn in English, as the LLM reads it, with the text."""
        return f"Translate the {LANGUAGES[self.source]} text to {LANGUAGES[self.target]}: {self.text}"


@dataclass(frozen=True, slots=True)
class WrittenPassage:
    """A question about a written passage: what an LLM is taught without speech, and asked of a transcript."""

    source: str
    """Language of the passage."""
    question: str
    """The question, in the user's words."""
    text: str
    """The passage."""

    def __post_init__(self) -> None:
        """Check all three, and write any white space as one space."""
        check_languages(self.source)
        object.__setattr__(self, "question", _one_line(self.question, "question"))
        object.__setattr__(self, "text", _one_line(self.text, "passage"))

    @property
    def instruction(self) -> str:
        """The user turn in English, as the LLM reads it, with the question and the passage."""
        return f"Answer the question about the {LANGUAGES[self.source]} text: {self.question} {self.text}"


AboutSpeech = Pair | Question
"""A request about speech."""
Written = WrittenText | WrittenPassage
"""A request about a text."""
Asked = AboutSpeech | Written
"""A request."""


def check_languages(*codes: str) -> None:
    """Refuse unknown language codes.

    Raises:
        PromptError: if a code is not one of `LANGUAGES`.
    """
    for code in codes:
        if code not in LANGUAGES:
            raise PromptError(f"language {code!r}: expected one of {', '.join(LANGUAGES)}")


def _one_line(text: str, what: str) -> str:
    line = " ".join(text.split())
    if not line:
        raise PromptError(f"the {what} is empty; write one")
    return line


def parse_pair(text: str, *, auto: bool = False) -> Pair:
    """Read `en-de`, or `en` for `en-en`.

    Args:
        text: the pair.
        auto: accept `auto` as the language of the speech too, as in `auto` and `auto-en`.

    Raises:
        PromptError: if it is not a pair of known language codes.
    """
    parts = text.strip().lower().split("-")
    codes = parts * 2 if len(parts) == 1 else parts
    spoken = (*LANGUAGES, AUTO) if auto else tuple(LANGUAGES)
    if len(codes) != 2 or codes[0] not in spoken or not (codes[1] in LANGUAGES or parts == [AUTO]):
        expected = f"expected SOURCE-TARGET such as en-de, with codes out of {', '.join(LANGUAGES)}"
        raise PromptError(f"language pair {text!r}: {expected}{', or auto for SOURCE' if auto else ''}")
    return Pair(*codes)


def parse_pairs(text: str) -> tuple[Pair, ...]:
    """Read the pairs that are asked about one stream: `en-en,en-de` or `auto,auto-en`.

    Raises:
        PromptError: if one is not a pair or is given twice, or they differ in the language of the speech.
    """
    pairs = tuple(parse_pair(part, auto=True) for part in text.split(","))
    for pair in pairs:
        if pair.source != pairs[0].source:
            both = f"{pairs[0]} and {pair}"
            raise PromptError(f"language pairs {both}: a stream has one language; give pairs of the same SOURCE")
        if pairs.count(pair) > 1:
            raise PromptError(f"language pair {pair} is given twice; give each pair once")
    return pairs


def parse_asked(lang: str, questions: Sequence[str]) -> tuple[AboutSpeech, ...]:
    """Read the requests about one stream: language pairs, questions, or both.

    Args:
        lang: pairs, as for `parse_pairs`; beside questions a single code, such as `en`, is the language of the speech
            and not a pair.
        questions: in the user's words; may be none.

    Raises:
        PromptError: if `parse_pairs` refuses the pairs, or a question is empty or given twice.
    """
    alone = bool(questions) and "-" not in lang and "," not in lang
    pairs = parse_pairs(lang)
    found = tuple(Question(pairs[0].source, text) for text in questions)
    if twice := [question.text for question in found if found.count(question) > 1]:
        raise PromptError(f"question {twice[0]!r} is given twice; give each question once")
    return found if alone else (*pairs, *found)


def make_pair(task: Task | None, source: str, target: str | None) -> Pair:
    """Build a pair from a session's arguments.

    Args:
        task: "transcribe", "translate", or None to let the languages decide.
        source: language code of the speech, or `auto`.
        target: language code of the text, or None for the language of the speech.

    Raises:
        PromptError: if a code is unknown, or the task contradicts the languages.
    """
    pair = parse_pair(f"{source}-{target}" if target else source, auto=True)
    if task is not None and task != pair.task:
        raise PromptError(f"task {task!r} with languages {pair}: that pair means {pair.task!r}; change one of the two")
    return pair


def prompt_text(asked: Asked, chat: ChatTemplate, hotwords: Sequence[Hotword] = ()) -> str:
    """Return the whole prompt, from the first special token to where the answer begins.

    It holds the hotwords if the model's prompt takes any.
    """
    instruction = asked.instruction
    if chat.instruction is not None and isinstance(asked, Pair):
        instruction = chat.instruction.format(
            source=asked.source,
            target=asked.target,
            task=asked.task,
            source_name=LANGUAGES[asked.source],
            target_name=LANGUAGES[asked.target],
        )
    context = ", ".join(word.text for word in hotwords) if chat.before_hotwords else ""
    before = f"{chat.before_hotwords}{context}{chat.before.removeprefix(chat.before_hotwords)}"
    return f"{before}{instruction}{chat.after}"


def check_trained(pair: Pair, trained: tuple[str, ...], detects: Collection[str] = ()) -> None:
    """Refuse a pair the model was not trained for.

    Args:
        pair: the pair; with `auto` for the speech, each language that the model detects must be a pair of `trained`.
        trained: pairs of the model.
        detects: languages that it detects.

    Raises:
        PromptError: if the pair is not in `trained`, or the model detects no language.
    """
    if pair.source == AUTO:
        if not detects:
            known = shown_pairs(trained)
            raise PromptError(f"language pair {pair}: this model detects no language; name one: {known}")
        if lacking := [one for one in map(pair.spoken, detects) if str(one) not in trained]:
            raise PromptError(f"language pair {pair}: this model was not trained for {lacking[0]}, which it may detect")
    elif str(pair) not in trained:
        raise PromptError(f"language pair {pair}: this model was trained for {shown_pairs(trained, pair.source)}")


def shown_pairs(pairs: Sequence[str], source: str | None = None) -> str:
    """Return language pairs for people: all of a few, and of many those of a language, or their number."""
    if len(pairs) <= MOST_SHOWN:
        return ", ".join(pairs)
    if source is not None and (same := [pair for pair in pairs if pair.startswith(f"{source}-")]):
        return f"{', '.join(same)}, and for {len(pairs) - len(same)} pairs of other languages"
    spoken = sorted({pair.partition("-")[0] for pair in pairs})
    return f"{len(pairs)} pairs; it hears {', '.join(spoken)}"


def check_answers(question: Question, trained: tuple[str, ...]) -> None:
    """Refuse a question that the model was not trained to answer.

    Args:
        question: the question.
        trained: languages of the speech that the model answers questions about.

    Raises:
        PromptError: if its speech is in another language, or the model answers no questions.
    """
    if not trained:
        problem = "this model was not trained to answer questions about speech"
        raise PromptError(f"{problem}; ask one that was: `bestow-edge inspect` tells")
    if question.source not in trained:
        known = ", ".join(trained)
        raise PromptError(f"question about speech in {question.source}: this model answers questions about {known}")
