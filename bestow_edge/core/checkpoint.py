"""Content of a checkpoint directory, read without torch: its config and the shapes of its weights.

Standard library only. `bestow_edge.model.checkpoint` reads and writes the weights themselves.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.files import tidy
from bestow_edge.core.graphs import graph_specs
from bestow_edge.core.json_text import parse_object, read_json
from bestow_edge.core.prompts import check_languages, parse_pair

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = "bestow-edge-checkpoint"
FORMAT_VERSION = 2
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def load_config(directory: Path) -> ModelConfig:
    """Read the model config of a checkpoint.

    Raises:
        CheckpointError: if it is not a checkpoint directory of this format version.
        ConfigError: if its config has unknown or wrong fields.
        PromptError: if a language of it is unknown.
    """
    if not directory.exists():
        tidy(directory)
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory}: not a checkpoint, {name} is missing; make one with train or init")
    document = read_json(directory / CONFIG_FILE)
    if document.get("format") != FORMAT or document.get("format_version") != FORMAT_VERSION:
        got = f"config.json is {document.get('format')} {document.get('format_version')}, expected {FORMAT}"
        raise CheckpointError(f"{directory}: {got} {FORMAT_VERSION}; make the checkpoint again with train or init")
    try:
        config = ModelConfig.from_dict(document.get("model", {}))
        graph_specs(config)
    except KeyError as error:
        raise ConfigError(f"{directory / CONFIG_FILE}: the encoder's or the LLM's config lacks {error}") from error
    for pair in config.pairs:
        parse_pair(pair)
    check_languages(*config.questions)
    return config


def read_notes(directory: Path) -> list[str]:
    """Return the notes on the origin of a checkpoint, in words for people; most have none."""
    notes = read_json(directory / CONFIG_FILE).get("notes", [])
    return [str(note) for note in notes] if isinstance(notes, list) else []


def weights_by_part(directory: Path) -> dict[str, int]:
    """Return the number of weights of each part of a checkpoint, by the first part of their names.

    Raises:
        CheckpointError: if its weights are not a safetensors file.
    """
    counts: Counter[str] = Counter()
    for name, shape in weight_shapes(directory / WEIGHTS_FILE).items():
        counts[name.partition(".")[0]] += prod(shape)
    return dict(counts)


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the name and shape of every tensor of a safetensors file.

    The file begins with the length of a JSON header, 8 bytes little-endian, and the header.

    Raises:
        CheckpointError: if it is not such a file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_object(file.read(min(length, MAX_HEADER_BYTES)), WEIGHTS_FILE)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        if wrong := [name for name, shape in shapes.items() if not all(_is_size(size) for size in shape)]:
            raise ConfigError(f"shape of {wrong[0]} is {shapes[wrong[0]]}")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); copy the checkpoint again") from error
    return shapes


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**62
