"""Every kind of connector: a row here and a file of its name in each layer."""

from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.specs import cross_adapter, cross_layers, gated_layers, interleave, prepend

CONNECTORS: dict[str, ConnectorKind] = {
    "cross_adapter": cross_adapter.KIND,
    "cross_layers": cross_layers.KIND,
    "gated_layers": gated_layers.KIND,
    "interleave": interleave.KIND,
    "prepend": prepend.KIND,
}
