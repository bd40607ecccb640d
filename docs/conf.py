"""Configuration of the documentation."""

from __future__ import annotations

import skl_mmap

project = "skl_mmap"
author = "skl_mmap developers"
copyright = "2026, skl_mmap developers"
release = version = skl_mmap.__version__

extensions = ["sphinx.ext.autodoc", "numpydoc"]
# A part of another page.
exclude_patterns = ["_build", "corpus_table.rst"]
default_role = "code"

# Types are in the docstrings, in words that also say shape and unit.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Members are listed where they are documented, not inherited ones of numpy or dict.
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"skl_mmap {release}"
html_show_sourcelink = False
# Pages have no pages below them: the bar on the left would be empty.
html_sidebars = {"**": []}
html_theme_options = {"show_prev_next": False}
