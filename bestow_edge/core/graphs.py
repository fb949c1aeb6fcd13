"""The contracts of all graphs of a model, from the kinds of its encoder and its connector."""

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.encoders import ENCODERS
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.llm import scoring_several
from bestow_edge.core.tensors import GraphSpec, Target, in_float16


def graph_specs(config: ModelConfig, target: Target = "cpu", *, several: bool = False) -> dict[str, GraphSpec]:
    """Return the contracts by graph name, in the order the graphs run: the encoder first, the LLM last.

    With `several`, the LLM scores several tokens in one run, see `scoring_several`.
    """
    connector = CONNECTORS[config.connector.kind]
    encoder = ENCODERS[config.encoder.kind].spec(config, connector.speech(config))
    specs = [encoder, *connector.specs(config)]
    if several:
        specs = [scoring_several(spec) if spec.name == LLM else spec for spec in specs]
    return {spec.name: spec if target == "cpu" else in_float16(spec) for spec in specs}


def part_spec(specs: dict[str, GraphSpec], part: str) -> GraphSpec:
    """Return the contract of the only graph of a part."""
    (found,) = (spec for spec in specs.values() if spec.part == part)
    return found
