"""Prepares the pages for mkdocs: the import tree for the API reference, and links to files outside docs/.

On the git host a link such as `../examples/digits.yaml` opens the file. The site holds only docs/, so there the link
becomes the file's path in the repository. A link to a missing file stops the build.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>(?:\.\./)+[^)#]*)(?:#[^)]*)?\)")


@event_priority(100)  # before mkdocstrings, which leaves out paths that do not exist
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make build/tree, where every module lies under its import name."""
    subprocess.run([sys.executable, ROOT / "tests" / "support" / "link_tree.py"], check=True)  # noqa: S603
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # Any: mkdocs passes config and files too
    """Return a page whose links to other parts of the repository are paths.

    Raises:
        PluginError: there is no such file.
    """
    docs = ROOT / "docs"
    folder = (docs / page.file.src_uri).parent

    def path_of(match: re.Match[str]) -> str:
        target = (folder / match["target"]).resolve()
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: no file {match['target']}")
        return match[0] if target.is_relative_to(docs) else f"`{target.relative_to(ROOT)}`"

    return LINK.sub(path_of, markdown)
