"""`table`: any futures of ours, to look at. It shows them as they are whenever it is shown."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any, overload

from . import _display
from ._future import ContainerFuture


class Table(Sequence[ContainerFuture[Any]]):
    """Futures as a sequence that displays: in a notebook, a terminal, and by ``print``."""

    def __init__(self, futures: Iterable[ContainerFuture[Any]]) -> None:
        self._futures = tuple(futures)
        for future in self._futures:
            if not isinstance(future, ContainerFuture):
                kind = type(future).__name__
                raise TypeError(f"a table shows the futures of a container pool, not a {kind}")

    def __len__(self) -> int:
        """How many futures there are."""
        return len(self._futures)

    @overload
    def __getitem__(self, index: int) -> ContainerFuture[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Table: ...
    def __getitem__(self, index: int | slice) -> ContainerFuture[Any] | Table:
        """One of them, or a table of some."""
        if isinstance(index, slice):
            return Table(self._futures[index])
        return self._futures[index]

    def status(self) -> list[dict[str, Any]]:
        """As `ContainerPoolExecutor.status`."""
        return _display.records(self._panel().glances)

    def _panel(self) -> _display.Panel:
        glances = [future._glance() for future in self._futures]
        return _display.panel_of(f"{len(glances):,} futures", glances, time.time())

    def __repr__(self) -> str:
        """Several lines, as wide as the terminal."""
        return _display.text(self._panel(), shutil.get_terminal_size().columns)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return _display.html(self._panel())


def table(futures: Iterable[ContainerFuture[Any]]) -> Table:
    """Futures to look at: counts, a bar, times, peak memory, and failures with their reason.

    Looking asks nobody, so it returns at once. The table is a sequence of the futures, too.

    Raises:
        TypeError: one of them is not a `ContainerFuture`.
    """
    return Table(futures)
