"""A whole pretrained model as a checkpoint that needs no training. Each kind has a file here: `matches` and `whole`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import check_free
from bestow_edge.model.checkpoint import save_checkpoint
from bestow_edge.model.pretrained import qwen3_asr, salm, whisper
from bestow_edge.model.pretrained.assemble import InitResult, Progress, check_rebuilds, summary
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.configs import read_fields
from bestow_edge.model.pretrained.repository import find_source, origins, pinned

KINDS: tuple[ModuleType, ...] = (whisper, salm, qwen3_asr)


def init_whole(request: WholeRequest, out: Path, *, force: bool = False, progress: Progress) -> InitResult:
    """Make a checkpoint of a whole pretrained model.

    Args:
        request: the model.
        out: directory to make; it appears complete or not at all.
        force: replace a directory that is there.
        progress: called with a few words at the start of each step.

    Raises:
        CheckpointError: if the model is missing, damaged, or its weights do not fit its config.
        HubError: if a model of the Hub is missing, refused or out of reach.
        ConfigError: if the model is of an unsupported kind, an option does not suit it, or `out` exists.
    """
    check_free(out, replace=force)
    progress(f"looking for {request.source}")
    folder = find_source(request.source, "model", offline=request.offline)
    fields = read_fields(folder / "config.json")
    kind = next((kind for kind in KINDS if kind.matches(fields)), None)
    if kind is None:
        expected = "a Whisper, a SALM of NeMo's speechlm2 or a Qwen3-ASR; for parts give --encoder and --llm"
        raise ConfigError(
            f"{folder}: a {fields.get('model_type')!s:.60} is no whole model that is supported; expected {expected}"
        )
    progress(f"reading {folder}")
    part = kind.whole(folder, request)
    check_rebuilds(part.model)
    progress(f"writing {out}")
    source = pinned(request.source, folder)
    notes = (*origins({"model": source}), *part.notes)
    save_checkpoint(part.model, part.tokenizer.to_str(), out, replace=force, notes=notes)
    config = part.model.config
    parts = [summary("encoder", config.encoder.network["model_type"], part.model.encoder, source)]
    if list(part.model.connector.parameters()):
        parts.append(summary("connector", config.connector.describe(), part.model.connector, source))
    parts.append(summary("llm", config.llm["model_type"], part.model.llm, source))
    return InitResult(out, config, tuple(parts), {}, has_chat_template=True, notes=notes)
