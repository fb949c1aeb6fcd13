"""`bestow-edge replay`: a recorded stream run again, unchanged or with other settings. Knows traces and the runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import write, write_json
from bestow_edge.cli.show.prompts import asked_record, labels, policy_record
from bestow_edge.cli.show.texts import texts
from bestow_edge.core.config import PolicyName
from bestow_edge.core.request import change_policy, default_policy, given_fields

if TYPE_CHECKING:
    from bestow_edge.core.policy import Policy
    from bestow_edge.runtime import Event, Model
    from bestow_edge.runtime.records.trace import Trace, TraceHeader

SAME = "same text as recorded"
DIFFERENT = 1  # exit code


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `run --stream` or `mic` recorded with --trace.")],
    bundle: options.Bundle = None,
    any_bundle: Annotated[
        bool, typer.Option("--any-bundle", help="Accept another bundle than the recorded one, to compare the two.")
    ] = False,
    policy: Annotated[PolicyName | None, typer.Option("--policy", help="Default: the recorded one.")] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, metavar="N", help="Default: recorded.")] = None,
    l: Annotated[int | None, typer.Option("--l", min=1, metavar="N", help="Default: recorded.")] = None,  # noqa: E741
    threshold: options.Threshold = None,
    lookahead: Annotated[
        int | None, typer.Option("--lookahead", min=0, metavar="N", help="Default: the recorded one.")
    ] = None,
    as_json: options.Json = False,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
) -> None:
    """Run a recorded stream again, block by block as it was heard.

    Unchanged, the text must be the recorded one: if it is not, the first difference is shown and the exit code is 1.
    With other settings or another bundle both texts are shown.

    \b
    Examples:
      bestow-edge replay talk.trace
      bestow-edge replay talk.trace --k 6 --lookahead 1
      bestow-edge replay talk.trace --policy align-att --json
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    from bestow_edge.runtime import load
    from bestow_edge.runtime.records import replay as runtime
    from bestow_edge.runtime.records.trace import read_trace

    trace = read_trace(file)
    model = load(bundle, device=device, threads=threads)
    policies = _policies(trace, model, policy, given_fields(k=k, l=l, threshold=threshold))
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


def _policies(trace: Trace, model: Model, name: PolicyName | None, given: Mapping[str, int]) -> list[Policy]:
    """Return the policy of each prompt; fields alone are for the texts beside questions that were asked at the end."""
    if name is not None:
        return [change_policy(default_policy(name, model.config.policy), given)] * len(trace.header.prompts)
    from bestow_edge.core.policy import Offline

    recorded = [(one, prompt.question) for one, prompt in zip(trace.policies, trace.header.prompts, strict=True)]
    held = [bool(question) and isinstance(one, Offline) for one, question in recorded]
    return [
        one if waits and not all(held) else change_policy(one, given)
        for (one, _), waits in zip(recorded, held, strict=True)
    ]


def _replayed(trace: Trace, policies: list[Policy], lookahead: int | None) -> TraceHeader:
    """Return the recorded settings with those of the replay in their place."""
    from bestow_edge.runtime.records.trace import describe_prompt

    asked = [prompt.asked for prompt in trace.header.prompts]
    prompts = tuple(describe_prompt(what, policy) for what, policy in zip(asked, policies, strict=True))
    used = trace.header.lookahead if lookahead is None else lookahead
    return dataclasses.replace(trace.header, prompts=prompts, lookahead=used)


def _show(trace: Trace, header: TraceHeader, events: Sequence[Event], difference: str | None, *, changed: bool) -> None:
    asked = [prompt.asked for prompt in header.prompts]
    replayed = texts(events, len(asked))
    if difference is None and not changed:
        for label, text in zip(labels(asked), replayed, strict=True):
            write(label + text)
        rounded = "" if trace.events == tuple(events) else "; log-probabilities or places in the audio differ"
        write(SAME + rounded)
        return
    for number, recorded in enumerate(texts(trace.events, len(asked))):
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
            asked_record(prompt.asked) | {"recorded": old, "replayed": new}
            for prompt, old, new in zip(header.prompts, recorded, replayed, strict=True)
        ],
    }


def _texts_record(header: TraceHeader, events: Sequence[Event]) -> list[dict[str, object]]:
    said = texts(events, len(header.prompts))
    policies = [policy_record(prompt, header.lookahead) for prompt in header.prompts]
    return [{"policy": policy, "text": text} for policy, text in zip(policies, said, strict=True)]


def _settings(header: TraceHeader, number: int) -> str:
    prompt = header.prompts[number]
    fields = "".join(f" {name}={value}" for name, value in prompt.fields.items())
    return f"{prompt.asked} {prompt.policy}{fields} look-ahead {header.lookahead}"
