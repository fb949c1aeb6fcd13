"""docs/demo_figures.py writes benchmark results between the marks of the pages and changes nothing else."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCORES = {"wer_normalized": 12.34, "bleu": 20.56, "LAAL": 2100.0, "LAAL_CA": 2150.0, "RTF": 0.02}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, writing copies of the pages."""
    spec = importlib.util.spec_from_file_location("demo_figures", ROOT / "docs" / "demo_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("MODEL", "DIGITS", "README"):
        copy = tmp_path / f"{name}.md"
        copy.write_text(getattr(module, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(module, name, copy)
    return module


def row(pair: str, setting: str, **more: Any) -> dict[str, Any]:
    return {"set": "made up", "asked": pair, "setting": setting, "utterances": 7, **SCORES, **more}


def test_tables_are_written_between_their_marks(script: ModuleType, tmp_path: Path) -> None:
    before = script.MODEL.read_text(encoding="utf-8")
    scores = tmp_path / "scores"
    scores.mkdir()
    tested = [row("en-en", "wait-k"), row("en-en", "offline"), row("en-de", "wait-k"), row("en-de", "offline")]
    tested += [row("de-de", "wait-k", set="LibriSpeech"), row("de-de", "offline", set="LibriSpeech")]
    record = json.dumps({"bundle": "b", "sets": tested})
    (scores / "sets.txt").write_text(f"a table\n{record}\n", encoding="utf-8")
    single = {"corpus": "fsdd", "kind": "single", "pair": "en-en", "digits": 9, "offline": 0.5, "K=3": 0.25, "K=6": 1.0}
    (scores / "digits.txt").write_text(json.dumps({"rows": [single]}), encoding="utf-8")
    (scores / "digit_model.txt").write_text(json.dumps({"rows": [single]}), encoding="utf-8")
    script.main(scores)
    page, digits, readme = (path.read_text(encoding="utf-8") for path in (script.MODEL, script.DIGITS, script.README))
    assert "| made up | en-en | 7 | WER 12.3 | 12.3 | 2.1 | 0.02 |\n| made up | en-de | 7 | BLEU 20.6 | 20.6 |" in page
    assert "| Free Spoken Digits, 1 | single | en-en | 9 | 50.0 % | 25.0 % | 100.0 % |\n\n<!-- /digits -->" in page
    assert (
        "| LibriSpeech | de-de | WER 12.3 % | 12.3 % | 2.1 s |\n| single digits, Free Spoken Digits | en-en |" in readme
    )
    assert "made up" not in readme
    assert (
        "| Free Spoken Digits, 1 | single | en-en | 9 | 50.0 % | 25.0 % | 100.0 % |\n\n<!-- /digit model -->" in digits
    )
    for text in (page, before):  # a part without a file keeps its table
        assert "| K | 2 | 3 |" in text
    assert page.partition("<!-- sets -->")[0] == before.partition("<!-- sets -->")[0]
    script.main(scores)
    assert script.MODEL.read_text(encoding="utf-8") == page


def test_the_pages_have_all_marks(script: ModuleType) -> None:
    page, digits, readme = (path.read_text(encoding="utf-8") for path in (script.MODEL, script.DIGITS, script.README))
    for name in script.PARTS:
        assert "new" in script.written(page, name, "new")
    assert "new" in script.written(digits, "digit model", "new")
    assert "new" in script.written(readme, "demo", "new")
    with pytest.raises(SystemExit, match="no <!-- more --> and <!-- /more --> in the page"):
        script.written(page, "more", "")


def test_the_short_table_repeats_figures_of_the_long_one(script: ModuleType) -> None:
    page, readme = (path.read_text(encoding="utf-8") for path in (script.MODEL, script.README))
    long = {(cells[0], cells[1]): cells[3:6] for cells in cells_of(page, "sets")}
    for name, pair, *scores in cells_of(readme, "demo"):
        if not name.startswith("single"):
            assert [score.removesuffix(" %").removesuffix(" s") for score in scores] == long[name, pair]


def cells_of(page: str, name: str) -> list[list[str]]:
    """Return the rows of the table between two marks, without its head."""
    table = page.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_part_has_a_table(script: ModuleType) -> None:
    pairs = [row("en-en", "wait-k_k3_l4_lookahead13"), row("en-de", "wait-k_k6_l4_lookahead13")]
    answers = [row("en", "offline", rouge_l=1.0, accuracy=2.0)]
    digits = [{"corpus": "fsdd", "kind": "single", "pair": "en-en", "digits": 9, "offline": 0.5, "K=3": 0.25}]
    for name, table in script.PARTS.items():
        lines = table({"questions": answers, "digits": digits}.get(name, pairs)).splitlines()
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1
