"""Options of `bestow-edge init` for the connector, and the connector that they ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import typer

from bestow_edge.core.config import ConnectorConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.core.specs.gated_layers import GatedLayersConfig
from bestow_edge.core.specs.interleave import InterleaveConfig
from bestow_edge.core.specs.prepend import CompressorConfig, PrependConfig, QformerConfig

Kinds = Literal["cross_adapter", "gated_layers", "cross_layers", "prepend", "interleave"]
GATED: tuple[Kinds, ...] = ("gated_layers", "cross_layers")  # the second is the name that the T5 style goes by
Layers = Literal["linear", "mlp", "conformer", "qformer"]
Shortening = Literal["none", "frame_averaging", "blank_removal"]
Forms = Literal["turns", "additive"]
SpeechMask = Literal["causal", "non_causal"]
PREPEND_L = 12  # steps (0.96 s) between two drafts: each runs all the text again

Kind = Annotated[
    Kinds,
    typer.Option(
        "--connector",
        help="Speech enters by cross-attention, in an adapter or (gated_layers, also cross_layers) in the LLM, "
        "or stands in the LLM's sequence, whole or in turns.",
    ),
]
Delays = Annotated[
    str | None,
    typer.Option(
        "--delays", metavar="N,...", help="interleave: steps (80 ms) from a word to its text; 2,4,8,16 if not given."
    ),
]

Form = Annotated[
    Forms | None,
    typer.Option("--form", help="interleave: steps of speech take turns with tokens, or are added to them."),
]
Every = Annotated[
    int | None,
    typer.Option(
        "--every", min=1, metavar="N", help="gated_layers: every N-th LLM layer hears speech; 2 if not given."
    ),
]
SpeechLayers = Annotated[
    Layers, typer.Option("--speech-layers", help="prepend: layers between the encoder and the LLM's embeddings.")
]
Stack = Annotated[
    int, typer.Option("--stack", min=1, metavar="N", help="prepend: encoder steps that become one position of the LLM.")
]
Queries = Annotated[
    int, typer.Option("--queries", min=1, metavar="N", help="qformer: embeddings of each --stack steps.")
]
Compressor = Annotated[
    Shortening, typer.Option("--compressor", help="prepend: shorten speech by the labels of a CTC head.")
]
Labels = Annotated[
    int | None,
    typer.Option("--labels", min=1, metavar="N", help="Labels of the compressor's CTC head, as the recipe's `labels`."),
]
Mask = Annotated[SpeechMask, typer.Option("--mask", help="prepend: speech sees speech before it, or all of it.")]


class SpeechOptions(NamedTuple):
    """Options of a connector with speech in the LLM's sequence."""

    layers: Layers = "linear"
    """Kind of the layers."""
    stack: int = 1
    """Steps of a position, or of a Q-Former's window."""
    queries: int = 1
    """Of a Q-Former's window."""
    compressor: Shortening = "none"
    """Way of shortening."""
    labels: int | None = None
    """Of its CTC head."""
    mask: SpeechMask = "causal"
    """Over speech in the LLM."""


def fresh(
    kind: Kinds,
    adapter: Literal["fresh", "decoder"],
    sizes: tuple[int, int, int, int],
    variant: tuple[Literal["attention", "lstm", "none"], Literal["null_frame", "bypass"]],
    speech: SpeechOptions,
) -> ConnectorConfig | None:
    """Return the connector that options ask for; None for an adapter that begins as a decoder.

    Args:
        kind: of the connector.
        adapter: its first weights.
        sizes: layers, width, heads and feed-forward factor.
        variant: text mixer and prompt mode of BESTOW's adapter.
        speech: options of `prepend`.

    Raises:
        ConfigError: if options contradict each other.
    """
    if kind == "prepend":
        if adapter == "decoder":
            raise ConfigError("--adapter decoder makes a cross_adapter; leave out --connector prepend")
        return _prepend(speech, sizes)
    if speech != SpeechOptions():
        got = "--speech-layers, --stack, --queries, --compressor, --labels and --mask"
        raise ConfigError(f"{got} are for --connector prepend; leave them out or add it")
    layers, width, heads, factor = sizes
    if adapter == "decoder":
        return None
    return CrossAdapterConfig(
        num_layers=layers,
        width=width,
        num_heads=heads,
        ffn_factor=factor,
        text_mixer=variant[0],
        prompt_mode=variant[1],
    )


