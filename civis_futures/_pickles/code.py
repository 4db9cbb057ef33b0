"""Code as client and worker both describe it, each for the other: what tells it from other code,
in which file it was written, and whether it came by value. Standard library only, as `_wire`.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import TYPE_CHECKING, Any

from .._wire import digest

if TYPE_CHECKING:
    from collections import ChainMap

#: A variable of the modules that are made of what came by value; see `came_by_value`.
BY_VALUE = "__civis_futures_by_value__"


def code_key(code: CodeType) -> str:
    """What tells code from all other, wherever it is from, but that within it: a short text, the
    same in client and worker.
    """
    lines = code.co_firstlineno, code.co_linetable
    names = code.co_qualname, code.co_names, code.co_varnames, code.co_freevars
    constants = list(map(_constant, code.co_consts))
    return digest(repr((lines, names, code.co_code, constants)).encode())[:16]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return "code"
    if isinstance(value, tuple):
        return f"tuple {list(map(_constant, value))}"
    if isinstance(value, frozenset):  # its order differs between processes
        return f"frozenset {sorted(map(_constant, value))}"
    return hex(value) if type(value) is int else ascii(value)  # of long ones there is no decimal


def came_by_value(variables: dict[str, Any]) -> bool:
    """Whether these may be the globals of functions that were unpickled by value: not those of any
    module, nor of one that was loaded here and has been replaced.
    """
    if BY_VALUE in variables:
        return True
    name = variables.get("__name__")
    if variables.get("__loader__") is not None:
        return False
    module = sys.modules.get(name) if isinstance(name, str) else None
    return getattr(module, "__dict__", None) is not variables


def with_file_names(dispatch_table: ChainMap[Any, Any]) -> ChainMap[Any, Any]:
    """The table of a cloudpickle's pickler, changed so that code keeps the name of its file.

    Since 3.1.3, cloudpickle writes "<dynamic-code>" in its place, to make pickles comparable.
    """
    reduce = dispatch_table[CodeType]
    ours = with_file_names.__code__
    make, parts = reduce(ours)[:2]
    there = make(*parts).co_filename
    if there == ours.co_filename:
        return dispatch_table
    at = next(i for i, part in enumerate(parts) if type(part) is str and part == there)

    def reduce_code(code: CodeType) -> tuple[Any, ...]:
        make, parts, *rest = reduce(code)
        return (make, (*parts[:at], code.co_filename, *parts[at + 1 :]), *rest)

    return dispatch_table.new_child({CodeType: reduce_code})
