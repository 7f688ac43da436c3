"""Sphinx settings: Markdown pages, with generated text filled in on reading."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

import reidx

sys.path.insert(0, str(Path(__file__).parent))
from generate import fill

project = "reidx"
author = "the reidx authors"
copyright = f"2026, {author}"
version = release = reidx.__version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"reidx {version}"
html_copy_source = False


def setup(app: Sphinx) -> None:
    """Fill in generated text when a page is read, and read every page in every build, because the code may have changed."""
    app.connect("source-read", lambda _, __, content: content.__setitem__(0, fill(content[0])))
    app.connect("env-get-outdated", lambda _, env, *__: list(env.found_docs))
