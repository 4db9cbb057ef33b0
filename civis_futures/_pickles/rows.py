"""What a call comes to, and a batch: one function, called for one row after the other.

In a container, and where a call is run again at home. Standard library only, as `_wire`.
"""

from __future__ import annotations

import contextlib
from types import CoroutineType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def finished(result: Any) -> Any:
    """What a call returned; if that is a coroutine, what it returns when it is run here."""
    if type(result) is not CoroutineType:
        return result
    import asyncio  # few calls need it

    return asyncio.run(result)


class Outcomes(list[tuple[bool, Any]]):
    """Of each row, whether it returned, and what."""


def in_turn(
    each: Callable[..., Any],
    rows: Sequence[Sequence[Any]],
    first: int,
    catch: Callable[[BaseException], Any] | None = None,
    generators: Sequence[Any] | None = None,
) -> list[Any]:
    """The results for all rows; `first` is the number of the first one, for who reads of failures.

    What fails says for which it was: the others of the batch would do as well. With `catch`, what
    that makes of an exception is the outcome of the row, and all are `Outcomes`. Each row
    has its own one of the `generators` of random numbers, as the keyword argument ``rng``.
    """
    results: list[Any] = Outcomes() if catch else []
    for number, row in enumerate(rows, first):
        try:
            given = {} if generators is None else {"rng": generators[number - first]}
            result = finished(each(*row, **given))
        except BaseException as error:
            with contextlib.suppress(BaseException):  # an exception may refuse any attribute
                error.add_note(
                    f"The item that failed is number {number} of the call, number "
                    f"{number - first} of a batch of {len(rows)}; the first is number 0."
                )
            if catch is None:
                raise
            results.append((False, catch(error)))
        else:
            results.append((True, result) if catch else result)
            del result
    return results
