"""Damage that keeps the structure of an input: trees of JSON or YAML, tables of protobuf, and bytes."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from random import Random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 255, 1000, 65536, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63), 10**19,
    0.0, -0.5, 0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"),
    "", " ", "a", "x" * 5000, "../../etc/passwd", "/dev/zero", "/", ".", "nul\0byte", "\ud800", "\x1b[2J", "[red]",
    "e\u0301", "\u202e", "1", "1e5", "true", "{}", "%s%n",
    [], [[]], {}, {"": {}}, [None] * 50, list(range(300)), {"a": [{"b": 1}]},
)  # fmt: skip
"""Values that no config expects somewhere."""
NUMBERS = tuple(value for value in HOSTILE if isinstance(value, int | float) and not isinstance(value, bool))


def changed_tree(random: Random, tree: Any) -> Any:
    """Return a copy of a tree of plain values with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return random.choice(HOSTILE)
        holder, key = random.choice(places)
        random.choice(CHANGES)(random, holder, key, places)
    return tree


def _places(tree: Any) -> Any:
    """Yield (container, key) of every value, the outer ones first."""
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def _replace(random: Random, holder: Any, key: Any, _places: Any) -> None:
    value = holder[key]
    same = NUMBERS if isinstance(value, int | float) and random.random() < 0.5 else HOSTILE
    holder[key] = copy.deepcopy(random.choice(same))


def _nudge(random: Random, holder: Any, key: Any, places: Any) -> None:
    value = holder[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _replace(random, holder, key, places)
    holder[key] = random.choice((value + 1, value - 1, -value, value * 2, value * 1000, value + 0.5, str(value)))
    return None


def _delete(_random: Random, holder: Any, key: Any, _places: Any) -> None:
    if isinstance(holder, dict):
        holder.pop(key, None)
    elif key < len(holder):
        del holder[key]


def _add(random: Random, holder: Any, key: Any, _places: Any) -> None:
    if isinstance(holder, dict):
        holder[random.choice(("extra", "", f"{key}_", "__class__", "a.b"))] = random.choice(HOSTILE)
    else:
        holder.insert(key, copy.deepcopy(holder[key]))


def _rename(random: Random, holder: Any, key: Any, places: Any) -> None:
    if isinstance(holder, dict) and key in holder:
        holder[random.choice((str(key).upper(), str(key)[1:], f"{key}\0", random.choice(places)[1]))] = holder.pop(key)


def _swap(random: Random, holder: Any, key: Any, places: Any) -> None:
    other, other_key = random.choice(places)
    try:
        value = copy.deepcopy(other[other_key])
    except (KeyError, IndexError):
        return
    holder[key] = value


def _wrap(random: Random, holder: Any, key: Any, _places: Any) -> None:
    depth = random.choice((1, 1, 3, 150))
    for _ in range(depth):
        holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}


CHANGES: tuple[Callable[[Random, Any, Any, Any], None], ...] = (
    _replace, _replace, _replace, _nudge, _nudge, _delete, _add, _rename, _swap, _wrap,
)  # fmt: skip


def changed_bytes(random: Random, content: bytes, head: int = 256) -> bytes:
    """Return content with one to four changes, every second of them among the first `head` bytes."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        size = len(data)
        if not size:
            break
        at = random.randrange(min(head, size) if random.random() < 0.5 else size)
        kind = random.randrange(8)
        if kind == 0:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[at] = random.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + random.choice((1, 2, 4, 16, 1000))]
        elif kind == 4:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 4, 64))))
        elif kind == 5:
            data[at:at] = data[at : at + random.choice((1, 8, 512))]
        else:
            form = random.choice(("<I", ">I", "<H", ">H", "<Q"))
            most = 2 ** (8 * struct.calcsize(form)) - 1
            number = struct.pack(form, random.choice((0, 1, 2, 1000, most // 2, most // 2 + 1, most - 7, most)))
            data[at : at + len(number)] = number
    return bytes(data)
