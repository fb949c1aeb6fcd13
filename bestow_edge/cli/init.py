"""`bestow-edge init`: makes a checkpoint from a whole model, or from a pretrained speech encoder and an LLM."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bestow_edge.cli import connectors, options
from bestow_edge.cli.show.console import needs_extra, new_table, say, shown_steps, write_json, write_tables
from bestow_edge.core.config import PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig

if TYPE_CHECKING:
    from bestow_edge.model.pretrained.assemble import InitResult

ADAPTER = CrossAdapterConfig(num_layers=2)
POLICY = PolicyConfig()
Fields = dict[str, Any]  # Any: fields of a request, whose class imports torch

Whole = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Folder or Hub id of a Whisper, SALM or Qwen3-ASR to use whole, without training.",
    ),
]
Padding = Annotated[
    float | None,
    typer.Option(
        "--padding",
        min=0,
        metavar="S",
        help="Whole Whisper: seconds of silence behind the audio, which end its text; 8 if not given.",
    ),
]
Instruction = Annotated[
    str | None,
    typer.Option(
        "--instruction",
        metavar="TEXT",
        help="Instruction of a language pair; {source}, {target} and {task} are those of the pair.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder", metavar="ENCODER", help="Folder, .nemo file or Hub id of a FastConformer or Whisper encoder."
    ),
]
Llm = Annotated[
    str | None,
    typer.Option(
        "--llm",
        metavar="LLM",
        help="Folder or Hub id of a decoder-only LLM. Whole SALM: of the LLM whose config and tokenizer it uses.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="CKPT", help="Directory of the new checkpoint.")]
Pairs = Annotated[
    str | None,
    typer.Option(
        "--pairs", metavar="PAIR,...", help="Language pairs of the training; en-en if not given. Whole SALM: its pairs."
    ),
]
Adapter = Annotated[
    Literal["fresh", "decoder"],
    typer.Option("--adapter", help="Begin with fresh weights, or as the decoder of the Whisper that --encoder names."),
]
Layers = Annotated[int, typer.Option("--adapter-layers", min=1, metavar="N", help="Layers of the adapter.")]
Width = Annotated[int, typer.Option("--adapter-width", min=1, metavar="N", help="Width of the adapter.")]
Heads = Annotated[int, typer.Option("--adapter-heads", min=1, metavar="N", help="Attention heads of the adapter.")]
Ffn = Annotated[
    int, typer.Option("--adapter-ffn", min=1, metavar="N", help="Feed-forward width of the adapter over its width.")
]
Mixer = Annotated[
    Literal["attention", "lstm", "none"],
    typer.Option("--text-mixer", help="Mixing of text positions; lstm needs --adapter-layers 1."),
]
PromptMode = Annotated[
    Literal["null_frame", "bypass"],
    typer.Option("--prompt-mode", help="Prompt tokens see a null frame in place of speech, or bypass the adapter."),
]
K = Annotated[int, typer.Option("--k", min=1, metavar="N", help=f"{options.K_HELP}.")]
L = Annotated[
    int | None,
    typer.Option(
        "--l", min=1, metavar="N", help=f"{options.L_HELP}; {POLICY.l} if not given, prepend {connectors.PREPEND_L}."
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="Dtype of the stored weights; auto keeps that of each part."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the adapter's weights.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only files and the Hub's cache, no download.")]
AllNames = Annotated[bool, typer.Option("--all-names", help="In errors, name every missing or unknown weight.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing checkpoint.")]


def init(
    out: Out,
    encoder: Encoder = None,
    llm: Llm = None,
    whole: Whole = None,
    padding: Padding = None,
    instruction: Instruction = None,
    pairs: Pairs = None,
    connector: connectors.Kind = "cross_adapter",
    every: connectors.Every = None,
    delays: connectors.Delays = None,
    form: connectors.Form = None,
    adapter: Adapter = "fresh",
    adapter_layers: Layers = ADAPTER.num_layers,
    adapter_width: Width = ADAPTER.width,
    adapter_heads: Heads = ADAPTER.num_heads,
    adapter_ffn: Ffn = ADAPTER.ffn_factor,
    text_mixer: Mixer = ADAPTER.text_mixer,
    prompt_mode: PromptMode = ADAPTER.prompt_mode,
    speech_layers: connectors.SpeechLayers = "linear",
    stack: connectors.Stack = 1,
    queries: connectors.Queries = 1,
    compressor: connectors.Compressor = "none",
    labels: connectors.Labels = None,
    mask: connectors.Mask = "causal",
    k: K = POLICY.k,
    l: L = None,  # noqa: E741 - the paper's letter
    dtype: Dtype = "auto",
    seed: Seed = 0,
    offline: Offline = False,
    all_names: AllNames = False,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Make a checkpoint from a whole model, or from a pretrained encoder, a pretrained LLM and a new connector.

    A whole Whisper, SALM or Qwen3-ASR needs no training: export its checkpoint.
    Only encoder and front-end of ENCODER are used; LLM brings tokenizer and chat format. Needs the extra `train`.

    Examples:
      bestow-edge init --from openai/whisper-base --out whisper
      bestow-edge init --encoder nvidia/nemotron-speech-streaming-en-0.6b --llm Qwen/Qwen3-0.6B --out start
      bestow-edge init --encoder model.nemo --llm models/SmolLM2-135M-Instruct --pairs en-en,en-de --out start --offline
    """
    _check_sources(whole, encoder, llm)
    sizes = adapter_layers, adapter_width, adapter_heads, adapter_ffn
    speech = connectors.SpeechOptions(speech_layers, stack, queries, compressor, labels, mask)
    is_fresh = adapter == "fresh" and whole is None
    turns = connectors.turns(connector, delays, form, fresh=is_fresh)
    gates = connectors.gates(connector, every, adapter_heads, adapter_ffn, fresh=is_fresh)
    fresh = turns or gates or connectors.fresh(connector, adapter, sizes, (text_mixer, prompt_mode), speech)
    policy = connectors.default_policy(connector, k, l, turns)
    asked: Fields = {"llm": llm, "pairs": pairs.split(",") if pairs is not None else None, "instruction": instruction,
                     "offline": offline}  # fmt: skip
    if whole is not None:
        result = _take_whole(asked | {"source": whole, "padding_s": padding, "every_name": all_names}, out, force=force)
    else:
        asked |= {"encoder": encoder, "connector": fresh, "policy": policy, "dtype": dtype, "seed": seed}
        result = _combine(asked, out, force=force, every_name=all_names)
    _report(result, as_json=as_json)


