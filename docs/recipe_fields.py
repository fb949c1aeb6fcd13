"""Writes the tables of docs/training.md from the classes that read a recipe.

    python docs/recipe_fields.py        # rewrites the page between its two marks; a test holds it to the classes

It reads source files, not modules, so it needs nothing installed.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->\n"
DEFAULTS = {"field(default_factory=dict)": "{}"}
CLASSES = {
    "Recipe": "The recipe",
    "HypothesesRecipe": "`hypotheses`",
    "StageRecipe": "Each of `stages`",
    "LoraRecipe": "`lora` of a stage",
    "ModelRecipe": "`model`",
    "ChunkedConfig": "`model.encoder` of kind `chunked`: cache-aware; `network` is its transformers config",
    "WindowedConfig": "`model.encoder` of kind `windowed`: bidirectional; `network` is its transformers config",
    "CrossAdapterConfig": "`model.connector` of kind `cross_adapter`: BESTOW's adapter",
    "GatedLayersConfig": "`model.connector` of kind `gated_layers`: cross-attention before layers of the LLM",
    "InterleaveConfig": "`model.connector` of kind `interleave`: [speech and text in turns](interleave.md)",
    "PrependConfig": "`model.connector` of kind `prepend`: speech in the LLM's sequence",
    "QformerConfig": "`qformer` of `prepend`",
    "CompressorConfig": "`compressor` of `prepend`",
    "DataRecipe": "`data`",
    "SourceRecipe": "Each of `data.sources` and `data.dev_sources`",
    "FilterRecipe": "`data.filter`",
    "JoinRecipe": "`join` of a source",
    "AugmentRecipe": "`data.augment`",
}


def fields_of(node: ast.ClassDef) -> list[tuple[str, str, str]]:
    """Return name, default and explanation of each field of a dataclass."""
    found = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _of_class(item):
            default = "needed" if item.value is None else ast.unparse(item.value)
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            found.append(
                (item.target.id, DEFAULTS.get(default, "its defaults") if "field(" in default else default, text)
            )
    return found


def _of_class(item: ast.AnnAssign) -> bool:
    """Return whether it is no field: a constant of the class."""
    return ast.unparse(item.annotation).startswith("ClassVar")


def tables() -> str:
    """Return the tables in Markdown."""
    nodes = {}
    folders = (ROOT / "training" / "recipe", ROOT / "bestow_edge" / "core" / "specs")
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name in CLASSES:
                nodes[node.name] = node
    parts = []
    for name, title in CLASSES.items():
        rows = "".join(f"| `{field}` | {default} | {text} |\n" for field, default, text in fields_of(nodes[name]))
        parts.append(f"### {title}\n\n| field | default | meaning |\n| --- | --- | --- |\n{rows}")
    return "\n".join(parts)


def page() -> str:
    """Return the page with fresh tables."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + tables() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
