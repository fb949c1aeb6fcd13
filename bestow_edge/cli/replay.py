"""`bestow-edge replay`: runs a recorded stream again, with the same or with other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import write, write_json
from bestow_edge.cli.show.prompts import labels, policy_record, prompt_record
from bestow_edge.cli.show.texts import texts
from bestow_edge.core.config import PolicyName
from bestow_edge.core.request import change_policy, default_policy, given_fields

if TYPE_CHECKING:
    from bestow_edge.core.policy import Policy
    from bestow_edge.runtime import Event, Model
    from bestow_edge.runtime.records.trace import Trace, TraceHeader

SAME = "same text as recorded"
DIFFERENT = 1  # exit code
Delay = Annotated[
    int | None, typer.Option("--delay", min=0, metavar="N", help=f"{options.DELAY_HELP}; default: as recorded.")
]
BlankBias = Annotated[
    float | None, typer.Option("--blank-bias", metavar="X", help=f"{options.BLANK_HELP}; default: as recorded.")
]


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Trace of `run --stream` or `mic`.")],
    bundle: options.Bundle = None,
    any_bundle: Annotated[
        bool, typer.Option("--any-bundle", help="Accept another bundle than the recorded one.")
    ] = False,
    policy: Annotated[
        PolicyName | None,
        typer.Option("--policy", help="When to write text, with the bundle's values; default: as recorded."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, metavar="N", help=f"{options.K_HELP}; default: as recorded.")
    ] = None,
    l: Annotated[  # noqa: E741 - the paper's letter
        int | None, typer.Option("--l", min=1, metavar="N", help=f"{options.L_HELP}; default: as recorded.")
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", min=0, metavar="N", help=f"{options.THRESHOLD_HELP}; default: as recorded."),
    ] = None,
    delay: Delay = None,
    blank_bias: BlankBias = None,
    lookahead: Annotated[
        int | None,
        typer.Option("--lookahead", min=0, metavar="N", help=f"{options.LOOKAHEAD_HELP}; default: as recorded."),
    ] = None,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Run a recorded stream again with the same blocks of audio.

    With the recorded settings and bundle, the text must be the same.
    If it differs, the command shows the first difference and has exit code 1.
    With other settings or another bundle, it shows both texts.

    Examples:
      bestow-edge replay talk.trace
      bestow-edge replay talk.trace --k 6 --lookahead 1
      bestow-edge replay talk.trace --policy align-att --json
    """
    from bestow_edge.core.embedded import recorded_bundle
    from bestow_edge.runtime import load
    from bestow_edge.runtime.records import replay as runtime
    from bestow_edge.runtime.records.trace import read_trace

    trace = read_trace(file)
    model = load(bundle or recorded_bundle(trace.header.bundle_sha256), device=device, threads=threads)
    given = given_fields(k=k, l=l, threshold=threshold, delay=delay, blank_bias=blank_bias)
    policies = _policies(trace, model, policy, given)
    events = runtime.replay(trace, model, policies=policies, lookahead=lookahead, any_bundle=any_bundle)
    header = _replayed(trace, policies, lookahead)
    changed = header != trace.header or not trace.same_bundle(model)
    difference = runtime.first_difference(trace.events, events)
    if as_json:
        write_json(_record(trace, header, events) | {"changed": changed, "difference": difference})
    else:
        _show(trace, header, events, difference, changed=changed)
    if difference and not changed:
        raise typer.Exit(DIFFERENT)


def _policies(trace: Trace, model: Model, name: PolicyName | None, given: Mapping[str, float]) -> list[Policy]:
    """Return the policy of each prompt.

    Fields without a policy change the texts, not the questions beside them that are answered at the end.
    """
    if name is not None:
        return [change_policy(default_policy(name, model.config.policy), given)] * len(trace.header.prompts)
    from bestow_edge.core.policy import Offline

    recorded = list(zip(trace.policies, trace.header.prompts, strict=True))
    at_end = [bool(prompt.question) and isinstance(policy, Offline) for policy, prompt in recorded]
    if all(at_end):
        return [change_policy(policy, given) for policy in trace.policies]
    return [
        policy if last else change_policy(policy, given) for policy, last in zip(trace.policies, at_end, strict=True)
    ]


def _replayed(trace: Trace, policies: list[Policy], lookahead: int | None) -> TraceHeader:
    """Return the recorded header with the settings of the replay."""
    from bestow_edge.runtime.records.trace import describe_prompt

    recorded = zip(trace.header.prompts, policies, strict=True)
    prompts = tuple(describe_prompt(prompt.asked, policy) for prompt, policy in recorded)
    lookahead = trace.header.lookahead if lookahead is None else lookahead
    return dataclasses.replace(trace.header, prompts=prompts, lookahead=lookahead)


def _show(trace: Trace, header: TraceHeader, events: Sequence[Event], difference: str | None, *, changed: bool) -> None:
    prompts = [prompt.asked for prompt in header.prompts]
    replayed = texts(events, len(prompts))
    if difference is None and not changed:
        for label, text in zip(labels(prompts), replayed, strict=True):
            write(label + text)
        rounded = "" if trace.events == tuple(events) else "; log-probabilities or times differ"
        write(SAME + rounded)
        return
    for number, recorded in enumerate(texts(trace.events, len(prompts))):
        write(f"recorded, {_settings(trace.header, number)}: {recorded}")
        write(f"replayed, {_settings(header, number)}: {replayed[number]}")
    write(f"first difference: {difference}" if difference else SAME)


def _record(trace: Trace, header: TraceHeader, events: Sequence[Event]) -> dict[str, object]:
    recorded, replayed = _texts_record(trace.header, trace.events), _texts_record(header, events)
    return {
        "file": str(trace.path),
        "duration_s": round(trace.duration_s, 3),
        "finished": header.finished,
        "texts": [
            prompt_record(prompt.asked) | {"recorded": old, "replayed": new}
            for prompt, old, new in zip(header.prompts, recorded, replayed, strict=True)
        ],
    }


def _texts_record(header: TraceHeader, events: Sequence[Event]) -> list[dict[str, object]]:
    rows = zip(header.prompts, texts(events, len(header.prompts)), strict=True)
    return [{"policy": policy_record(prompt, header.lookahead), "text": text} for prompt, text in rows]


def _settings(header: TraceHeader, number: int) -> str:
    prompt = header.prompts[number]
    fields = "".join(f" {name}={value}" for name, value in prompt.fields.items())
    return f"{prompt.asked} {prompt.policy}{fields} look-ahead {header.lookahead}"
