"""Displays that change where they are: what a cell of a notebook has shown is drawn again while it
changes. From memory, without a request.

One thread draws all of a process. It ends when nothing that it shows can change any more.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from .markup import html
from .panels import MOST_PAGED, MOST_ROWS, Panel, text

#: Seconds between two drawings, at the least; and which part of the time drawing may take.
PAUSE, SHARE = 0.5, 0.05


class Changing(Protocol):
    """Tasks that can be shown."""

    def _panel(self, most: int) -> Panel:
        """How they are now; `most` of them one by one."""

    def _is_over(self) -> bool:
        """Whether that can change no more."""


class Handle:
    """One output of a notebook, which can be replaced."""

    def __init__(self) -> None:
        import IPython.display  # who has a notebook has it

        self._display: Any = IPython.display.display
        self._shown: Any = None
        self._last: dict[str, str] = {}

    def open(self, data: dict[str, str]) -> None:
        """Show it, once more if need be: all of these outputs change together."""
        name = True if self._shown is None else self._shown.display_id
        handle = self._display(data, raw=True, display_id=name)
        self._shown, self._last = handle or self._shown, data

    def update(self, data: dict[str, str]) -> None:
        """Replace it, if that makes a difference."""
        if data != self._last:
            self._shown.update(data, raw=True)
            self._last = data


class _Displayed:
    """Something that is shown, and where."""

    def __init__(self, owner: Any, keep: bool) -> None:
        self._owner: Callable[[], Changing | None] = (lambda: owner) if keep else weakref.ref(owner)
        self.handle = Handle()

    def is_of(self, owner: Any) -> bool:
        """Whether that is what is shown here."""
        return self._owner() is owner

    def draw(self, show: Callable[[dict[str, str]], None]) -> bool:
        """Draw it; whether it may change after that."""
        owner = self._owner()
        if owner is None:
            return False
        over = owner._is_over()
        panel = owner._panel(MOST_PAGED if over else MOST_ROWS)
        # What is open in a page closes when it is replaced: so nothing is to be opened before.
        markup = html(panel, MOST_PAGED if over else MOST_ROWS)
        show({"text/html": markup, "text/plain": text(panel)})
        return not over


class Screen:
    """All displays of a process, and the thread that draws them."""

    def __init__(self) -> None:
        # Guards what is shown, and whether there is a thread; nothing is drawn under it.
        self._lock = threading.RLock()
        self._displays: list[_Displayed] = []
        self._thread: threading.Thread | None = None

    def show(self, owner: Any, keep: bool) -> None:
        """Show it here, and draw it again as long as it changes; holds it meanwhile if `keep`."""
        with self._lock:
            found = next((each for each in self._displays if each.is_of(owner)), None)
            shown = found or _Displayed(owner, keep)
        if not shown.draw(shown.handle.open):
            return
        with self._lock:
            if found is None:
                # Twenty are kept up to date; then the oldest one stays as it is.
                self._displays = [*self._displays[-19:], shown]
            if self._thread is None or not self._thread.is_alive():  # a fork has none
                name = "civis-futures display"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        cost = 0.0
        while threading.main_thread().is_alive():
            time.sleep(max(PAUSE, cost / SHARE))
            begun = time.monotonic()
            for shown in list(self._displays):
                changes = False
                with contextlib.suppress(Exception):  # of a kernel that ends
                    changes = shown.draw(shown.handle.update)
                if not changes:
                    with self._lock:
                        self._displays = [each for each in self._displays if each is not shown]
            cost = time.monotonic() - begun
            with self._lock:
                if not self._displays:
                    self._thread = None
                    return


_screen = Screen()


def is_notebook(stream: Any) -> bool:
    """Whether it is the output of a notebook's cell."""
    return type(stream).__module__.startswith("ipykernel")


def show_live(owner: Changing, *, keep: bool) -> None:
    """For `_ipython_display_`: show it in a notebook, where it changes.

    Args:
        owner: what to show.
        keep: hold it as long as it changes. Otherwise the display stays as it is when nothing else
            holds it.

    Raises:
        NotImplementedError: this is no notebook, or there is nothing that can change: IPython shows
            it as it shows all else.
    """
    if not is_notebook(sys.stdout) or owner._is_over():
        raise NotImplementedError
    _screen.show(owner, keep)
