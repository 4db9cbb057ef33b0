"""Public names say where they are public: in pickles, in tracebacks and in help.

So the name of a private module is never shown, and a pickle outlives a move from one to another.
This module knows no other module.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable


def publish(package: str, names: Iterable[str]) -> None:
    """Let these names of a public module say that they are of there, unless another one has."""
    for name in names:
        value = getattr(sys.modules[package], name)
        if "._" not in value.__module__:
            continue
        if isinstance(value, type):
            # Text until now, to be evaluated in the module that the class names.
            value.__annotations__ = inspect.get_annotations(value, eval_str=True)
        value.__module__ = package


def version() -> str:
    """Of this package; "unknown" where it is not installed."""
    import importlib.metadata  # slow, and seldom needed

    try:
        return importlib.metadata.version("civis-futures")
    except importlib.metadata.PackageNotFoundError:  # the sources alone
        return "unknown"
