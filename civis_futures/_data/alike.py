"""Objects that cannot be told from their copies, so that each of several pickles may have one.

NumPy is there if there is an array of it; it is not imported for this.
"""

from __future__ import annotations

import datetime
import sys
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any

#: Of these types equal values may be one object by chance.
PLAIN = {int, float, complex, str, bytes, bool, tuple, type(None)}
#: Nobody can tell an object of these, or of what is derived from them, from a copy.
_ALIKE = (
    *(type, FunctionType, BuiltinFunctionType, Enum),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo),
)


def is_plain(array: Any) -> bool:
    """Whether each object of an array of objects is alike its copies, by one of each type."""
    kinds = {type(each): each for each in array.ravel().tolist()}
    return tuple not in kinds and all(map(is_alike, kinds.values()))


def is_alike(value: Any) -> bool:
    """Whether an object cannot be told from a copy of it, or there is none: it goes by name."""
    numpy = sys.modules["numpy"]
    if type(value) in PLAIN or isinstance(value, (*_ALIKE, numpy.generic, numpy.dtype)):
        return True
    return isinstance(value.__reduce_ex__(5), str)
