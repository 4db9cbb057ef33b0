"""What the image must have for a call: checked in the container before the call is unpickled.

The check travels with the call and is pickled by value, as a function within a function: nothing
of ours is installed there. It must be the first thing that is unpickled, since what comes later may
need those modules. This room knows no other room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Requiring:
    """A function that is unpickled, as itself, only where the modules are.

    `modules` has the least version of each, e.g. ``{"numpy": "2.1"}``; "" is any.
    """

    def __init__(self, function: Callable[..., Any], modules: Mapping[str, str]) -> None:
        self.function = function
        self.modules = dict(modules)

    def __reduce__(self) -> tuple[Any, ...]:
        """The check comes first: of these two it is what is unpickled first."""
        return _Check(self.modules), (self.function,)


class _Check:
    """The check, unpickled by running it; what is left of it there gives the function."""

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules = modules

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Pickle wants it to be callable."""
        return function

    def __reduce__(self) -> tuple[Any, ...]:
        return _check(), (self._modules,)


def _check() -> Callable[[dict[str, str]], Callable[[Any], Any]]:
    def check(modules: dict[str, str]) -> Callable[[Any], Any]:
        import importlib
        import re

        def numbers(version: str) -> list[int]:
            return [int(part) for part in re.findall(r"\d+", version)]

        for name, least in modules.items():
            found = getattr(importlib.import_module(name), "__version__", "")
            if found and numbers(found) < numbers(least):
                error = ModuleNotFoundError(f"the image has {name} {found}")
                # Not as its name: who renders it may look for such a module, or propose others.
                error.civis_futures_requirement = f"{name}>={least}"  # type: ignore[attr-defined]
                raise error
        return lambda function: function

    return check
