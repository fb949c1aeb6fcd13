"""Strict decoding of plain dicts into frozen dataclasses, for `config.json`, `bundle.json` and YAML recipes.

Unknown keys, missing keys and wrong types are `ConfigError`s with the path of the field.
"""

import dataclasses
import inspect
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bestow_edge.core.errors import ConfigError

T = TypeVar("T")


def decode(cls: type[T], values: object, where: str) -> T:
    """Build dataclass `cls` from `values`.

    Args:
        cls: a dataclass whose fields are scalars, `Literal`s, tuples, dicts, optional values or other dataclasses.
        values: the decoded JSON or YAML mapping.
        where: path of this object, for messages, such as `config.connector`.

    Raises:
        ConfigError: if a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {_shown(values)}")
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls} is not a dataclass")
    if inspect.isabstract(cls):
        kind: type[T] = _kind_of(cls, values, where)
        return decode(kind, values, where)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    if unknown := [str(key) for key in values if key not in fields]:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(fields)}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: {name} is missing")
    hints = get_type_hints(cls)
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _kind_of(cls: Any, values: Mapping[str, object], where: str) -> Any:  # Any: classes with `kinds` share no type
    """Return the class that the field `kind` names: one of a tagged union, whose base lists them in `kinds()`."""
    kinds, kind = cls.kinds(), values.get("kind")
    expected = f"expected one of {', '.join(kinds)}"
    if kind is None:
        raise ConfigError(f"{where}: kind is missing, {expected}")
    if kind not in tuple(kinds):
        raise ConfigError(f"{where}.kind: {expected}, got {_shown(kind)}")
    return kinds[kind]


def _value(hint: Any, value: object, where: str) -> Any:  # Any: type hints have no common type
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, where)  # type: ignore[arg-type]  # a dataclass type, not an instance
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is tuple:
        return _tuple(args[0], value, where)
    if origin is dict:
        return _dict(args[1], value, where)
    return _scalar(hint, value, where)


def _tuple(item_hint: Any, value: object, where: str) -> tuple[Any, ...]:  # Any: see _value
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
    return tuple(_value(item_hint, item, f"{where}[{index}]") for index, item in enumerate(value))


def _dict(item_hint: Any, value: object, where: str) -> dict[str, Any]:  # Any: see _value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {_shown(value)}")
    return {str(key): _value(item_hint, item, f"{where}.{key}") for key, item in value.items()}


def _scalar(hint: Any, value: object, where: str) -> object:  # Any: see _value
    if hint is Any:
        return value
    if get_origin(hint) is Literal:
        if value not in (choices := get_args(hint)):
            raise ConfigError(f"{where}: expected one of {', '.join(map(str, choices))}, got {_shown(value)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r:.60}"
