"""`bestow-edge eval`: quality and latency of a bundle at many settings in one run.

It reads arguments and shows progress and the table; the work is in `bestow_edge.evaluation`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from bestow_edge.core.prompts import parse_pair
from bestow_edge.evaluation.scores.score import METRICS

if TYPE_CHECKING:
    from bestow_edge.core.prompts import Pair
    from bestow_edge.evaluation.run.directory import Store
    from bestow_edge.evaluation.run.runner import Runner
    from bestow_edge.evaluation.run.samples import Samples
    from bestow_edge.evaluation.run.settings import Setting
    from bestow_edge.evaluation.scores.instances import Instance
    from bestow_edge.evaluation.scores.results import SettingResult

INTERRUPTED = 130
BLEU_WORDS = 4  # BLEU of texts without four words in a row is 0
LATENCIES = ("LAAL", "LAAL_CA", "AL", "DAL", "ATD", "StartOffset", "EndOffset", "RTF")  # of the table on the terminal
ANSWERS = ("rouge_l", "accuracy", "bleu")
QUALITIES = {
    "transcribe": ("wer", "wer_normalized", "cer", "accuracy"),
    "translate": ("bleu", "chrf", "wer", "accuracy"),
}

Manifest = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST", help="NeMo's .jsonl, a .tsv with a header, or SimulEval's source list."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of results; the same one goes on.")]
Lang = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="SOURCE-TARGET",
        help="en-en transcribes; with --questions en, of the speech. Default: en-de, or the bundle's first pair.",
    ),
]
Questions = Annotated[
    bool, typer.Option("--questions", help="Ask each line's `question` and score against its `answer`.")
]
Target = Annotated[
    Path | None, typer.Option("--target", metavar="FILE", help="SimulEval's target list, for a source list.")
]
Audio = Annotated[
    Path | None, typer.Option("--audio", metavar="DIR", help="What audio paths are relative to; default: MANIFEST's.")
]
Policies = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME,...",
        help="offline (the default of --questions), wait-k, align-att, local-agreement; default: the bundle's.",
    ),
]
Ks = Annotated[str, typer.Option("--k", metavar="N,...", help="wait-k: such as 3,6,10 or 1-12; default: bundle's.")]
Thresholds = Annotated[str, typer.Option("--threshold", metavar="N,...", help="align-att: steps of 80 ms.")]
Lookaheads = Annotated[str, typer.Option("--lookahead", metavar="N,...", help="Such as 13,6; default: the bundle's.")]
Metric = Annotated[
    str,
    typer.Option(
        "--metric", help="Quality in the curves; default: wer of transcripts, bleu of translations, rouge_l of answers."
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Processes; each loads the bundle.")]
Threads = Annotated[
    int, typer.Option("--threads", min=0, metavar="N", help="CPU threads of each process; 0 = cores / jobs.")
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
    l: options.L = None,  # noqa: E741 - the paper's letter
    lookahead: Lookaheads = "",
    metric: Metric = "",
    jobs: Jobs = 1,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Measure quality and latency of a bundle at every combination of the settings named.

    A run that was stopped goes on by the same command; more values of --k, --threshold, --policy and --lookahead may be
    added to it. Needs the extra `eval`.

    \b
    Examples:
      bestow-edge eval test.jsonl --lang en-de --k 3,6,10 --out scores
      bestow-edge eval test.jsonl --lang en-en --k 1-12 --lookahead 13,6,1,0 --jobs 2 --out scores
      bestow-edge eval source.txt --target target.txt --bundle my-bundle --out scores
      bestow-edge eval qa.jsonl --lang en --questions --bundle my-bundle --out scores
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    pair = parse_pair(lang or _default_pair(bundle))
    if questions and pair.task != "transcribe":
        raise typer.BadParameter(f"--lang {pair}: with --questions give the language of the speech, such as en")
    metric = metric or ("rouge_l" if questions else "wer" if pair.task == "transcribe" else "bleu")
    policy = policy or ("offline" if questions else "")
    varied = {"k": numbers("--k", k), "threshold": numbers("--threshold", threshold)}
    steps = numbers("--lookahead", lookahead)
    with needs_extra("eval"):
        from bestow_edge.evaluation.report import summary
        from bestow_edge.evaluation.run.directory import Store
        from bestow_edge.evaluation.run.samples import read_samples
        from bestow_edge.evaluation.scores.results import score_setting
    if metric not in METRICS:
        raise typer.BadParameter(f"--metric {metric}: expected one of {', '.join(METRICS)}")
    runner = _runner(bundle, pair, device, threads, jobs, questions=questions)
    settings = _settings(runner, policy, varied, l, steps)
    samples = read_samples(manifest, pair, questions=questions, target=target, audio=audio)
    _say_what_to_expect(samples, manifest, runner, metric)
    what = summary.describe(manifest, samples, runner)
    store = Store(out, what)
    found = _run(runner, samples, settings, store)
    say("computing scores and intervals")
    results = [score_setting(setting, instances, pair) for setting, instances in zip(settings, found, strict=True)]
    record = summary.write(store, what, results, metric)
    if as_json:
        write_json(record)
    else:
        _show(results, ANSWERS if questions else QUALITIES[pair.task], metric)
        say(f"written to {out}: results.json, report.html, curve.svg, curve.png and a directory for each setting")


def _default_pair(bundle: Path | None) -> str:
    from bestow_edge.core.bundle import read_manifest
    from bestow_edge.core.request import default_pair
    from bestow_edge.runtime import embedded_bundle

    return default_pair(read_manifest(bundle or embedded_bundle()).model, auto=False)


def numbers(option: str, text: str) -> list[int]:
    """Read "3,6,10" or "1-12"; nothing from an empty text.

    Raises:
        BadParameter: it is neither.
    """
    found: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise typer.BadParameter(f"{option} {text}: expected numbers such as 3,6,10 or a range such as 1-12")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _runner(
    bundle: Path | None, pair: Pair, device: options.Device, threads: int, jobs: int, *, questions: bool
) -> Runner:
    from bestow_edge.evaluation.report.hardware import usable_cores
    from bestow_edge.evaluation.run.runner import Runner
    from bestow_edge.runtime import embedded_bundle

    if bundle is None:
        say("no bundle given: using the embedded demo (small; English and German)")
    threads = threads or max(1, usable_cores() // jobs)
    used = bundle or embedded_bundle()
    return Runner(bundle=used, pair=pair, questions=questions, device=device, threads=threads, jobs=jobs)


def _settings(
    runner: Runner,
    policies: str,
    varied: dict[str, list[int]],
    l: int | None,  # noqa: E741 - the paper's letter
    lookaheads: Sequence[int],
) -> list[Setting]:
    """Return all settings; what the bundle cannot do is refused before anything runs."""
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
    names = [name.strip() for name in (policies or config.policy.name).split(",")]
    settings = all_settings(config, names, varied=varied, l=l, lookaheads=lookaheads)
    waits = [setting.fields for setting in settings if setting.policy == "wait-k"]
    unlike = sorted({fields["k"] for fields in waits if not is_trained(fields["k"], fields["l"], config)})
    if unlike and runner.jobs > 1:  # a single process says it itself
        say_warning(f"K={', '.join(map(str, unlike))} with this L is unlike training; expect more mistakes")
    return settings


def _say_what_to_expect(samples: Samples, manifest: Path, runner: Runner, metric: str) -> None:
    if samples.left_out:
        asked = " or have no question" if runner.questions else ""
        spoken = f"are spoken in other languages than {runner.pair.source}{asked}"
        say(f"{samples.left_out} lines of {manifest} {spoken} and are left out")
    if metric == "bleu" and all(len(item.reference.split()) < BLEU_WORDS for item in samples.items):
        say_warning(
            f"no reference has {BLEU_WORDS} words, so BLEU is 0 whatever is written; choose --metric chrf or another"
        )


def _run(runner: Runner, samples: Samples, settings: Sequence[Setting], store: Store) -> list[list[Instance]]:
    """Run what is not finished, and say at Ctrl-C how to go on."""
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
        say(f"nothing was written for {silent} utterances; latency scores leave them out, as SimulEval's do")
