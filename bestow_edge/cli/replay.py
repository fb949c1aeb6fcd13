"""`bestow-edge replay`: a recorded stream run again, unchanged or with other settings. Knows traces and the runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bestow_edge.cli import options
from bestow_edge.cli.console import write, write_json

if TYPE_CHECKING:
    from bestow_edge.policy import Policy
    from bestow_edge.runtime import Event, Model, Session
    from bestow_edge.runtime.trace import Trace, TraceHeader, Tracer

SAME = "same text as recorded"
DIFFERENT = 1  # exit code

PolicyName = Literal["wait-k", "offline", "align-att", "local-agreement"]


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `run --stream` or `mic` recorded with --trace.")],
    bundle: options.Bundle = None,
    any_bundle: Annotated[
        bool, typer.Option("--any-bundle", help="Accept another bundle than the recorded one, to compare the two.")
    ] = False,
    policy: Annotated[PolicyName | None, typer.Option("--policy", help="Default: the recorded one.")] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, metavar="N", help="Default: recorded.")] = None,
    l: Annotated[int | None, typer.Option("--l", min=1, metavar="N", help="Default: recorded.")] = None,  # noqa: E741
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
    from bestow_edge.runtime import replay as runtime
    from bestow_edge.runtime.trace import read_trace

    trace = read_trace(file)
    model = load(bundle, device=device, threads=threads)
    policies = _policies(trace, model, policy, k, l)
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


def traced(session: Session, path: Path) -> Tracer:
    """Return a session that leaves a trace."""
    from bestow_edge.runtime.trace import Tracer

    return Tracer(session, path)


def _policies(trace: Trace, model: Model, name: PolicyName | None, k: int | None, l: int | None) -> list[Policy]:  # noqa: E741 - the paper's letter
    """Return the policy of each prompt: the recorded one or the one named, with K and L changed.

    Raises:
        BadParameter: the policy has no K or no L.
    """
    changes = {field: value for field, value in (("k", k), ("l", l)) if value is not None}
    if name is None:
        return [_with(policy, changes) for policy in trace.policies]
    from bestow_edge.policy import POLICIES, WaitK

    default = model.config.policy
    policy = WaitK(default.k, default.l) if name == "wait-k" else POLICIES[name]()
    return [_with(policy, changes)] * len(trace.header.prompts)


def _with(policy: Any, changes: dict[str, int]) -> Policy:  # Any: a dataclass, as POLICIES are
    if unknown := set(changes) - {field.name for field in dataclasses.fields(policy)}:
        raise typer.BadParameter(f"--{min(unknown)}: {policy} has none; leave it out or choose another --policy")
    changed: Policy = dataclasses.replace(policy, **changes)
    return changed


def _replayed(trace: Trace, policies: list[Policy], lookahead: int | None) -> TraceHeader:
    """Return the recorded settings with those of the replay in their place."""
    from bestow_edge.runtime.trace import describe_prompt

    pairs = [prompt.pair for prompt in trace.header.prompts]
    prompts = tuple(describe_prompt(pair, policy) for pair, policy in zip(pairs, policies, strict=True))
    used = trace.header.lookahead if lookahead is None else lookahead
    return dataclasses.replace(trace.header, prompts=prompts, lookahead=used)


def _show(trace: Trace, header: TraceHeader, events: Sequence[Event], difference: str | None, *, changed: bool) -> None:
    if difference is None and not changed:
        for prompt, _ in enumerate(header.prompts):
            write(_text(events, prompt))
        rounded = "" if trace.events == tuple(events) else "; log-probabilities or places in the audio differ"
        write(SAME + rounded)
        return
    for number, _ in enumerate(header.prompts):
        write(f"recorded, {_settings(trace.header, number)}: {_text(trace.events, number)}")
        write(f"replayed, {_settings(header, number)}: {_text(events, number)}")
    write(f"first difference: {difference}" if difference else SAME)


def _record(trace: Trace, header: TraceHeader, events: Sequence[Event]) -> dict[str, object]:
    def one(source: TraceHeader, said: Sequence[Event], number: int) -> dict[str, object]:
        prompt = source.prompts[number]
        policy = {"name": prompt.policy, **prompt.fields, "lookahead": source.lookahead}
        return {"policy": policy, "text": _text(said, number)}

    return {
        "file": str(trace.path),
        "duration_s": round(trace.duration_s, 3),
        "finished": header.finished,
        "texts": [
            {
                "lang": prompt.pair,
                "recorded": one(trace.header, trace.events, number),
                "replayed": one(header, events, number),
            }
            for number, prompt in enumerate(header.prompts)
        ],
    }


def _settings(header: TraceHeader, number: int) -> str:
    prompt = header.prompts[number]
    fields = "".join(f" {name}={value}" for name, value in prompt.fields.items())
    return f"{prompt.pair} {prompt.policy}{fields} look-ahead {header.lookahead}"


def _text(events: Sequence[Event], prompt: int) -> str:
    from bestow_edge.runtime import TextEvent

    return "".join(event.text for event in events if isinstance(event, TextEvent) and event.prompt == prompt)
