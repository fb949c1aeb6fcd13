"""Draws docs/structure.svg: the layers of the code, their folders and files, and which layer imports which.

    python docs/structure_picture.py

The script reads source files and imports none of them, so it needs nothing installed. An arrow means "imports"; imports
that follow from other arrows have none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "structure.svg"
PACKAGE = "bestow_edge"
ROWS = (
    ("cli",),
    ("training", "export", "evaluation", "server"),
    ("model", "runtime"),
    ("core",),
)  # imports lead downwards

WIDTH, MARGIN, GAP, ARROWS = 1040, 16, 16, 44  # of the picture, its edge, between boxes and between rows, pixels
PAD, TITLE, CHIP, CHAR = 12, 24, 24, 6.7  # edge of a box, height of its title and of a chip, width of a letter, pixels
INK, DIM, PAPER, BOX, FOLDER, EDGE = "#1b2430", "#56616e", "#ffffff", "#f3f6f9", "#cfe0f2", "#8aa0b6"
FONT = 'font-family="sans-serif" font-size="12"'
HEAD = f'<marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto" fill="{EDGE}">'


@dataclass(slots=True)
class Layer:
    """A layer and its box."""

    name: str
    num_files: int
    imports: set[str]
    chips: list[str]  # its folders, each with the number of files in it, then its own files
    left: float = 0
    top: float = 0
    width: float = 0
    height: float = 0

    @property
    def lines(self) -> list[list[str]]:
        """The chips as they are laid out."""
        lines: list[list[str]] = [[]]
        for chip in self.chips:
            if sum(CHAR * len(one) + 18 for one in [*lines[-1], chip]) > self.width - 2 * PAD:
                lines.append([])
            lines[-1].append(chip)
        return lines

    def place(self, partners: list[Layer], partner: Layer) -> float:
        """Return where the arrow from or to one of its partners touches the box."""
        return self.left + self.width * (partners.index(partner) + 1) / (len(partners) + 1)


def read_layer(name: str) -> Layer:
    """Read the files of a layer; `__init__.py` is not counted."""
    folder = ROOT / name if (ROOT / name).is_dir() else ROOT / PACKAGE / name
    paths = sorted(folder.rglob("*.py"))
    files = [path for path in paths if path.name != "__init__.py"]
    folders = sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder})
    chips = [f"{inner}/ {sum(path.is_relative_to(folder / inner) for path in files)}" for inner in folders]
    chips += [path.stem for path in files if path.parent == folder]
    modules = {module for path in paths for module in imported_modules(path)}
    imported = {module.split(".")[1] for module in modules if module.startswith(f"{PACKAGE}.")}
    imports = imported & {other for row in ROWS for other in row} - {name}
    return Layer(name, len(files), imports, chips)


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(layers: dict[str, Layer]) -> list[tuple[Layer, Layer]]:
    """Return the imports that do not follow from others."""
    pairs = [(layer, other) for layer in layers.values() for other in sorted(layer.imports)]
    direct = [
        (layer, other) for layer, other in pairs if all(other not in layers[via].imports for via in layer.imports)
    ]
    return [(layer, layers[other]) for layer, other in direct]


def lay_out(layers: dict[str, Layer]) -> float:
    """Give every layer its place; return the height of the picture."""
    top: float = MARGIN
    for row in ROWS:
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for number, layer in enumerate(layers[name] for name in row):
            layer.left, layer.top, layer.width = MARGIN + number * (width + GAP), top, width
        height = 2 * PAD + TITLE + CHIP * max(len(layers[name].lines) for name in row) - 5
        for name in row:
            layers[name].height = height
        top += height + ARROWS
    return top - ARROWS + MARGIN


def draw() -> str:
    """Return the picture as SVG."""
    layers = {name: read_layer(name) for row in ROWS for name in row}
    height = round(lay_out(layers))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        "<title>Layers of bestow-edge</title>",
        f'<defs>{HEAD}<path d="M0 0L9 4L0 8z"/></marker></defs>',
        rectangle(0, 0, WIDTH, height, PAPER, PAPER),
        *(part for layer in layers.values() for part in box(layer)),
    ]
    ends = sorted(arrows(layers), key=lambda pair: (pair[0].left, pair[1].left))
    for upper, lower in ends:
        start = upper.place([low for up, low in ends if up is upper], lower)
        end = lower.place([up for up, low in ends if low is lower], upper)
        place = f'x1="{start:.1f}" y1="{upper.top + upper.height:.1f}" x2="{end:.1f}" y2="{lower.top - 2:.1f}"'
        parts.append(f'<line {place} stroke="{EDGE}" stroke-width="1.6" marker-end="url(#head)"/>')
    return "\n".join([*parts, "</svg>", ""])


def box(layer: Layer) -> Iterator[str]:
    """Yield the box of a layer."""
    yield rectangle(layer.left, layer.top, layer.width, layer.height, BOX)
    title = layer.top + PAD + 10
    yield text(layer.left + PAD, title, f"{PACKAGE}.{layer.name}", INK, 'font-weight="bold"')
    yield text(layer.left + layer.width - PAD, title, f"{layer.num_files} files", DIM, 'text-anchor="end"')
    for number, line in enumerate(layer.lines):
        left, top = layer.left + PAD, layer.top + PAD + TITLE + number * CHIP
        for chip in line:
            wide = CHAR * len(chip) + 12
            yield rectangle(left, top, wide, CHIP - 5, FOLDER if "/" in chip else PAPER)
            yield text(left + wide / 2, top + 14, chip, INK, 'text-anchor="middle"')
            left += wide + 6


def rectangle(left: float, top: float, width: float, height: float, fill: str, stroke: str = EDGE) -> str:
    """Return a rectangle."""
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="4" fill="{fill}" stroke="{stroke}"/>'


def text(left: float, baseline: float, words: str, colour: str, more: str) -> str:
    """Return a text."""
    return f'<text x="{left:.1f}" y="{baseline:.1f}" fill="{colour}" {FONT} {more}>{words}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
