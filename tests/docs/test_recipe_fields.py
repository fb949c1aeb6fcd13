"""docs/training.md lists every field of a recipe as the classes have it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("recipe_fields", ROOT / "docs" / "recipe_fields.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(script: ModuleType) -> None:
    assert script.page() == script.PAGE.read_text(encoding="utf-8"), "run: python docs/recipe_fields.py"


def test_every_field_is_explained(script: ModuleType) -> None:
    rows = [line for line in script.tables().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert not [row for row in rows if row.endswith("|  |")]
