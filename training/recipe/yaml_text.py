"""YAML of recipes, which anybody may have written: bounds on size and depth, no dates."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import yaml

from bestow_edge.core.errors import ConfigError

MOST_BYTES = 10_000_000
"""Of a file."""
DEEPEST = 30
"""Lists and mappings within each other."""
MOST_VALUES = 1_000_000
"""Values with those that aliases (`*name`) stand for, which may be many more than are written."""


class _Loader(yaml.SafeLoader):
    """YAML whose values are texts, numbers and words; a date stays a text, because no field is one."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML declares it without ClassVar
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count the depth: deeper YAML would exhaust Python's stack."""
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path) -> object:
    """Read plain values from a YAML file.

    Raises:
        ConfigError: if it is not UTF-8 or not YAML, or too large or too deep.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: not valid YAML (more than {MOST_BYTES} bytes)")
    try:
        values: object = yaml.load(content.decode("utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
        _check_size(values)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split()):.300})") from error
    return values


def _check_size(values: object) -> None:
    level = [values]
    for _ in range(DEEPEST + 1):
        inner = ((item.values() if isinstance(item, dict) else item) for item in level if isinstance(item, dict | list))
        level = list(islice(chain.from_iterable(inner), MOST_VALUES + 1))
        if len(level) > MOST_VALUES:
            raise ValueError(f"aliases unfold to more than {MOST_VALUES} values")
    if level:
        raise ValueError(f"aliases nest deeper than {DEEPEST} levels")
