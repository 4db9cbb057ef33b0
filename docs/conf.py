"""Sphinx settings. `make docs` builds with warnings as errors."""

import importlib.metadata
import sys

from sphinx.pycode import ModuleAnalyzer

import civis_futures.testing  # noqa: F401

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
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 90
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def join_sources(public: str, private: str) -> None:
    """Let Sphinx find comments and order of members, which it looks for where a class is public."""
    there = ModuleAnalyzer.for_module(public)
    there.analyze()
    for name in [name for name in sys.modules if name.startswith(private)]:
        source = ModuleAnalyzer.for_module(name)
        source.analyze()
        for kind in ("attr_docs", "overloads", "tagorder"):
            getattr(there, kind).update(getattr(source, kind))


join_sources("civis_futures", "civis_futures._")
join_sources("civis_futures.local", "civis_futures.local._")
join_sources("civis_futures.testing", "civis_futures.local._")
