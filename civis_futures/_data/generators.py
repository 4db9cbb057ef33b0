"""Generators of random numbers in calls: which there are, in which state, and one for each item.

NumPy is imported only where one of its generators is asked for.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .._wire import digest

#: How the state of a generator of random numbers is read; by the names of their types, as nobody is
#: to import NumPy for it.
_STATES: dict[str, Callable[[Any], Any]] = {
    "random.Random": lambda value: value.getstate(),
    "numpy.random._generator.Generator": lambda value: value.bit_generator.state,
    "numpy.random.mtrand.RandomState": lambda value: value.get_state(legacy=False),
}
GENERATORS = {name.rpartition(".")[2] for name in _STATES}


@dataclass(frozen=True, slots=True)
class Carried:
    """A generator of random numbers in a call: what it is, and a digest of its state."""

    kind: str
    state: str
    value: Any = field(compare=False, repr=False)

    @classmethod
    def of(cls, value: Any) -> Carried | None:
        """The state of a generator; None if it is none, or has none."""
        kind = f"{type(value).__module__}.{type(value).__name__}"
        read = _STATES.get(kind)
        with contextlib.suppress(Exception):  # a bit generator of another package
            return read and cls(kind, digest(pickle.dumps(read(value))), value)
        return None


class SeededGenerator:
    """Stands in a call for the generator of random numbers of this item of a map: NumPy's default
    one, made where it arrives. Items have independent streams, by `SeedSequence`.
    """

    def __init__(self, seed: int, item: int) -> None:
        self._seed, self._item = seed, item

    def __reduce__(self) -> tuple[Any, ...]:
        from numpy.random import SeedSequence, default_rng

        seeds = partial(SeedSequence, spawn_key=(self._item,))
        return default_rng, (Reduced((seeds, (self._seed,))),)


class Reduced:
    """Stands for something in a pickle that is made in this way."""

    def __init__(self, how: tuple[Any, ...]) -> None:
        self._how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return self._how
