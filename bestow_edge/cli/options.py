"""Arguments that several commands take, declared once. Knows typer only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestow_edge.core.config import PolicyName

Lang = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="SOURCE-TARGET,...",
        help="Languages of speech and text; en-en transcribes, en-en,en-de both; auto and auto-en where the model "
        "detects the language, as Whisper does. Default: en-de, or what the model can do. With --ask, en (the default "
        "then) is the language of the speech and nothing else is written.",
    ),
]
Ask = Annotated[
    list[str] | None,
    typer.Option("--ask", metavar="QUESTION", help="Question about the speech; may be given more than once."),
]
Bundle = Annotated[
    Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle to run; without it the embedded demo.")
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda:0, or tensorrt:0 for engines.")]
Threads = Annotated[int, typer.Option("--threads", min=0, metavar="N", help="CPU threads; 0 = one for each core.")]
Policy = Annotated[
    PolicyName | None, typer.Option("--policy", help="When to write; default: the model's, wait-k in the demo.")
]
K = Annotated[
    int | None,
    typer.Option("--k", min=1, metavar="N", help="wait-k: blocks heard before the first token; default: bundle's."),
]
L = Annotated[
    int | None, typer.Option("--l", min=1, metavar="N", help="Steps of 80 ms in a block; default: the bundle's.")
]
Threshold = Annotated[
    int | None,
    typer.Option(
        "--threshold", min=0, metavar="N", help="align-att: steps of 80 ms that must follow where a token looks."
    ),
]
Lookahead = Annotated[
    int | None,
    typer.Option("--lookahead", min=0, metavar="N", help="Steps of 80 ms the encoder looks ahead; default: bundle's."),
]
Latency = Annotated[
    str | None,
    typer.Option("--latency", metavar="TIME", help="Delay such as 2.5s or 800ms instead of --k, --l and --lookahead."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Record audio, decisions and times, for `bestow-edge replay`."),
]