def gates(kind: Kinds, every: int | None, heads: int, ffn_factor: int, *, fresh: bool) -> GatedLayersConfig | None:
    """Return the connector for cross-attention in the LLM's layers; None for other kinds.

    Raises:
        ConfigError: the options contradict each other.
    """
    if kind not in GATED:
        if every is not None:
            raise ConfigError("--every: only --connector gated_layers has layers to choose; give both")
        return None
    if not fresh:
        raise ConfigError(f"--connector {kind} begins with fresh weights; leave out --from and --adapter")
    sizes = GatedLayersConfig(num_heads=heads, ffn_factor=ffn_factor)
    return sizes if every is None else replace(sizes, every=every)


def turns(kind: Kinds, delays: str | None, form: Forms | None, *, fresh: bool) -> InterleaveConfig | None:
    """Return the connector for speech and text in one sequence; None for other kinds.

    Raises:
        ConfigError: the options contradict each other.
    """
    if kind != "interleave":
        if delays is not None:
            raise ConfigError("--delays: only --connector interleave has delays; give both")
        if form is not None:
            raise ConfigError("--form: only --connector interleave has forms; give both")
        return None
    if not fresh:
        raise ConfigError("--connector interleave begins with fresh weights; leave out --from and --adapter")
    sizes = InterleaveConfig(form=form or "turns")
    return sizes if delays is None else replace(sizes, delays=_steps(delays))


def _steps(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--delays {text}: expected numbers of steps such as 2,4,8")
    return tuple(map(int, parts))


def default_policy(
    kind: Kinds,
    k: int,
    l: int | None,  # noqa: E741 - the paper's letter
    turns: InterleaveConfig | None,
) -> PolicyConfig:
    """Return the default policy of a model with a kind of connector; of turns, with the middle one of their delays."""
    if turns is not None:
        plain = PolicyConfig(name="every-step", delay=turns.delays[(len(turns.delays) - 1) // 2])
        return replace(plain, l=l or 1, most_tokens=1) if turns.form == "additive" else replace(plain, l=l or plain.l)
    if kind == "prepend":
        return PolicyConfig(name="local-agreement", l=l or PREPEND_L)
    return PolicyConfig(k=k, l=l or PolicyConfig().l)


def _prepend(speech: SpeechOptions, sizes: tuple[int, int, int, int]) -> PrependConfig:
    if (speech.compressor == "none") != (speech.labels is None):
        raise ConfigError(
            "--compressor needs --labels, the number of labels of its CTC head, and --labels a compressor"
        )
    if speech.queries > 1 and speech.layers != "qformer":
        raise ConfigError("--queries is for --speech-layers qformer; leave it out")
    short = None
    if speech.labels is not None and speech.compressor != "none":
        short = CompressorConfig(strategy=speech.compressor, labels=speech.labels)
    number, width, heads, factor = sizes
    if speech.layers == "qformer":
        qformer = QformerConfig(
            num_queries=speech.queries,
            num_layers=number,
            num_heads=heads,
            ffn_width=factor * width,
            window=speech.stack,
        )
        return PrependConfig(qformer=qformer, compressor=short, mask=speech.mask)
    conformer = {
        "hidden_size": width,
        "num_hidden_layers": number,
        "num_attention_heads": heads,
        "intermediate_size": factor * width,
    }
    return PrependConfig(
        stack=speech.stack,
        hidden=width if speech.layers == "mlp" else 0,
        conformer=conformer if speech.layers == "conformer" else None,
        compressor=short,
        mask=speech.mask,
    )
