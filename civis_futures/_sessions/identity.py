"""What is called, as a short text: equal in another process if the same cell is run again.

A pickle does not do: that of a function from a notebook has the number of the kernel's process in
it, sets have another order in each process, and of what is pickled by name only the name would
count. So a call is told by what its arguments consist of (`values`), and by all of the user's code
that it reaches (`reached`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .reached import digest

#: How much of a digest is kept, in hexadecimal digits: calls of one number are compared, no others.
DIGITS = 16


def identity(fn: Callable[..., Any], arguments: Any) -> str:
    """The name of a function, what it does, and what it is called with: ``name/digest/digest``.

    Raises:
        Exception: whatever pickling raises.
    """
    inner: Any = fn
    while hasattr(inner, "func"):  # a partial
        inner = inner.func
    name = str(getattr(inner, "__qualname__", type(inner).__qualname__)).replace("/", "_")
    function, what = (digest(each).hex()[:DIGITS] for each in (fn, arguments))
    return f"{name[-60:]}/{function}/{what}"


def difference(before: str, now: str) -> str:
    """What differs between two of these, in words."""
    name, function, _ = before.split("/")
    new_name, new_function, _ = now.split("/")
    if name != new_name:
        return f"it called {name}, and now it calls {new_name}"
    if function != new_function:
        return f"{name} does something else now: its code, a default or what it refers to changed"
    return f"{name} is called with other arguments now"
