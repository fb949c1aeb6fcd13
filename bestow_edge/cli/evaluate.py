"""`bestow-edge eval`: quality and latency of a bundle for many settings. The work is in `bestow_edge.evaluation`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import (
    needs_extra,
    new_table,
    say,
    say_warning,
    shown_count,
    write_json,
    write_tables,
)
from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.files import only_writer
from bestow_edge.core.prompts import parse_pair
from bestow_edge.core.request import Request, default_pair
from bestow_edge.evaluation.scores.score import METRICS

if TYPE_CHECKING:
    from bestow_edge.core.hotwords import Hotword
    from bestow_edge.core.prompts import Pair
    from bestow_edge.evaluation.run.directory import Store
    from bestow_edge.evaluation.run.runner import Runner
    from bestow_edge.evaluation.run.samples import Samples
    from bestow_edge.evaluation.run.settings import Setting
    from bestow_edge.evaluation.scores.instances import Instance
    from bestow_edge.evaluation.scores.results import SettingResult

INTERRUPTED = 130
BLEU_WORDS = 4  # BLEU counts sequences of four words; without them it is 0
LATENCIES = ("LAAL", "LAAL_CA", "AL", "DAL", "ATD", "StartOffset", "EndOffset", "RTF")  # columns of the table
ANSWERS = ("rouge_l", "accuracy", "bleu")
QUALITIES = {
    "transcribe": ("wer", "wer_normalized", "cer", "accuracy"),
    "translate": ("bleu", "chrf", "wer", "accuracy"),
}

Manifest = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST", help="NeMo's .jsonl, a .tsv with a header, or a source list of SimulEval."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the results.")]
Lang = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="SOURCE-TARGET",
        help="Language pair; en-en transcribes. With --questions the language of the speech, such as en. "
        "Default: a transcript, of English if the bundle can.",
    ),
]
Questions = Annotated[
    bool, typer.Option("--questions", help="Ask the `question` of each line and compare with its `answer`.")
]
Target = Annotated[
    Path | None, typer.Option("--target", metavar="FILE", help="SimulEval's target list, if MANIFEST is a source list.")
]
Audio = Annotated[
    Path | None,
    typer.Option("--audio", metavar="DIR", help="Directory of relative audio paths; default: MANIFEST's directory."),
]
Policies = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME,...",
        help="wait-k, align-att, local-agreement, every-step or offline; default: the bundle's, "
        "offline with --questions.",
    ),
]
Ks = Annotated[
    str,
    typer.Option("--k", metavar="N,...", help=f"{options.K_HELP}, such as 3,6,10 or 1-12; default: the bundle's."),
]
Thresholds = Annotated[
    str,
    typer.Option("--threshold", metavar="N,...", help=f"{options.THRESHOLD_HELP}; default: the bundle's."),
]
Delays = Annotated[str, typer.Option("--delay", metavar="N,...", help=f"{options.DELAY_HELP}; default: the bundle's.")]
BlankBiases = Annotated[
    str,
    typer.Option("--blank-bias", metavar="X,...", help=f"{options.BLANK_HELP}, such as -2,0,2; default: the bundle's."),
]
Lookaheads = Annotated[
    str,
    typer.Option(
        "--lookahead", metavar="N,...", help=f"{options.LOOKAHEAD_HELP}, such as 13,6; default: the bundle's."
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        "--metric",
        metavar="NAME",
        help=f"Quality in the curves: {', '.join(METRICS)}; default: wer for transcripts, bleu for translations, "
        "rouge_l for answers.",
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Processes; each loads the bundle.")]
Threads = Annotated[
    int, typer.Option("--threads", min=0, metavar="N", help="CPU threads of each process; 0: cores / jobs.")
]


def evaluate(
    manifest: Manifest,
    out: Out,
    lang: Lang = None,
    questions: Questions = False,
    bundle: options.Bundle = None,
    target: Target = None,
    audio: Audio = None,
    policy: Policies = "",
    k: Ks = "",
    threshold: Thresholds = "",
    delay: Delays = "",
    blank_bias: BlankBiases = "",
    l: options.L = None,  # noqa: E741 - the paper's letter
    lookahead: Lookaheads = "",
    hotwords: options.Hotwords = None,
    hotword_weight: options.HotwordWeight = None,
    metric: Metric = "",
    jobs: Jobs = 1,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Measure quality and latency of a bundle for all combinations of settings.

    A stopped run goes on with the same command. Needs the extra `eval`.
    More values of --k, --threshold, --policy and --lookahead can be added to a run.

    Examples:
      bestow-edge eval test.jsonl --lang en-de --k 3,6,10 --out scores
      bestow-edge eval test.jsonl --lang en-en --k 1-12 --lookahead 13,6,1,0 --jobs 2 --out scores
      bestow-edge eval qa.jsonl --lang en --questions --bundle my-bundle --out scores
    """
    varied: dict[str, Sequence[float]] = {"k": numbers("--k", k), "threshold": numbers("--threshold", threshold)}
    varied |= {"delay": numbers("--delay", delay), "blank_bias": _reals("--blank-bias", blank_bias)}
    steps, words = numbers("--lookahead", lookahead), options.chosen_hotwords(hotwords, hotword_weight)
    bundle = options.chosen_bundle(bundle, _first_request(lang, varied, steps, questions=questions))
    pair = _pair(lang, bundle, questions=questions)
    metric = _metric(metric, pair, questions=questions)
    with needs_extra("eval"):
        from bestow_edge.evaluation.report import summary
        from bestow_edge.evaluation.run.directory import Store
        from bestow_edge.evaluation.run.samples import read_samples
        from bestow_edge.evaluation.scores.results import score_setting
    runner = _runner(bundle, pair, device, threads, jobs, questions=questions, hotwords=words)
    settings = _settings(runner, policy, varied, l, steps)
    samples = read_samples(manifest, pair, questions=questions, target=target, audio=audio)
    _report_samples(samples, manifest, runner, metric)
    description = summary.describe(manifest, samples, runner)
    store = Store(out, description)
    with only_writer(out):
        outputs = _run(runner, samples, settings, store)
    say("computing scores and intervals")
    results = [score_setting(setting, instances, pair) for setting, instances in zip(settings, outputs, strict=True)]
    record = summary.write(store, description, results, metric)
    if as_json:
        write_json(record)
    else:
        _show(results, ANSWERS if questions else QUALITIES[pair.task], metric)
        say(f"written to {out}: results.json, report.html, curve.svg, curve.png and a directory for each setting")


