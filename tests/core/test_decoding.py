"""Strict decoding of configs: every wrong field is one clear error that names its path."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    mode: Literal["fast", "slow"]
    inner: Inner
    items: tuple[Inner, ...] = ()
    table: dict[str, tuple[int, ...]] = field(default_factory=dict)
    limit: int | None = None
    flag: bool = False
    free: Any = None


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    kind: str

    @classmethod
    def kinds(cls) -> Mapping[str, type["Shape"]]:
        return {"circle": Circle, "square": Square}

    @abstractmethod
    def area(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float
    kind: Literal["circle"] = "circle"

    def area(self) -> float:
        return 3 * self.radius**2


@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    side: float
    kind: Literal["square"] = "square"

    def area(self) -> float:
        return self.side**2


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Shape
    others: tuple[Shape, ...] = ()
    frame: Shape | None = None


GOOD: dict[str, Any] = {"name": "a", "mode": "fast", "inner": {"size": 3}}


def test_every_kind_of_field_is_read() -> None:
    values = GOOD | {
        "items": [{"size": 1, "ratio": 2}],
        "table": {"en": [1, 2]},
        "limit": None,
        "flag": True,
        "free": {"any": [1]},
    }
    got = decode(Outer, values, "config")
    assert got == Outer("a", "fast", Inner(3), (Inner(1, 2.0),), {"en": (1, 2)}, None, True, {"any": [1]})
    assert isinstance(got.items[0].ratio, float)
    assert decode(Outer, GOOD | {"limit": 4}, "config").limit == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "b"}, r"^config: unknown nmae; known are name, mode, inner"),
        ({"inner": {"size": 1, "sise": 2}}, r"^config\.inner: unknown sise; known are size, ratio"),
        ({"inner": {}}, r"^config\.inner: size is missing"),
        ({"inner": 3}, r"^config\.inner: expected a mapping, got int 3"),
        ({"inner": {"size": "3"}}, r"^config\.inner\.size: expected int, got str '3'"),
        ({"inner": {"size": 3.0}}, r"^config\.inner\.size: expected int, got float 3\.0"),
        ({"inner": {"size": True}}, r"^config\.inner\.size: expected int, got bool True"),
        ({"inner": {"size": 1, "ratio": True}}, r"^config\.inner\.ratio: expected float, got bool True"),
        ({"mode": "quick"}, r"^config\.mode: expected one of fast, slow, got str 'quick'"),
        ({"items": [{"size": 1}, {"size": None}]}, r"^config\.items\[1\]\.size: expected int, got NoneType"),
        ({"items": "ab"}, r"^config\.items: expected a list, got str 'ab'"),
        ({"table": {"en": [1, "x"]}}, r"^config\.table\.en\[1\]: expected int, got str 'x'"),
        ({"table": [1]}, r"^config\.table: expected a mapping, got list"),
        ({"limit": "many"}, r"^config\.limit: expected int, got str 'many'"),
        ({"flag": 1}, r"^config\.flag: expected bool, got int 1"),
    ],
)
def test_wrong_field_names_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(Outer, GOOD | change, "config")


@pytest.mark.parametrize("key", ["name", "mode", "inner"])
def test_missing_field_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^config: {key} is missing$"):
        decode(Outer, {name: value for name, value in GOOD.items() if name != key}, "config")


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_only_a_mapping_is_decoded(values: object) -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.yaml: expected a mapping, got"):
        decode(Outer, values, "recipe.yaml")


def test_long_values_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Inner, {"size": "x" * 1000}, "config")
    assert len(str(caught.value)) < 120


def test_a_tagged_union_is_read_by_its_kind() -> None:
    values = {"shape": {"kind": "circle", "radius": 2}, "others": [{"kind": "square", "side": 3}], "frame": None}
    got = decode(Drawing, values, "config")
    assert got == Drawing(shape=Circle(radius=2.0), others=(Square(side=3.0),), frame=None)
    assert decode(Drawing, values | {"frame": {"kind": "square", "side": 1}}, "config").frame == Square(side=1.0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"radius": 2}, r"^config\.shape: kind is missing, expected one of circle, square$"),
        ({"kind": None}, r"^config\.shape: kind is missing, expected one of circle, square$"),
        ({"kind": "oval"}, r"^config\.shape\.kind: expected one of circle, square, got str 'oval'$"),
        ({"kind": ["circle"]}, r"^config\.shape\.kind: expected one of circle, square, got list"),
        ({"kind": "circle", "side": 2}, r"^config\.shape: unknown side; known are kind, radius$"),
        ({"kind": "circle"}, r"^config\.shape: radius is missing$"),
        ({"kind": "circle", "radius": "2"}, r"^config\.shape\.radius: expected float, got str '2'$"),
        ("circle", r"^config\.shape: expected a mapping, got str 'circle'$"),
    ],
)
def test_a_wrong_tagged_union_says_what_it_got_and_what_was_expected(shape: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(Drawing, {"shape": shape}, "config")
