"""Configuration of the site, which `nox -s docs` builds into `docs/_build`. Pages are also read on GitHub."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from files_page import files
from settings_page import options, settings

from catsdogs import __version__

project = "catsdogs"
author = copyright = "The catsdogs authors"
version = release = __version__

# The source folder is the repository, so that links from docs/ to the README and the changelog work in both places.
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [".*", "docs/_build"]
root_doc = "docs/index"

extensions = ["myst_parser", "sphinxcontrib.mermaid", "sphinxcontrib.programoutput"]
nitpicky = True
myst_enable_extensions = ["deflist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them

html_theme = "furo"
html_title = f"catsdogs {version}"
html_extra_path = ["index.html"]  # leads to the root document


def generated(name: str) -> str:
    """Return the Markdown that replaces `<!-- generated: NAME -->`: settings, files FOLDER, or a group of `conf/`."""
    part, _, folder = name.partition(" ")
    return settings() if part == "settings" else files(folder) if part == "files" else "\n".join(options(name))


def setup(app: Any) -> None:
    """Replace these comments in every page."""
    comment = re.compile("<!-- generated: (.+) -->")

    def replace(app: Any, page: str, source: list[str]) -> None:
        source[0] = comment.sub(lambda match: generated(match[1]), source[0])

    app.connect("source-read", replace)
