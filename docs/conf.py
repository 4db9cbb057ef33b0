"""Sphinx settings. `make docs` builds with warnings as errors."""

import importlib.metadata

project = "civis_futures"
author = "The civis_futures developers"
copyright = f"2026, {author}"  # noqa: A001
version = release = importlib.metadata.version("civis-futures")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"civis_futures {release}"
html_copy_source = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "separated"
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
