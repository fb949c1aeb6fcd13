"""Finds a pretrained part: a file or folder here, or a repository of the Hugging Face Hub in its cache.

Only JSON, tokenizers and weights are downloaded, never code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bestow_edge.core.errors import CheckpointError
from bestow_edge.core.hub import snapshot

Part = Literal["encoder", "llm", "model", "tokenizer"]
NEMO_SUFFIX = ".nemo"
CONFIG = "config.json"
TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")  # configs, chat templates, vocabularies, sentencepiece tokenizers
PICKLES = "pytorch_model*.bin"


def find_source(name: str, part: Part, *, offline: bool = False) -> Path:
    """Return the folder or `.nemo` file that holds a part, downloading it into the Hub's cache if it must.

    Args:
        name: path of a folder or of a `.nemo` file, or a Hub id `OWNER/NAME`, `OWNER/NAME@REVISION`.
        part: which part it is for: an encoder may be a `.nemo` file, the weights of an LLM may be pickled, and a
            tokenizer has none.
        offline: look at files and the cache alone. `HF_HUB_OFFLINE=1` does the same.

    Raises:
        CheckpointError: if it is a path without a usable file.
        HubError: if it is an id, and the Hub has no such repository, refuses it or cannot be reached.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _checked(path, part)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or name.endswith(NEMO_SUFFIX):
        raise CheckpointError(f"{part} {name}: no such file or folder; a Hub id would look like OWNER/NAME")
    return _checked(_from_hub(name, part, offline=offline), part)


def pinned(name: str, found: Path) -> str:
    """Return a name that gives the same files again: `OWNER/NAME@COMMIT` of what came from the Hub, else the name.

    Args:
        name: as `find_source` takes it.
        found: what it returned.
    """
    folder = found if found.is_dir() else found.parent
    from_hub = folder.parent.name == "snapshots" and not Path(name).expanduser().exists()
    return f"{name.partition('@')[0]}@{folder.name}" if from_hub else name


def origins(sources: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note for each part, by its name, whose source is a commit of the Hub."""
    return tuple(f"{part}: {source}" for part, source in sources.items() if "@" in source)


def _checked(path: Path, part: Part) -> Path:
    """Return the path, or the `.nemo` file that a folder without a config holds."""
    if path.is_file():
        if part == "encoder" and path.suffix == NEMO_SUFFIX:
            return path
        wanted = f"a folder with {CONFIG} and weights" + (f", or a {NEMO_SUFFIX} file" if part == "encoder" else "")
        raise CheckpointError(f"{part} {path}: a file of an unknown kind; expected {wanted}")
    if (path / CONFIG).is_file():
        _check_links(path, part)
        return path
    archives = sorted(path.glob(f"*{NEMO_SUFFIX}")) if part == "encoder" else []
    if len(archives) == 1:
        _check_links(path, part)
        return archives[0]
    if archives:
        raise CheckpointError(f"{part} {path}: holds {', '.join(file.name for file in archives)}; give one of them")
    raise CheckpointError(f"{part} {path}: holds no {CONFIG}; expected a model as transformers saves it")


def _check_links(folder: Path, part: Part) -> None:
    """Refuse links to files elsewhere: a copied folder must not name files of this machine. The Hub's cache has some.

    Raises:
        CheckpointError: if there is one.
    """
    home = folder.resolve()
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() and not any(file.resolve().is_relative_to(root) for root in allowed):
            raise CheckpointError(f"{part} {file}: links to {file.resolve()}, outside its folder; put the file there")


def _from_hub(name: str, part: Part, *, offline: bool) -> Path:
    """Download the files that a part needs, the small ones first: they name the weights."""
    folder = _snapshot(name, TEXTS, offline=offline)
    if not (folder / CONFIG).is_file() and part == "encoder":
        return _snapshot(name, (f"*{NEMO_SUFFIX}",), offline=offline)
    if part == "tokenizer":
        return folder
    folder = _snapshot(name, (*TEXTS, "*.safetensors"), offline=offline)
    if part == "llm" and not any(folder.glob("*.safetensors")):
        folder = _snapshot(name, (*TEXTS, PICKLES), offline=offline)
    return folder


def _snapshot(name: str, patterns: tuple[str, ...], *, offline: bool) -> Path:
    repository, _, revision = name.partition("@")
    label = f"{name}: no such file or folder, and"
    return snapshot(label, repository, revision or None, patterns, offline=offline)
