"""Language pairs, tasks and the prompt's text."""

from dataclasses import replace

import pytest

from bestow_edge.core.config import ChatTemplate
from bestow_edge.core.errors import PromptError
from bestow_edge.core.prompts import (
    Pair,
    Question,
    Task,
    WrittenPassage,
    WrittenText,
    check_answers,
    check_trained,
    make_pair,
    parse_asked,
    parse_pair,
    parse_pairs,
    prompt_text,
    shown_pairs,
)


@pytest.mark.parametrize(
    ("text", "pair", "task"),
    [
        ("en-de", Pair("en", "de"), "translate"),
        ("de-de", Pair("de", "de"), "transcribe"),
        ("fr", Pair("fr", "fr"), "transcribe"),
        (" EN-De ", Pair("en", "de"), "translate"),
    ],
)
def test_pairs_are_read(text: str, pair: Pair, task: Task) -> None:
    got = parse_pair(text)
    assert got == pair
    assert got.task == task
    assert parse_pair(str(got)) == got


@pytest.mark.parametrize("text", ["", "-", "en-", "xx", "en-xx", "en-de-fr", "english", "en_de"])
def test_unknown_pairs_are_refused(text: str) -> None:
    with pytest.raises(PromptError, match="expected SOURCE-TARGET such as en-de, with codes out of en, de"):
        parse_pair(text)


def test_pairs_of_one_stream() -> None:
    assert parse_pairs("en-de") == (Pair("en", "de"),)
    assert parse_pairs("en-de, en,EN-fr") == (Pair("en", "de"), Pair("en", "en"), Pair("en", "fr"))
    for text, message in [
        ("en-en,de-en", "language pairs en-en and de-en: a stream has one language; give pairs of the same SOURCE"),
        ("en,en-de,en-en", "language pair en-en is given twice; give each pair once"),
        ("en-de,", "language pair '': expected SOURCE-TARGET"),
    ]:
        with pytest.raises(PromptError, match=message):
            parse_pairs(text)


def test_task_and_languages_must_agree() -> None:
    assert make_pair(None, "en", None) == Pair("en", "en")
    assert make_pair("transcribe", "de", None) == Pair("de", "de")
    assert make_pair("translate", "en", "de") == Pair("en", "de")
    with pytest.raises(PromptError, match="task 'translate' with languages en-en: that pair means 'transcribe'"):
        make_pair("translate", "en", None)
    with pytest.raises(PromptError, match="task 'transcribe' with languages en-de"):
        make_pair("transcribe", "en", "de")


def test_the_prompt_names_the_languages() -> None:
    chat = ChatTemplate(before="<u>", after="<a>")
    assert prompt_text(Pair("en", "de"), chat) == "<u>Translate the English speech to German.<a>"
    assert prompt_text(Pair("de", "de"), chat) == "<u>Transcribe the German speech.<a>"


def test_questions_and_written_texts_are_in_the_prompt() -> None:
    chat = ChatTemplate(before="<u>", after="<a>")
    question = prompt_text(Question("de", "  Who\n speaks? "), chat)
    assert question == "<u>Answer the question about the German speech: Who speaks?<a>"
    written = prompt_text(WrittenText("en", "fr", "Good day."), chat)
    assert written == "<u>Translate the English text to French: Good day.<a>"
    passage = prompt_text(WrittenPassage("de", "Wer\nkommt?", " Tom kommt. "), chat)
    assert passage == "<u>Answer the question about the German text: Wer kommt? Tom kommt.<a>"
    with pytest.raises(PromptError, match="the passage is empty; write one"):
        WrittenPassage("en", "Who?", "")
    with pytest.raises(PromptError, match="the question is empty; write one"):
        Question("en", " \n")
    with pytest.raises(PromptError, match="language 'xx': expected one of en, de"):
        Question("xx", "Who?")
    with pytest.raises(PromptError, match="language 'xx'"):
        WrittenText("en", "xx", "a")


