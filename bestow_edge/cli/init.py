"""`bestow-edge init`: a checkpoint out of a pretrained speech encoder and a pretrained LLM."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import needs_extra, new_table, say, shown_steps, write_json, write_tables
from bestow_edge.core.config import PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig

if TYPE_CHECKING:
    from bestow_edge.model.pretrained.assemble import InitResult

ADAPTER = CrossAdapterConfig(num_layers=2)
POLICY = PolicyConfig()


WHISPER = PolicyConfig(name="align-att", l=12, threshold=12, pool=1, least_share=0.5)
PADDING_S = 8.0  # 5 s were too few for some recordings: the decoder said all of it again and again


Whole = Annotated[
    str | None, typer.Option("--from", metavar="W", help="Folder or Hub id of a Whisper, to take whole; no training.")
]
Padding = Annotated[
    float,
    typer.Option(
        "--padding", min=0, metavar="S", help="With --from: seconds of silence behind the audio; 30 as in its training."
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", metavar="X", help="Folder, .nemo file or Hub id of a FastConformer or Whisper encoder."),
]
Llm = Annotated[str | None, typer.Option("--llm", metavar="Y", help="Folder or Hub id of a decoder-only LLM.")]
Out = Annotated[Path, typer.Option("--out", metavar="CKPT", help="Directory to make.")]
Pairs = Annotated[str, typer.Option("--pairs", metavar="PAIR,...", help="Pairs to train for; en-en transcribes.")]
Layers = Annotated[int, typer.Option("--adapter-layers", min=1, metavar="N", help="Layers of the adapter.")]
Width = Annotated[int, typer.Option("--adapter-width", min=1, metavar="N", help="Width of the adapter.")]
Heads = Annotated[int, typer.Option("--adapter-heads", min=1, metavar="N", help="Heads of its attentions.")]
Ffn = Annotated[int, typer.Option("--adapter-ffn", min=1, metavar="N", help="Its feed-forward width over its width.")]
Mixer = Annotated[
    Literal["attention", "lstm", "none"],
    typer.Option("--text-mixer", help="What mixes text; lstm needs --adapter-layers 1."),
]
PromptMode = Annotated[
    Literal["null_frame", "bypass"], typer.Option("--prompt-mode", help="What the prompt sees of the adapter.")
]
K = Annotated[int, typer.Option("--k", min=1, metavar="N", help="wait-k: blocks heard before the first token.")]
L = Annotated[int, typer.Option("--l", min=1, metavar="N", help="Steps of 80 ms in a block.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="Of the stored weights; auto keeps what the parts have."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the adapter's first weights.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never download: files and the Hub's cache alone.")]
AllNames = Annotated[bool, typer.Option("--all-names", help="Name every weight that does not fit.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is there.")]


def init(
    out: Out,
    encoder: Encoder = None,
    llm: Llm = None,
    whole: Whole = None,
    padding: Padding = PADDING_S,
    pairs: Pairs = "en-en",
    adapter_layers: Layers = ADAPTER.num_layers,
    adapter_width: Width = ADAPTER.width,
    adapter_heads: Heads = ADAPTER.num_heads,
    adapter_ffn: Ffn = ADAPTER.ffn_factor,
    text_mixer: Mixer = ADAPTER.text_mixer,
    prompt_mode: PromptMode = ADAPTER.prompt_mode,
    k: K = POLICY.k,
    l: L = POLICY.l,  # noqa: E741 - the paper's letter
    dtype: Dtype = "auto",
    seed: Seed = 0,
    offline: Offline = False,
    all_names: AllNames = False,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Make a checkpoint: of a whole Whisper, or of a pretrained encoder, a pretrained LLM and a fresh adapter.

    A whole Whisper is ready to export and needs no training. Of parts, the encoder alone is taken from X; with it comes
    the front-end it was trained with. From Y come model, tokenizer, chat format and end tokens. Until it is trained the
    adapter changes nothing. Needs the extra `train`.

    \b
    Examples:
      bestow-edge init --from openai/whisper-base --out whisper
      bestow-edge init --encoder nvidia/nemotron-speech-streaming-en-0.6b --llm Qwen/Qwen3-0.6B --out start
      bestow-edge init --encoder model.nemo --llm models/SmolLM2-135M-Instruct --pairs en-en,en-de --out start --offline
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    _check_sources(whole, encoder, llm)
    with shown_steps() as step:
        step("loading torch")
        with needs_extra("train"):
            from bestow_edge.model.pretrained.assemble import InitRequest, init_checkpoint, init_whole

            if whole is not None:
                result = init_whole(whole, out, policy=WHISPER, padding_s=padding, offline=offline,
                                    force=force, every_name=all_names, progress=step)  # fmt: skip
                _report(result, as_json=as_json)
                return
            adapter = CrossAdapterConfig(
                num_layers=adapter_layers,
                width=adapter_width,
                num_heads=adapter_heads,
                ffn_factor=adapter_ffn,
                text_mixer=text_mixer,
                prompt_mode=prompt_mode,
            )
            policy, names = PolicyConfig(k=k, l=l), tuple(pairs.split(","))
            request = InitRequest(encoder=encoder or "", llm=llm or "", connector=adapter, pairs=names, policy=policy,
                                  dtype=dtype, seed=seed, offline=offline)  # fmt: skip
            result = init_checkpoint(request, out, force=force, every_name=all_names, progress=step)
    _report(result, as_json=as_json)


def _check_sources(whole: str | None, encoder: str | None, llm: str | None) -> None:
    """Refuse a whole model beside parts, and a part alone."""
    if whole is not None and (encoder is not None or llm is not None):
        raise ConfigError("--from takes a whole model; leave out --encoder and --llm")
    if whole is None and (encoder is None or llm is None):
        raise ConfigError("parts are missing: give --encoder and --llm, or a whole model by --from")


def _report(result: InitResult, *, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "checkpoint": str(result.directory),
                "parts": [asdict(part) for part in result.parts],
                "left_out": result.left_out,
                "has_chat_template": result.has_chat_template,
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
    if result.left_out:
        counts = ", ".join(f"{count} of {part}" for part, count in sorted(result.left_out.items()))
        say(f"not taken from the recogniser, weights: {counts}")
    if not result.has_chat_template:
        say("the LLM's tokenizer has no chat template: the prompt is the plain instruction and a new line")
