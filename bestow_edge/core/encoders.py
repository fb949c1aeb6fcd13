"""Every kind of encoder: a row here and a file of its name in each layer."""

from bestow_edge.core.kinds import EncoderKind
from bestow_edge.core.specs import blocks, chunked, windowed

ENCODERS: dict[str, EncoderKind] = {
    "blocks": blocks.KIND,
    "chunked": chunked.KIND,
    "windowed": windowed.KIND,
}