def test_what_is_asked_about_one_stream() -> None:
    who, what = Question("en", "Who?"), Question("en", "What?")
    both = (Pair("en", "en"), Pair("en", "de"))
    assert parse_asked("en", ["Who?", " What? "]) == (who, what)
    assert parse_asked("en-en", ["Who?"]) == (both[0], who)
    assert parse_asked("en-en,en-de", ["Who?", "What?"]) == (*both, who, what)
    assert parse_asked("en", []) == both[:1]
    assert [str(asked) for asked in parse_asked("en-en", ["Who?"])] == ["en-en", "Who?"]
    with pytest.raises(PromptError, match=r"question 'Who\?' is given twice; give each question once"):
        parse_asked("en", ["Who?", "What?", "Who? "])
    with pytest.raises(PromptError, match="the question is empty; write one"):
        parse_asked("en", [""])
    with pytest.raises(PromptError, match="language pair 'xx': expected"):
        parse_asked("xx", ["Who?"])


def test_untrained_questions_are_refused() -> None:
    check_answers(Question("de", "Wer?"), ("de", "en"))
    with pytest.raises(PromptError, match="question about speech in de: this model answers questions about en"):
        check_answers(Question("de", "Wer?"), ("en",))
    with pytest.raises(PromptError, match="not trained to answer questions about speech; ask one that was"):
        check_answers(Question("de", "Wer?"), ())


def test_untrained_pairs_are_refused() -> None:
    check_trained(Pair("en", "de"), ("en-en", "en-de"))
    with pytest.raises(PromptError, match="language pair de-en: this model was trained for en-en, en-de"):
        check_trained(Pair("de", "en"), ("en-en", "en-de"))


def test_many_pairs_are_shown_by_the_language_asked_for() -> None:
    many = tuple(f"{code}-{target}" for code in ("de", "en", "fr", "es", "it", "pt") for target in (code, "en", "nl"))
    assert shown_pairs(many[:3], "de") == "de-de, de-en, de-nl"
    assert shown_pairs(many, "fr") == "fr-fr, fr-en, fr-nl, and for 15 pairs of other languages"
    assert shown_pairs(many, "zh") == "18 pairs; it hears de, en, es, fr, it, pt"


def test_an_instruction_of_the_chat_format() -> None:
    chat = ChatTemplate(before="<s>", instruction="<{source}><{task}>", after="<go>")
    assert prompt_text(parse_pair("de-en"), chat) == "<s><de><translate><go>"
    assert prompt_text(parse_pair("de"), chat) == "<s><de><transcribe><go>"
    assert prompt_text(parse_pair("de"), replace(chat, instruction="")) == "<s><go>"


def test_a_pair_whose_language_is_detected() -> None:
    both = parse_pairs("auto, AUTO-en")
    assert (
        both == (Pair("auto", "auto"), Pair("auto", "en")) == tuple(parse_pair(str(pair), auto=True) for pair in both)
    )
    assert [str(pair) for pair in both] == ["auto", "auto-en"]
    assert [pair.spoken("de") for pair in both] == [Pair("de", "de"), Pair("de", "en")]
    assert both[1].spoken("en") == Pair("en", "en")
    assert Pair("de", "en").spoken("fr") == Pair("de", "en")
    assert make_pair(None, "auto", None) == both[0]
    assert make_pair("translate", "auto", "en") == both[1]
    for text in ("auto", "auto-en"):  # where a language must be named
        with pytest.raises(PromptError, match="expected SOURCE-TARGET such as en-de"):
            parse_pair(text)
    for text in ("en-auto", "auto-auto", "auto-xx"):
        with pytest.raises(PromptError, match="or auto for SOURCE"):
            parse_pair(text, auto=True)
    with pytest.raises(PromptError, match="a stream has one language"):
        parse_pairs("auto,de-en")


def test_a_detected_language_must_be_trained() -> None:
    trained = ("en-en", "de-de", "de-en")
    check_trained(Pair("auto", "auto"), trained, ("en", "de"))
    check_trained(Pair("auto", "en"), trained, ("en", "de"))
    with pytest.raises(PromptError, match="language pair auto-de: this model was not trained for en-de, which it may"):
        check_trained(Pair("auto", "de"), trained, ("en", "de"))
    with pytest.raises(PromptError, match="language pair auto: this model detects no language; name one: en-en, de-de"):
        check_trained(Pair("auto", "auto"), trained)
