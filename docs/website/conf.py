"""The settings of Sphinx. Every warning fails the build, and what is built loads nothing from another host."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import unvanish

project = "unvanish"
copyright = "the authors of unvanish, Apache 2.0"
version = release = unvanish.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "website.formulas"]
exclude_patterns = ["files/**"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_use_legacy_class_based = False
python_use_unqualified_type_names = True
add_module_names = False
highlight_language = "text"
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"unvanish {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False
html_math_renderer = "mathml"
html_use_index = False
html_show_search_summary = False  # it would fetch pages, which a browser forbids to pages opened as files
