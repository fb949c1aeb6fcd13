"""Hotwords as people write them: lists, files, weights, and messages for what cannot be used."""

from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.errors import PromptError
from bestow_edge.core.hotwords import DEFAULT_WEIGHT, MOST_HOTWORDS, Hotword, check_hotwords, read_hotwords


def test_a_list() -> None:
    got = read_hotwords(" Nemotron,Bad  Homburg ,, Heidelberg :1.5", 2.0)
    assert got == (Hotword("Nemotron", 2.0), Hotword("Bad Homburg", 2.0), Hotword("Heidelberg", 1.5))


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("﻿Zürich, Altstadt\n\nRoute 66\nHeidelberg :0\n", encoding="utf-8")
    assert read_hotwords(str(path)) == (
        Hotword("Zürich, Altstadt", DEFAULT_WEIGHT), Hotword("Route 66", DEFAULT_WEIGHT), Hotword("Heidelberg", 0.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "hotwords '': expected at least one, a word, or a word and its weight such as `Heidelberg :4.5`"),
        (" , ,", "expected at least one"),
        ("Zürich :high", "hotword 'Zürich :high': 'high' is no weight; expected a word, or a word and its weight"),
        ("Zürich :nan", "hotword 'Zürich': weight nan, expected 0 to 20"),
        ("Zürich :-1", "hotword 'Zürich': weight -1.0, expected 0 to 20"),
        ("Zürich, :2", "a hotword is empty; write a word"),
        ("Zürich, Rom, Zürich :2", "hotword 'Zürich' is given twice; give each word once"),
        ("no/names.txt", r"no/names.txt: cannot be read \(.*\); expected a UTF-8 text with a hotword on each line"),
        (", ".join(map(str, range(1001))), "1001 hotwords: expected at most 1000; leave out"),
    ],
)
def test_what_cannot_be_used(given: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        read_hotwords(given)


def test_a_file_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(PromptError, match="cannot be read"):
        read_hotwords(str(tmp_path / "names.txt"))


def test_words_of_a_program() -> None:
    assert check_hotwords(["Rom", Hotword("Ulm", 1)]) == (Hotword("Rom", DEFAULT_WEIGHT), Hotword("Ulm", 1))
    assert len(check_hotwords([str(number) for number in range(MOST_HOTWORDS)])) == MOST_HOTWORDS
    with pytest.raises(PromptError, match=r"hotwords 'Rom': expected a list of words, such as \['Rom'\]"):
        check_hotwords("Rom")
    heavy: Any = "heavy"
    with pytest.raises(PromptError, match="hotword 'Rom': weight heavy, expected 0 to 20"):
        Hotword("Rom", heavy)
