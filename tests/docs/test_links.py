"""README.md and docs/: links lead to files and headings, and modules that the pages name can be imported."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
HISTORY = {ROOT / "CHANGELOG.md", ROOT / "docs" / "log.md"}  # these name modules of earlier versions too
FOLDERS = {"bestow_edge.runtime": "runtime", "bestow_edge.export": "export", "bestow_edge.training": "training"}


def ids(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as git hosts and mkdocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY], ids=lambda page: page.stem)
def test_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"\bbestow_edge(?:\.[a-z_0-9]+)+", text)):
        top = ".".join(name.split(".")[:2])
        path = ROOT / name.replace(top, FOLDERS.get(top, top), 1).replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file() or path.parent.with_suffix(".py").is_file(), name
    for name in set(
        re.findall(r"\b(?:bestow_edge|runtime|export|training|benchmarks|examples)/[a-z0-9_/.]+\.(?:py|yaml)\b", text)
    ):
        assert (ROOT / name).is_file(), name