def _pair(lang: str | None, bundle: Path, *, questions: bool) -> Pair:
    pair = parse_pair(lang or default_pair(read_manifest(bundle).model, auto=False))
    if questions and pair.task != "transcribe":
        raise typer.BadParameter(f"--lang {pair}: with --questions give the language of the speech, such as en")
    return pair


def _metric(name: str, pair: Pair, *, questions: bool) -> str:
    """Return the quality in the curves, the default for an empty name."""
    if name and name not in METRICS:
        raise typer.BadParameter(f"--metric {name}: expected one of {', '.join(METRICS)}")
    return name or ("rouge_l" if questions else "wer" if pair.task == "transcribe" else "bleu")


def _first_request(
    lang: str | None, varied: Mapping[str, Sequence[float]], steps: Sequence[int], *, questions: bool
) -> Request:
    """Return what the first of the settings asks of a bundle."""
    first: dict[str, Any] = {name: next(iter(values), None) for name, values in varied.items()}  # Any: int or float
    return Request(lang=lang, ask=("?",) if questions else (), lookahead=next(iter(steps), None), **first)


def numbers(option: str, text: str) -> list[int]:
    """Read "3,6,10" or "1-12"; an empty text gives an empty list.

    Raises:
        BadParameter: the text has another form.
    """
    found: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise typer.BadParameter(f"{option} {text}: expected numbers such as 3,6,10 or a range such as 1-12")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _reals(option: str, text: str) -> list[float]:
    """Read "-2,0,1.5"; an empty text gives an empty list.

    Raises:
        BadParameter: the text has another form.
    """
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text}: expected numbers such as -2,0,1.5") from error


