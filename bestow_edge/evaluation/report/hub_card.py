"""The model card of a repository of the Hugging Face Hub: metadata, how to run it, and the bundle's card."""

from __future__ import annotations

from pathlib import Path

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.hub import import_library
from bestow_edge.core.hub_bundles import PREFIX
from bestow_edge.core.prompts import parse_pair
from bestow_edge.evaluation.report.model_card import model_card


def hub_card(bundle: Path, repository: str, licence: str | None) -> str:
    """Return Markdown that begins with the Hub's metadata as YAML.

    Args:
        bundle: its directory.
        repository: `OWNER/NAME`.
        licence: identifier of the Hub, such as `apache-2.0`; None = not named.

    Raises:
        BundleError: if the bundle is missing or damaged.
        MissingExtraError: if huggingface_hub is not installed.
    """
    config = read_manifest(bundle).model
    pairs = [parse_pair(pair) for pair in config.pairs]
    data = import_library().ModelCardData(
        language=sorted({code for pair in pairs for code in (pair.source, pair.target)} | set(config.questions)),
        license=licence,
        library_name="bestow-edge",
        pipeline_tag="automatic-speech-recognition",
        tags=["onnx", "speech", "streaming", *(["translation"] if any(p.task == "translate" for p in pairs) else [])],
    )
    run = f"pip install 'bestow-edge[cpu,hub]'\nbestow-edge run talk.wav --bundle {PREFIX}{repository}"
    card = model_card(bundle, name=repository).partition("\n")
    return f"---\n{data.to_yaml()}\n---\n\n{card[0]}\n\n```bash\n{run}\n```\n{card[2]}"