def _take_whole(asked: Fields, out: Path, *, force: bool) -> InitResult:
    """Make a checkpoint of a whole model; `asked` are the fields of a `WholeRequest`."""
    with shown_steps() as step:
        step("loading torch")
        with needs_extra("train"):
            from bestow_edge.model.pretrained.components import WholeRequest
            from bestow_edge.model.pretrained.whole import init_whole

            pairs = None if asked["pairs"] is None else tuple(asked["pairs"])
            return init_whole(WholeRequest(**asked | {"pairs": pairs}), out, force=force, progress=step)


def _combine(asked: Fields, out: Path, *, force: bool, every_name: bool) -> InitResult:
    """Make a checkpoint of parts; `asked` are the fields of an `InitRequest`."""
    with shown_steps() as step:
        step("loading torch")
        with needs_extra("train"):
            from bestow_edge.model.pretrained.assemble import InitRequest, init_checkpoint

            request = InitRequest(**asked | {"pairs": tuple(asked["pairs"] or ("en-en",))})
            return init_checkpoint(request, out, force=force, every_name=every_name, progress=step)


def _check_sources(whole: str | None, encoder: str | None, llm: str | None) -> None:
    """Refuse a whole model together with an encoder, and a single part."""
    if whole is not None and encoder is not None:
        raise ConfigError("--from takes a whole model; leave out --encoder")
    if whole is None and (encoder is None or llm is None):
        raise ConfigError("parts are missing: give --encoder and --llm, or a whole model with --from")


def _report(result: InitResult, *, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "checkpoint": str(result.directory),
                "parts": [asdict(part) for part in result.parts],
                "left_out": result.left_out,
                "has_chat_template": result.has_chat_template,
                "notes": result.notes,
                "model": result.config.to_dict(),
            }
        )
        return
    table = new_table(f"Checkpoint {result.directory}", "part", "kind", "parameters", "dtype", "from",
                      numbers=("parameters",))  # fmt: skip
    for part in result.parts:
        table.add_row(part.part, part.kind, f"{part.parameters:,}", part.dtype, part.source)
    table.add_row("all", "", f"{sum(part.parameters for part in result.parts):,}", "", "", end_section=True)
    write_tables(table)
    for note in result.notes:
        say(note)
    if result.left_out:
        counts = ", ".join(f"{count} of {part}" for part, count in sorted(result.left_out.items()))
        say(f"unused weights of the recogniser: {counts}")
    if not result.has_chat_template:
        say("the LLM's tokenizer has no chat template: the prompt is the plain instruction and a new line")
