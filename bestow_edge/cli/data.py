"""`bestow-edge data`: checks, counts, packs and synthesises training data.

The work is in `bestow_edge.training.data.corpora` and `bestow_edge.training.synthesis`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import needs_extra, new_table, say, shown_count, write, write_json, write_tables
from bestow_edge.core.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from bestow_edge.training.data.corpora.check import Findings
    from bestow_edge.training.data.corpora.filters import Report
    from bestow_edge.training.data.corpora.summary import Summary

PROBLEMS, INTERRUPTED = 2, 130  # exit codes
SHOWN = 20  # problems in the table; --json prints all
BAR = 40  # characters of the longest bar
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
TEXT_SUFFIXES = (".tsv", ".tsv.gz")

app = typer.Typer(
    name="data",
    help="Check, summarise, pack and synthesise training data.",
    callback=options.help_without_command,
    invoke_without_command=True,
)
Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT", help="Manifests (.jsonl), directories of shards, tables (.tsv) or recipes (.yaml)."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Directory of a recipe's data files; default: the recipe's directory."),
]


@app.command()
def check(
    inputs: Inputs,
    data: DataDir = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Decoding threads.")] = os.cpu_count() or 1,
    rate: Annotated[int, typer.Option("--rate", min=1, metavar="HZ", help="Sampling rate of the model.")] = 16_000,
    as_json: options.Json = False,
) -> None:
    """Check every line and decode every recording.

    Exit code 2: there are problems.
    For a recipe, the command also counts the lines that its filters drop.

    Examples:
      bestow-edge data check train.jsonl
      bestow-edge data check recipe.yaml --data DATA --json
    """
    with needs_extra("train"):
        from bestow_edge.training.data.corpora.check import check_manifests, check_texts

        reports = [report for path in inputs if _is_recipe(path) for report in _reports(path, data)]
        manifests, texts = _files(inputs, data)
        with shown_count("checked") as progress:
            findings = check_manifests(manifests, rate_hz=rate, jobs=jobs, progress=progress)
        for path in texts:
            more = check_texts(path)
            findings.lines += more.lines
            findings.problems += more.problems
    if as_json:
        write_json(findings.to_dict() | {"sources": [report.to_dict() for report in reports]})
    else:
        _show_findings(findings, reports)
    if findings.problems:
        raise typer.Exit(PROBLEMS)


@app.command()
def summary(inputs: Inputs, data: DataDir = None, as_json: options.Json = False) -> None:
    """Count hours, utterances, speakers, languages, lengths and words per second.

    The command reads manifests and opens no recording.

    Example:
      bestow-edge data summary train.jsonl shards/
    """
    with needs_extra("train"):
        from bestow_edge.training.data.corpora.summary import summarise

        counted = summarise(_files(inputs, data)[0])
    if as_json:
        write_json(counted.to_dict())
    else:
        _show_summary(counted)


@app.command()
def shard(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST", help="Manifests (.jsonl or .jsonl.gz).")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the shards.")],
    size: Annotated[
        str, typer.Option("--size", metavar="BYTES", help="Size of a full shard, such as 500MB or 2GB.")
    ] = "1GB",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the random order.")] = 0,
    max_bad: Annotated[
        int, typer.Option("--max-bad", min=0, metavar="N", help="Leave out up to N unreadable recordings.")
    ] = 0,
) -> None:
    """Pack recordings and their manifest lines into tar files in random order, each with an index.

    A stopped run goes on with the same command.

    Example:
      bestow-edge data shard train.jsonl --out shards --size 1GB
    """
    with needs_extra("train"):
        from bestow_edge.training.data.corpora.shards import write_shards

        with shown_count("packed") as progress:
            written = write_shards(
                manifests, out, size_bytes=parse_size(size), seed=seed, max_bad=max_bad, progress=progress
            )
    if written.made_before:
        say(f"{written.made_before} shards were there already")
    if written.bad:
        say(f"{written.bad} recordings could not be read and were left out")
    write(f"{out}: {written.utterances} utterances in {written.shards} shards")


@app.command()
def speak(
    texts: Annotated[Path, typer.Argument(metavar="TEXTS", help="Table (.tsv) or JSON lines, also gzipped.")],
    column: Annotated[str, typer.Option("--column", metavar="NAME", help="Column to speak.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the recordings and their manifest.")],
    translation: Annotated[
        list[str] | None,
        typer.Option("--translation", metavar="LANG", help="Column of a translation to keep; repeatable."),
    ] = None,
    lang: Annotated[
        str, typer.Option("--lang", metavar="LANG", help="Language of the column; default: the column's name.")
    ] = "",
    count: Annotated[
        int, typer.Option("--count", min=0, metavar="N", help="Rows to speak; 0: all that have plain words only.")
    ] = 0,
    voices: Annotated[
        str, typer.Option("--voices", metavar="NAME,...", help="train, test, or names of voices such as m1,f2.")
    ] = "train",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the rows and voices.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Texts spoken at the same time.")
    ] = os.cpu_count() or 1,
    opus: Annotated[bool, typer.Option("--opus", help="Write Opus instead of FLAC: a fifth of the size.")] = False,
) -> None:
    """Synthesise speech for a column of texts with espeak-ng in many voices: recordings and their manifest.

    Rows with digits or symbols, and rows without a translation to keep, are left out.
    Columns question and answer are kept.
    A stopped run goes on with the same command.

    Examples:
      bestow-edge data speak texts.tsv --column en --translation de --out spoken --count 5000
      bestow-edge data speak qa.tsv --column passage --lang en --out spoken_qa --voices test
    """
    with needs_extra("train"):
        from bestow_edge.training.synthesis.speaking import Speaking, speak_texts

        settings = Speaking(
            column=column,
            language=lang or column,
            translations=tuple(translation or ()),
            count=count,
            voices=voices,
            seed=seed,
            format="opus" if opus else "flac",
        )
        try:
            with shown_count("spoken") as progress:
                spoken = speak_texts(texts, out, settings, workers=workers, progress=progress)
        except KeyboardInterrupt as error:
            say("stopped; the same command goes on")
            raise typer.Exit(INTERRUPTED) from error
    if spoken.made_before:
        say(f"{spoken.made_before} utterances were there already")
    counts = f"{spoken.utterances} utterances, {spoken.seconds / 3600:.2f} h, {spoken.voices} voices"
    write(f"{out}: {counts}; {spoken.left_out} rows left out")


def parse_size(text: str) -> int:
    """Read a number of bytes: 1000000, 500MB, 1.5GB.

    Raises:
        ConfigError: the text is not a number of bytes, or the number is less than 1.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)b?", text.strip().lower())
    try:
        size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(f"--size {text!r}: expected a number of bytes such as 500MB or 2GB")
    return size


