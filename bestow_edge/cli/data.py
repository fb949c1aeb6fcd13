"""`bestow-edge data`: training data checked, counted, sharded and spoken. What is done lies in `training.corpora`."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli.show.console import needs_extra, new_table, say, shown_count, write, write_json, write_tables
from bestow_edge.core.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from bestow_edge.training.data.corpora.check import Findings
    from bestow_edge.training.data.corpora.filters import Report
    from bestow_edge.training.data.corpora.summary import Summary

PROBLEMS, INTERRUPTED = 2, 130  # exit codes
SHOWN = 20  # problems on a terminal; --json has all
BAR = 40  # widest bar of the histogram
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
TEXT_SUFFIXES = (".tsv", ".tsv.gz")

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Check, summarise, shard and make training data: manifests, shards, texts, recipes.",
)
Inputs = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT...", help="Manifests (.jsonl), directories of shards, tables (.tsv) or a recipe."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="What a recipe's files are relative to; default: the recipe's."),
]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON with everything.")]


@app.command()
def check(
    inputs: Inputs,
    data: DataDir = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Threads that decode.")] = os.cpu_count() or 1,
    rate: Annotated[int, typer.Option("--rate", min=1, metavar="HZ", help="Sampling rate of the model.")] = 16_000,
    as_json: Json = False,
) -> None:
    """Look at every line and decode every recording; exit code 2 if anything is wrong.

    Of a recipe, also what its filters drop, and why.

    \b
    Examples:
      bestow-edge data check train.jsonl
      bestow-edge data check recipe.yaml --data DATA --json
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
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
def summary(inputs: Inputs, data: DataDir = None, as_json: Json = False) -> None:
    """Count hours, utterances, speakers, languages, lengths and words per second; no recording is opened.

    \b
    Example:
      bestow-edge data summary train.jsonl shards/
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    with needs_extra("train"):
        from bestow_edge.training.data.corpora.summary import summarise

        counted = summarise(_files(inputs, data)[0])
    if as_json:
        write_json(counted.to_dict())
    else:
        _show_summary(counted)


@app.command()
def shard(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests (.jsonl, .jsonl.gz).")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the shards.")],
    size: Annotated[str, typer.Option("--size", help="A shard is full at this size, such as 500MB or 2GB.")] = "1GB",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides the order of the utterances.")] = 0,
    max_bad: Annotated[int, typer.Option("--max-bad", min=0, help="Unreadable recordings that may be left out.")] = 0,
) -> None:
    """Write recordings and their lines as tars in random order, each with an index.

    The same command goes on after a stop.

    \b
    Example:
      bestow-edge data shard train.jsonl --out shards --size 1GB
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
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
    texts: Annotated[Path, typer.Argument(metavar="TEXTS", help="Table (.tsv) or JSON lines, gzipped or not.")],
    column: Annotated[str, typer.Option("--column", help="Column to speak.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the recordings and their manifest.")],
    translation: Annotated[
        list[str] | None,
        typer.Option("--translation", metavar="LANG", help="Column to keep as translation; may repeat."),
    ] = None,
    lang: Annotated[str, typer.Option("--lang", help="Language of the column; default: the column's name.")] = "",
    count: Annotated[int, typer.Option("--count", min=0, help="Rows to speak; 0 = all that can be.")] = 0,
    voices: Annotated[str, typer.Option("--voices", help="train, test, or names such as m1,f2.")] = "train",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides rows and voices.")] = 0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Texts spoken at once.")] = os.cpu_count() or 1,
    opus: Annotated[bool, typer.Option("--opus", help="Write Opus, a fifth of FLAC's size.")] = False,
) -> None:
    """Speak a column of texts with espeak-ng in many voices: recordings and a manifest to train on.

    Rows with digits or symbols are left out. Columns question and answer are kept. The same command goes on after a
    stop.

    \b
    Examples:
      bestow-edge data speak texts.tsv --column en --translation de --out spoken --count 5000
      bestow-edge data speak qa.tsv --column passage --lang en --out spoken_qa --voices test
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
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
    said = f"{spoken.utterances} utterances, {spoken.seconds / 3600:.2f} h, {spoken.voices} voices"
    write(f"{out}: {said}; {spoken.left_out} rows are no plain words")


def parse_size(text: str) -> int:
    """Read a number of bytes: 1000000, 500MB, 1.5GB.

    Raises:
        ConfigError: it is none, or less than 1.
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
    """Return the manifests, indexes of shards among them, and the text files."""
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
    """Return what the filters of a recipe drop, as far as it does not depend on the tokenizer."""
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
        except ManifestError as error:  # the check goes on and lists all of them
            say(f"source {source.name}: {error}")
    return reports


def _show_findings(findings: Findings, reports: list[Report]) -> None:
    for report in reports:
        write(report.sentence())
    if findings.problems:
        table = new_table(f"Problems, {len(findings.problems)}", "where", "kind", "what")
        for problem in findings.problems[:SHOWN]:
            table.add_row(problem.where, problem.kind, problem.message)
        kinds = Counter(problem.kind for problem in findings.problems)
        write_tables(table)
        write(", ".join(f"{kind}: {count}" for kind, count in kinds.most_common()))
        if len(findings.problems) > SHOWN:
            write(f"the first {SHOWN} are shown; --json has all")
    for note, count in findings.notes.most_common():
        write(f"note: {count} x {note}")
    found = f"{len(findings.problems)} problems" if findings.problems else "nothing is wrong"
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
    write(f"lengths: {low:g} to {high:g} s, median {middle:g} s, nine in ten within {short:g} and {long:g} s")


def _number(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