def _runner(
    bundle: Path,
    pair: Pair,
    device: options.Device,
    threads: int,
    jobs: int,
    *,
    questions: bool,
    hotwords: tuple[Hotword, ...],
) -> Runner:
    from bestow_edge.evaluation.report.hardware import usable_cores
    from bestow_edge.evaluation.run.runner import Runner

    threads = threads or max(1, usable_cores() // jobs)
    return Runner(
        bundle=bundle, pair=pair, questions=questions, device=device, threads=threads, jobs=jobs, hotwords=hotwords
    )


def _settings(
    runner: Runner,
    policies: str,
    varied: Mapping[str, Sequence[float]],
    l: int | None,  # noqa: E741 - the paper's letter
    lookaheads: Sequence[int],
) -> list[Setting]:
    """Return all settings, after a check that the bundle supports them."""
    from bestow_edge.core.bundle import check_files, read_manifest
    from bestow_edge.core.delay import is_trained
    from bestow_edge.core.prompts import Question, check_answers, check_trained
    from bestow_edge.evaluation.run.settings import all_settings

    manifest = read_manifest(runner.bundle)
    check_files(runner.bundle, manifest, hashes=False)
    config = manifest.model
    if runner.questions:
        check_answers(Question(runner.pair.source, "?"), config.questions)
    else:
        check_trained(runner.pair, config.pairs)
    policies = policies or ("offline" if runner.questions else config.policy.name)
    names = [name.strip() for name in policies.split(",")]
    settings = all_settings(config, names, varied=varied, l=l, lookaheads=lookaheads)
    waits = [setting.fields for setting in settings if setting.policy == "wait-k"]
    untrained = sorted({fields["k"] for fields in waits if not is_trained(int(fields["k"]), int(fields["l"]), config)})
    if untrained and runner.jobs > 1:  # in a single process the session itself warns
        say_warning(f"models are not trained with K={', '.join(map(str, untrained))} and this L; expect more mistakes")
    return settings


def _report_samples(samples: Samples, manifest: Path, runner: Runner, metric: str) -> None:
    if samples.left_out:
        reason = f"are not in language {runner.pair.source}"
        reason += " or have no question" if runner.questions else ""
        say(f"{samples.left_out} lines of {manifest} {reason} and are left out")
    if metric == "bleu" and all(len(item.reference.split()) < BLEU_WORDS for item in samples.items):
        say_warning(f"no reference has {BLEU_WORDS} words, so BLEU is always 0; choose --metric chrf or another")


def _run(runner: Runner, samples: Samples, settings: Sequence[Setting], store: Store) -> list[list[Instance]]:
    """Run all unfinished settings; at Ctrl-C, print how to go on."""
    try:
        with shown_count("utterances", transient=True) as progress:
            return runner.run(samples.items, settings, store, progress)
    except KeyboardInterrupt as error:
        say("stopped; the same command goes on")
        raise typer.Exit(INTERRUPTED) from error


def _show(results: Sequence[SettingResult], qualities: Sequence[str], metric: str) -> None:
    from bestow_edge.evaluation.report.html_report import signatures

    names = list(dict.fromkeys([metric, *qualities, *LATENCIES]))
    table = new_table("Quality in percent, latency in ms; [95 % interval]", "setting", *names, numbers=tuple(names))
    for result in results:
        scores = result.scores
        cells = [scores[name].shown(name, interval=name == metric) if name in scores else "" for name in names]
        table.add_row(result.setting.name, *cells)
    write_tables(table)
    for line in signatures(results):
        say(line)
    if silent := sum(result.silent for result in results):
        say(f"{silent} utterances have no text; the latency scores leave them out, as SimulEval's do")
