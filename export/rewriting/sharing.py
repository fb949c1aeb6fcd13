"""Constants that are in a bundle's graphs more than once, such as the table of embeddings: stored once, beside them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from onnx_ir.external_data import convert_tensors_to_external

SHARED_FILE = "shared.data"
LEAST_BYTES = 65_536  # of a constant that is worth a place of its own


def share_constants(graphs: Sequence[Path]) -> None:
    """Move constants of the same bytes into `SHARED_FILE`; graphs whose weights are in a file of their own stay.

    Args:
        graphs: `.onnx` files of one directory.
    """
    models = {path: ir.load(path) for path in graphs if not path.with_name(f"{path.name}.data").exists()}
    same = defaultdict[str, list[tuple[ir.Value, ir.TensorProtocol]]](list)
    for model in models.values():
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= LEAST_BYTES:
                same[hashlib.sha256(tensor.tobytes()).hexdigest()].append((value, tensor))
    groups = [group for group in same.values() if len(group) > 1]
    if not groups:
        return
    directory = graphs[0].parent
    stored = convert_tensors_to_external([group[0][1] for group in groups], directory, SHARED_FILE)
    for group, place in zip(groups, stored, strict=True):
        for value, tensor in group:  # of the same bytes in another shape, perhaps
            value.const_value = ir.ExternalTensor(
                SHARED_FILE,
                place.offset,
                place.length,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=tensor.name or "",
                base_dir=directory,
            )
    for path, model in models.items():
        ir.save(model, path)