def _is_recipe(path: Path) -> bool:
    return path.suffix in {".yaml", ".yml"}


def _files(inputs: list[Path], data: Path | None) -> tuple[list[Path], list[Path]]:
    """Return the manifests, including indexes of shards, and the text files."""
    from bestow_edge.training.data.corpora.shards import shard_indexes

    manifests: list[Path] = []
    texts: list[Path] = []
    for path in inputs:
        if _is_recipe(path):
            from bestow_edge.training.data.corpora.index import manifest_paths
            from bestow_edge.training.recipe.recipe import load_recipe

            recipe, folder = load_recipe(path).data, path.parent if data is None else data
            for source in (*recipe.sources, *recipe.dev_sources):
                manifests += manifest_paths(source, folder)
                texts += [folder / name for name in source.texts]
        elif path.is_dir():
            manifests += shard_indexes(path)
        elif path.name.endswith(TEXT_SUFFIXES):
            texts.append(path)
        else:
            manifests.append(path)
    return manifests, texts


def _reports(path: Path, data: Path | None) -> list[Report]:
    """Return the lines that a recipe's filters drop, except for filters that need the tokenizer."""
    from bestow_edge.training.data.corpora.filters import Sieve
    from bestow_edge.training.data.corpora.index import manifest_paths, read_corpus
    from bestow_edge.training.recipe.data import needs_transcripts
    from bestow_edge.training.recipe.recipe import load_recipe, pairs_of

    recipe, folder = load_recipe(path), path.parent if data is None else data
    spoken = [source for source in (*recipe.data.sources, *recipe.data.dev_sources) if not source.texts]
    pairs = pairs_of(recipe) if spoken else ()
    reports = []
    for source in spoken:
        needed = needs_transcripts(recipe.data, source, recipe.stages)
        sieve = Sieve(source, recipe.data.filter, pairs, needs_transcript=needed)
        try:
            reports.append(read_corpus(manifest_paths(source, folder), sieve)[1])
        except ManifestError as error:  # the check lists all such errors
            say(f"source {source.name}: {error}")
    return reports


def _show_findings(findings: Findings, reports: list[Report]) -> None:
    for report in reports:
        write(report.sentence())
    if findings.problems:
        table = new_table(f"Problems, {len(findings.problems)}", "place", "kind", "problem")
        for problem in findings.problems[:SHOWN]:
            table.add_row(problem.where, problem.kind, problem.message)
        kinds = Counter(problem.kind for problem in findings.problems)
        write_tables(table)
        write(", ".join(f"{kind}: {count}" for kind, count in kinds.most_common()))
        if len(findings.problems) > SHOWN:
            write(f"only the first {SHOWN} are shown; --json prints all")
    for note, count in findings.notes.most_common():
        write(f"note: {count} x {note}")
    found = f"{len(findings.problems)} problems" if findings.problems else "no problems"
    write(f"{findings.lines} lines, {findings.seconds / 3600:.2f} h decoded: {found}")


def _show_summary(counted: Summary) -> None:
    numbers = ("utterances", "hours", "speakers", "words/s", "characters/s", "questions", "word times")
    languages = new_table("Speech", "language", *numbers, "translations", numbers=numbers)
    for language, speech in sorted(counted.languages.items()):
        values = speech.to_dict()
        names = ("utterances", "hours", "speakers", "words_per_s", "chars_per_s", "questions", "word_times")
        other = ", ".join(f"{code}: {count}" for code, count in speech.translations.most_common())
        languages.add_row(language, *(_number(values[name]) for name in names), other or "-")
    lengths = new_table(
        "Lengths", "utterance", "utterances", "hours", "share of the hours", numbers=("utterances", "hours")
    )
    most = max(hours for _, _, hours in counted.lengths())
    for name, count, hours in counted.lengths():
        lengths.add_row(name, f"{count:,}", f"{hours:.2f}", "#" * round(BAR * hours / most))
    write_tables(languages, lengths)
    low, short, middle, long, high = counted.quantiles_s().values()
    write(f"all: {len(counted.seconds):,} utterances, {counted.hours:.2f} h, {counted.speakers:,} speakers")
    write(f"lengths: {low:g} to {high:g} s, median {middle:g} s, nine in ten from {short:g} to {long:g} s")


def _number(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
