"""Sphinx settings. `make docs` builds with warnings as errors."""

import dataclasses
import importlib.metadata
import inspect
import re
import sys
from pathlib import Path

from sphinx.errors import SphinxError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import signature, stringify_signature

import civis_futures.testing  # noqa: F401

HERE = Path(__file__).parent

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
autodoc_class_signature = "mixed"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False


# --- the reference -------------------------------------------------------------------------------

#: What users are given and do not make: how it is made is no concern of theirs.
GIVEN = {
    *("ContainerFuture", "MapResult", "SharedData", "Table", "TaskState", "WithOptions"),
    *("Fault", "Faults"),
}
#: What no signature in the reference may have: names of ours, or of what nobody calls.
STRANGE = re.compile(r"__new__|~|\._\w|<factory>|\*_:|\(\*args: Any, \*\*kwargs: Any\)")


def join_sources(public: str, private: str) -> None:
    """Let Sphinx find comments and order of members, which it looks for where a class is public."""
    there = ModuleAnalyzer.for_module(public)
    there.analyze()
    for name in [name for name in sys.modules if name.startswith(private)]:
        source = ModuleAnalyzer.for_module(name)
        source.analyze()
        # Its two forms differ in what a coroutine function gives, as its text says.
        for form in [form for form in source.overloads if form.endswith(".submit")]:
            del source.overloads[form]
        for kind in ("attr_docs", "overloads", "tagorder"):
            getattr(there, kind).update(getattr(source, kind))


join_sources("civis_futures", "civis_futures._")
join_sources("civis_futures.local", "civis_futures.local._")
join_sources("civis_futures.testing", "civis_futures.local._")


def with_defaults(found, defaults):
    """A signature with these defaults in place of its own."""
    parameters = [
        each.replace(default=defaults.get(each.name, each.default))
        for each in found.parameters.values()
    ]
    return found.replace(parameters=parameters)


class Named:
    """A default that is shown by a name."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


def said_of(_app, what, _name, thing, *_):
    """The signature of a class: of what users make, with each default as it is; and of a method
    whose defaults are not written as Python is.
    """
    if what == "method" and inspect.isfunction(thing):
        found = signature(thing, bound_method=True)
        given = [each for each in found.parameters.values() if each.default is not each.empty]
        odd = [each for each in given if str(each.default).startswith("<")]
        if not odd:
            return None
        shown = {each.name: Named(str(each.default).strip("<>")) for each in odd}
        return stringify_signature(with_defaults(found, shown), unqualified_typehints=True), None
    if what not in ("class", "exception") or not inspect.isclass(thing):
        return None
    if not inspect.isfunction(thing.__init__):
        return None  # of an exception as any other
    if thing.__name__ in GIVEN:
        return "", None
    made_by = signature(thing.__init__, bound_method=True)
    factories = {
        field.name: field.default_factory()
        for field in (dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    made_by = with_defaults(made_by, factories)
    text = stringify_signature(made_by, show_return_annotation=False, unqualified_typehints=True)
    return text, None


def look_at_signatures(app, error):
    """Refuse to build a reference that says what nobody can read."""
    page = Path(app.outdir) / "reference.html"
    if error is not None or app.builder.name != "html" or not page.exists():
        return
    text = page.read_text("utf-8")
    for head in re.findall(r'<dt class="sig sig-object py".*?</dt>', text, re.DOTALL):
        plain = re.sub(r"<[^>]+>", "", head).replace("&lt;", "<").replace("&gt;", ">")
        if found := STRANGE.search(plain):
            raise SphinxError(f"the reference has {found[0]!r}: {' '.join(plain.split())}")


def setup(app):
    app.connect("autodoc-process-signature", said_of)
    app.connect("build-finished", look_at_signatures)
