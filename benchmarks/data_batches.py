"""How fast training batches are made from a manifest and from shards of it, and how much of them is padding.

    python benchmarks/data_batches.py human/librispeech/train.jsonl --out runs/data

One process, no model: reading, decoding, augmentation, features, tokens and masks, as a data loader's process does it.
"""

import argparse
import platform
import time
from pathlib import Path

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.training.data.corpora.mixture import Corpora
from bestow_edge.training.data.corpora.shards import write_shards
from bestow_edge.training.data.examples import ExampleMaker
from bestow_edge.training.data.tokens import CHAT, END, train_tokenizer
from bestow_edge.training.recipe.data import AugmentRecipe, DataRecipe, FilterRecipe, SourceRecipe
from bestow_edge.training.recipe.recipe import StageRecipe

PAIRS = ("en-en",)
AUGMENT = AugmentRecipe(speed=0.1, room=0.2, noise=0.3, gain_db=10, mask_bins=27, mask_frames=70)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="directory for the shards")
    parser.add_argument("--size", type=int, default=10_000_000, help="bytes of a shard")
    parser.add_argument("--batch-s", type=float, default=120.0)
    parser.add_argument("--batches", type=int, default=40)
    args = parser.parse_args()
    write_shards([args.manifest.resolve()], args.out.resolve(), size_bytes=args.size, seed=0)
    loose = SourceRecipe(name="manifest", manifests=(str(args.manifest.resolve()),))
    packed = {"name": "shards", "shards": (str(args.out.resolve()),)}
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    paces = "batches a CPU second | hours of audio a CPU hour"
    print(f"| source | buckets | augmented | batches an epoch | padding | {paces} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for source, buckets, augment in [
        (loose, 1, AugmentRecipe()),
        (loose, 30, AugmentRecipe()),
        (SourceRecipe(**packed), 30, AugmentRecipe()),
        (SourceRecipe(**packed, shards_at_once=2), 30, AugmentRecipe()),
        (loose, 30, AUGMENT),
    ]:
        row(source, buckets, augment, args)


def row(source: SourceRecipe, buckets: int, augment: AugmentRecipe, args: argparse.Namespace) -> None:
    """Make batches and print one line of the table."""
    data = DataRecipe(
        sources=(source,), dev_sources=(source,), buckets=buckets, augment=augment, filter=FilterRecipe(max_s=30)
    )
    stage = StageRecipe(name="bench", steps=args.batches, batch_s=args.batch_s, learning_rate=1.0, streaming=0.5)
    corpora = Corpora(data, [stage], PAIRS, args.manifest.parent)
    tokenizer = train_tokenizer(corpora.texts(), PAIRS, 1024)
    config = ModelConfig(
        encoder=ChunkedConfig(network={"model_type": "nemotron_asr_streaming_encoder", "hidden_size": 8}),
        connector=CrossAdapterConfig(),
        llm={"model_type": "any", "hidden_size": 8},
        pairs=PAIRS,
        chat=CHAT,
    )
    maker = ExampleMaker(config, tokenizer, stage, tokenizer.token_to_id(END))
    dataset = corpora.dataset(maker, dev=False, num_batches=args.batches, seed=1)
    plan = dataset.batches[0].plan
    started, seconds = time.process_time(), 0.0
    for index in range(args.batches):
        seconds += float(dataset[index]["frame_lens"].sum()) / 100
    took = time.process_time() - started
    name = f"{source.name}, {source.shards_at_once} at once" if source.shards_at_once else source.name
    shares = f"{100 * plan.padding():.1f} % | {args.batches / took:.2f} | {seconds / took:.0f}"
    print(f"| {name} | {buckets} | {'yes' if augment.speed else 'no'} | {plan.num_batches()} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
