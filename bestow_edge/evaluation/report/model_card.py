"""A model card in Markdown, written from a bundle and its evaluations. Standard library only; no model is run.

Training data and licence are not in a bundle. They come from a text by its author; if there is none, the card says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bestow_edge.core.bundle import FORMAT, FORMAT_VERSION, MANIFEST_FILE, BundleManifest, ParityRow, read_manifest
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import BestowEdgeError, ConfigError
from bestow_edge.core.files import sha256
from bestow_edge.core.json_text import parse_json
from bestow_edge.core.languages import LANGUAGES
from bestow_edge.core.prompts import MOST_SHOWN, parse_pair
from bestow_edge.core.request import describe_policy
from bestow_edge.evaluation.run.directory import FORMAT as EVALUATION_FORMAT
from bestow_edge.evaluation.run.directory import RESULTS_FILE
from bestow_edge.evaluation.scores.score import METRICS, Score

DATA_FILE = "LICENSES.md"
"""Text about data and licence, in the bundle or beside it."""
LATENCIES = ("LAAL", "LAAL_CA", "AL", "DAL", "ATD", "StartOffset", "EndOffset", "FirstText", "RTF")


def model_card(
    bundle: Path,
    evaluations: Sequence[Path] = (),
    *,
    name: str | None = None,
    about: str | None = None,
    relative_to: Path | None = None,
) -> str:
    """Return the card of a bundle.

    Args:
        bundle: its directory.
        evaluations: directories that `bestow-edge eval` wrote for this bundle.
        name: of the bundle; None = that of its directory.
        about: Markdown about data and licence; None = `LICENSES.md` in the bundle or beside it, if it exists.
        relative_to: directory of the card, to which the links to curves are relative; None = without curves.

    Raises:
        BundleError: if the bundle is missing or damaged.
        ConfigError: if a directory holds no finished evaluation, or that of another bundle.
    """
    manifest = read_manifest(bundle)
    results = [_read_results(directory, bundle) for directory in evaluations]
    parts = [
        f"# Model card: {name or bundle.resolve().name}",
        _model(manifest.model),
        _files(manifest),
        _parity(manifest),
    ]
    for directory, record in zip(evaluations, results, strict=True):
        with _edited(directory):
            parts.append(_evaluation(record, directory, relative_to))
    if not results:
        parts.append(
            "## Quality and latency\n\nNot measured: give `--eval DIR` of a `bestow-edge eval` of this bundle."
        )
    with _edited(*evaluations):
        parts += [_data(bundle, about), _versions(manifest, results)]
    return "\n\n".join(parts) + "\n"


@contextmanager
def _edited(*directories: Path) -> Iterator[None]:
    """Turn what comes of results that were edited by hand into one sentence."""
    try:
        yield
    except BestowEdgeError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        where = ", ".join(map(str, directories))
        raise ConfigError(f"{where}: its results were altered ({error!r:.100}); run bestow-edge eval again") from error


def _read_results(directory: Path, bundle: Path) -> dict[str, Any]:
    path = directory / RESULTS_FILE
    if not path.is_file():
        raise ConfigError(f"{directory}: no finished evaluation, {RESULTS_FILE} is missing; run bestow-edge eval")
    try:
        record = parse_json(path.read_bytes(), str(path))
    except ConfigError as error:
        raise ConfigError(f"{error}; run bestow-edge eval again") from error
    if not isinstance(record, dict) or record.get("format") != EVALUATION_FORMAT:
        raise ConfigError(f"{path}: not an evaluation; expected what bestow-edge eval writes")
    with _edited(directory):
        evaluated = record["bundle"]["sha256"]
    if evaluated != sha256(bundle / MANIFEST_FILE):
        raise ConfigError(f"{directory} evaluates another bundle than {bundle}; run bestow-edge eval for this one")
    return record


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    cells.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _model(config: ModelConfig) -> str:
    pairs = [parse_pair(pair) for pair in config.pairs]
    kinds = {"transcribe": "transcribes {0}", "translate": "translates {0} to {1}"}
    tasks = [kinds[pair.task].format(LANGUAGES[pair.source], LANGUAGES[pair.target]) for pair in pairs]
    if len(tasks) > MOST_SHOWN:
        spoken = sum(pair.task == "transcribe" for pair in pairs)
        tasks = [f"transcribes {spoken} languages", f"translates between {len(pairs) - spoken} pairs of languages"]
    rows = [
        ("encoder", f"{_sizes(config.encoder.network)}; {config.encoder.describe()}"),
        ("connector", f"{config.connector.kind}, {config.connector.describe()}"),
        ("LLM", f"{_sizes(config.llm)}, {config.llm.get('vocab_size')} tokens"),
        ("policy", f"{describe_policy(config.policy)} by default"),
        ("audio", f"{config.features.sample_rate_hz} Hz, {config.features.num_mel_bins} mel bins"),
    ]
    tasks += [f"answers questions about {LANGUAGES[code]} speech" for code in config.questions]
    intro = f"A streaming speech LLM (speech encoder, connector, LLM) that {', '.join(tasks)}."
    return f"{intro}\n\n{_table(('part', 'what'), rows)}"


def _sizes(part: Mapping[str, Any]) -> str:
    return f"{part['model_type']}, {part.get('num_hidden_layers')} layers of width {part['hidden_size']}"


def _files(manifest: BundleManifest) -> str:
    precision = {entry.file: f"{name}, {entry.precision}" for name, entry in manifest.graphs.items()}
    rows = [(f"`{item.path}`", precision.get(item.path, ""), f"{item.size / 1e6:.2f}") for item in manifest.files]
    rows.append(("all", "", f"{sum(item.size for item in manifest.files) / 1e6:.2f}"))
    return "## Files\n\n" + _table(("file", "graph, precision", "MB"), rows)


def _parity(manifest: BundleManifest) -> str:
    """Return a table with the largest error of each graph at each precision."""
    groups: dict[tuple[str, str], list[ParityRow]] = {}
    for row in manifest.parity:
        groups.setdefault((row.graph, row.precision), []).append(row)
    worst = [(max(rows, key=lambda row: row.error / row.tolerance), len(rows)) for rows in groups.values()]
    shown = [(row.graph, row.precision, n, row.case, f"{row.error:.1e}", f"{row.tolerance:.0e}") for row, n in worst]
    intro = "Largest difference from PyTorch over the largest value, at export, at the worst of the sizes tried:"
    head = ("graph", "precision", "sizes tried", "worst", "error", "allowed")
    return f"## Parity\n\n{intro}\n\n" + _table(head, shown)


def _evaluation(record: Mapping[str, Any], directory: Path, relative_to: Path | None) -> str:
    manifest, machine, settings = record["manifest"], record["machine"], record["settings"]
    title = f"## Quality and latency: {manifest['file']}, {record['pair']}"
    where = f"{machine['processor']}, {machine['cores']} cores"
    how = f"{record['jobs']} process(es) of {record['threads']} thread(s)"
    speech = f"{manifest['utterances']} utterances, {manifest['audio_s']:.0f} s of audio"
    facts = f"{speech}. Measured {record['created'][:10]} on {where}, {how}."
    quality = _scores(settings, METRICS, "Quality in percent, with 95 % confidence intervals:", interval=True)
    times = _scores(
        settings, LATENCIES, "Latency in ms; `_CA` with computing time; RTF is computing over audio:", interval=False
    )
    signed = {name: score["signature"] for name, score in settings[0]["scores"].items() if "signature" in score}
    signatures = [f"- {name}: sacrebleu `{line}`" for name, line in signed.items()]
    parts = [title, facts, quality, times, "\n".join(signatures)]
    if relative_to is not None:
        address = Path(os.path.relpath(directory / "curve.svg", relative_to)).as_posix()
        parts.insert(2, f"![Quality over latency]({address})")
    return "\n\n".join(parts)


def _scores(settings: Sequence[Mapping[str, Any]], names: Sequence[str], intro: str, *, interval: bool) -> str:
    rows = []
    for row in settings:
        scores = {name: Score(**score) for name, score in row["scores"].items()}
        shown = [scores[name].shown(name, interval=interval) if name in scores else "" for name in names]
        rows.append((row["name"], *shown))
    return f"{intro}\n\n{_table(('setting', *names), rows)}"


def _data(bundle: Path, about: str | None) -> str:
    found = [path for path in (bundle / DATA_FILE, bundle.resolve().parent / DATA_FILE) if path.is_file()]
    if about is None and found:
        about = found[0].read_text(encoding="utf-8")
    if about is None:
        about = f"Not known: the bundle does not name them. Add {DATA_FILE} to it or give `--about FILE`."
    lines = [f"##{line}" if line.startswith("#") else line for line in about.strip().splitlines()]
    return "## Data and licence\n\n" + "\n".join(lines)


def _versions(manifest: BundleManifest, results: Sequence[Mapping[str, Any]]) -> str:
    rows = [("bundle", f"{FORMAT} {FORMAT_VERSION}"), ("checkpoint", f"SHA-256 `{manifest.checkpoint_sha256}`")]
    rows += [("exported with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))]
    if results:
        rows.append(
            ("evaluated with", ", ".join(f"{name} {version}" for name, version in results[0]["versions"].items()))
        )
    return "## Versions\n\n" + _table(("part", "version"), rows)
