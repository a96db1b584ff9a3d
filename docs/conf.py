"""The documentation as a site, with a reference from the docstrings: `make docs`."""

from __future__ import annotations

from nelbo import __version__

project, version, release = "nelbo", __version__, __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "nelbo"
myst_heading_anchors = 3
# Files of the repository that pages link to are no pages of the site.
suppress_warnings = ["myst.xref_missing"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_use_ivar = True
