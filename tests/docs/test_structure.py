"""docs/structure.md: its picture is what the script draws from the code, and the files that it names exist."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def picture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure_picture", ROOT / "docs" / "structure_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def test_the_picture_is_up_to_date(picture: ModuleType) -> None:
    written = picture.PICTURE.read_text(encoding="utf-8")
    assert written == picture.draw(), "run: python docs/structure_picture.py"


def test_every_layer_is_in_the_picture(picture: ModuleType) -> None:
    inside = {path.name for path in (ROOT / "bestow_edge").iterdir() if any(path.rglob("*.py"))}
    assert {name for row in picture.ROWS for name in row} == inside | {"export", "runtime", "training"}


def test_every_folder_and_file_has_its_place(picture: ModuleType) -> None:
    root = ET.fromstring(picture.draw())  # noqa: S314 - our own text
    shown = {element.text for element in root.iter() if element.tag.endswith("text")}
    for layer in (name for row in picture.ROWS for name in row):
        folder = ROOT / layer if (ROOT / layer).is_dir() else ROOT / "bestow_edge" / layer
        assert f"bestow_edge.{layer}" in shown
        assert {path.stem for path in folder.glob("*.py")} - {"__init__"} <= shown


def test_imports_lead_downwards(picture: ModuleType) -> None:
    row_of = {name: number for number, row in enumerate(picture.ROWS) for name in row}
    for name, row in row_of.items():
        assert all(row_of[other] > row for other in picture.read_layer(name).imports), name


def test_the_page_names_every_layer_and_no_missing_file(picture: ModuleType) -> None:
    for layer in (name for row in picture.ROWS for name in row):
        assert f"`{layer}`" in PAGE
    for name in re.findall(r"`((?:bestow_edge|runtime|export|training|tests)/[a-z_/]+(?:\.py)?)`", PAGE):
        assert (ROOT / name).exists(), name
