"""Writes benchmark results into the tables of docs/demo-model.md, docs/digits.md and README.md.

    python docs/demo_figures.py SCORES

SCORES holds the output of the commands in docs/demo-model.md, a file for each part (sets.txt, curve.txt, ...), and that
of docs/digits.md (digit_model.txt). The last line of each file is JSON. A part without a file keeps its table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL, DIGITS, README = ROOT / "docs" / "demo-model.md", ROOT / "docs" / "digits.md", ROOT / "README.md"
SHORT = {"synthetic English", "synthetic German", "LibriSpeech"}
"""Test sets in the table of README.md."""
CORPORA = {
    "fsdd": "Free Spoken Digits, 1",
    "hd_digits": "Heidelberg Digits, 1",
    "speech_commands": "Speech Commands, 21",
}
Rows = list[dict[str, Any]]  # Any: numbers and names, as JSON


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |\n" for line in lines)


def quality(row: dict[str, Any]) -> tuple[str, float]:  # Any: as JSON
    """Return name and value of a row's score: BLEU of translations, else WER."""
    source, target = row["asked"].split("-")
    return ("WER", row["wer_normalized"]) if source == target else ("BLEU", row["bleu"])


def pairwise(rows: Rows) -> list[tuple[dict[str, Any], dict[str, Any]]]:  # Any: as JSON
    """Return each row of an even place with the one behind it."""
    return list(zip(rows[::2], rows[1::2], strict=True))


def sets(rows: Rows) -> str:
    """Every test set, streaming and offline."""
    head = ("set", "pair", "utterances", "streaming", "offline", "lag", "RTF")
    return markdown(
        head,
        (
            (
                one["set"],
                one["asked"],
                one["utterances"],
                f"{quality(one)[0]} {quality(one)[1]:.1f}",
                f"{quality(other)[1]:.1f}",
                f"{one['LAAL'] / 1000:.1f}",
                f"{one['RTF']:.2f}",
            )
            for one, other in pairwise(rows)
        ),
    )


def curve(rows: Rows) -> str:
    """Quality and lag over K."""
    ks = [row["setting"].split("_")[1].removeprefix("k") for row in rows]
    seconds = [("lag", "LAAL"), ("lag with computing", "LAAL_CA")]
    lines = [["BLEU", *(f"{row['bleu']:.1f}" for row in rows)]]
    lines += [[name, *(f"{row[key] / 1000:.2f}" for row in rows)] for name, key in seconds]
    return markdown(["K", *ks], lines)


def lookaheads(rows: Rows) -> str:
    """Quality, lag and computing time over look-aheads."""
    lines: list[list[str]] = []
    for title, pair in (("English transcripts, WER", "en-en"), ("English to German, BLEU", "en-de")):
        some = [row for row in rows if row["asked"] == pair]
        lines.append([title, *(f"{quality(row)[1]:.1f}" for row in some)])
        lines.append(["lag", *(f"{row['LAAL'] / 1000:.2f}" for row in some)])
        lines.append(["RTF", *(f"{row['RTF']:.2f}" for row in some)])
    ahead = [row["setting"].rpartition("lookahead")[2] for row in rows if row["asked"] == "en-en"]
    return markdown(["", *ahead], lines)


def policies(rows: Rows) -> str:
    """Wait-k and AlignAtt."""
    return markdown(
        ("pair", "policy", "WER", "BLEU", "lag"),
        (
            (
                row["asked"],
                row["setting"].partition("_lookahead")[0],
                f"{quality(row)[1]:.1f}" if quality(row)[0] == "WER" else "",
                f"{quality(row)[1]:.1f}" if quality(row)[0] == "BLEU" else "",
                f"{row['LAAL'] / 1000:.2f}",
            )
            for row in rows
        ),
    )


def precision(rows: Rows) -> str:
    """The bundle against float32."""
    return markdown(
        ("set", "pair", "", "bundle", "float32"),
        (
            (one["set"], one["asked"], quality(one)[0], f"{quality(one)[1]:.2f}", f"{quality(other)[1]:.2f}")
            for one, other in pairwise(rows)
        ),
    )


def questions(rows: Rows) -> str:
    """Answers about speech, and answers of the LLM alone."""
    return markdown(
        ("set", "language", "", "ROUGE-L", "accuracy"),
        (
            (
                row["set"],
                row["asked"],
                row["setting"] if row["setting"].startswith("LLM") else "speech",
                f"{row['rouge_l']:.1f}",
                f"{row['accuracy']:.1f}",
            )
            for row in rows
        ),
    )


def translations(rows: Rows) -> str:
    """Translations of a cascade."""
    return markdown(("pair", "", "BLEU"), ((row["asked"], row["setting"], f"{row['bleu']:.1f}") for row in rows))


def digits(rows: Rows) -> str:
    """Digits right, of every corpus and pair."""
    modes = [key for key in rows[0] if key not in {"corpus", "kind", "pair", "digits"}]
    return markdown(
        ("corpus, speakers", "", "pair", "digits", *(mode.replace("K=", "K = ") for mode in modes)),
        (
            (
                CORPORA[row["corpus"]],
                row["kind"],
                row["pair"],
                row["digits"],
                *(f"{100 * row[mode]:.1f} %" for mode in modes),
            )
            for row in rows
        ),
    )


TABLES: tuple[Callable[[Rows], str], ...] = (
    sets, curve, lookaheads, policies, precision, questions, translations, digits,
)  # fmt: skip
PARTS = {table.__name__: table for table in TABLES}
"""By the parts of benchmarks/demo_model.py, and `digits`."""


def summary(tested: Rows, counted: Rows) -> str:
    """The short table of README.md: some test sets, and single digits of the first corpus."""
    lines: list[list[str]] = []
    for one, other in pairwise(tested):
        if one["set"] in SHORT:
            name, value = quality(one)
            unit = " %" if name == "WER" else ""
            offline, lag = quality(other)[1], one["LAAL"] / 1000
            lines.append(
                [one["set"], one["asked"], f"{name} {value:.1f}{unit}", f"{offline:.1f}{unit}", f"{lag:.1f} s"]
            )
    single = next(row for row in counted if row["kind"] == "single" and row["pair"] == "en-en")
    corpus = CORPORA[single["corpus"]].rpartition(",")[0]
    right = [f"{100 * single['K=6']:.1f} % right", f"{100 * single['offline']:.1f} %"]
    lines.append([f"single digits, {corpus}", "en-en", *right, ""])
    return markdown(("test set", "pair", "streaming", "offline", "lag (LAAL)"), lines)


def measured(scores: Path, part: str) -> Rows:
    """Return the rows of a part; an empty list if it was not measured."""
    path = scores / f"{part}.txt"
    if not path.is_file():
        return []
    record = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    rows: Rows = record["rows" if "rows" in record else part]
    return rows


def written(page: str, name: str, table: str) -> str:
    """Return a page with a table between its marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
        SystemExit: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"no {begin.strip()} and {end} in the page")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(scores: Path) -> None:
    """Write the pages."""
    found = {part: measured(scores, part) for part in PARTS}
    for part, rows in found.items():
        if rows:
            rewrite(MODEL, part, PARTS[part](rows))
    if found["sets"] and found["digits"]:
        rewrite(README, "demo", summary(found["sets"], found["digits"]))
    if alone := measured(scores, "digit_model"):
        rewrite(DIGITS, "digit model", digits(alone))


def rewrite(page: Path, name: str, table: str) -> None:
    """Write a table between its marks in a page."""
    page.write_text(written(page.read_text(encoding="utf-8"), name, table), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
