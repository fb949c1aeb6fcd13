"""Output on a terminal: what is printed is shown as it is, and never acts on the terminal."""

import json
import sys
from collections.abc import Callable

import pytest

from bestow_edge.cli.show.console import new_table, plain, say, say_error, say_warning, write, write_json, write_tables

EVIL = "a\x1b[2J\x9b\u202eb[/x][red]"
SAFE = "a\\x1b[2J\\x9b\\u202eb[/x][red]"


@pytest.mark.parametrize("show", [say, say_warning, write, lambda text: say_error(ValueError(text))])
def test_control_sequences_are_written_out(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(EVIL)
    printed = capsys.readouterr()
    assert SAFE in printed.out + printed.err


def test_a_table_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(f"title {EVIL}", "[red]name")
    table.add_row(EVIL)
    write_tables(table)
    out = capsys.readouterr().out
    assert out.count(SAFE) == 2
    assert "[red]name" in out


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"text": f"{EVIL}\t\u00fc"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": f"{EVIL}\t\u00fc"}
    assert plain(out) == out
