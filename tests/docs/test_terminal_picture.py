"""The recording in README.md shows what the commands print, and when."""

import importlib.util
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
from commands import run_demo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def picture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("terminal_picture", ROOT / "docs" / "terminal_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn() -> list[str]:
    """The lines of the committed picture."""
    root = ET.parse(ROOT / "docs" / "terminal.svg").getroot()  # noqa: S314 - our own text
    return [element.text or "" for element in root.iter() if element.tag.endswith("text")]


def test_the_picture_is_up_to_date(picture: ModuleType) -> None:
    written = picture.PICTURE.read_text(encoding="utf-8")
    assert written == picture.draw(), "run: python docs/terminal_picture.py"


def test_it_shows_commands_and_their_output(
    picture: ModuleType, drawn: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    shown = [text for text in drawn if not text.startswith("after ")]
    for command in (picture.OFFLINE, picture.STREAM):
        code, out, _ = run_demo(capsys, *command.split()[1:])
        assert code == 0
        place = shown.index(f"$ {command}")
        assert shown[place + 1 : place + 1 + len(out.splitlines())] == out.splitlines()


def test_a_line_appears_when_its_audio_has_been_heard(picture: ModuleType, drawn: list[str]) -> None:
    moments = [text for text in drawn if text.startswith("after ")]
    assert moments == [f"after {heard_s:.2f} s of audio" for heard_s, _ in picture.streamed()]
    assert moments == sorted(moments)


def test_the_readme_shows_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/terminal.svg)" in readme
