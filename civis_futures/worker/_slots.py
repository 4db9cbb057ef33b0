"""What the loop knows of a call whose bytes are here, of why calls cannot be run, and of a process
and its calls.
"""

from __future__ import annotations

import os
from collections import deque

from .. import _wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._process import Process


class FetchedCall:
    """A call whose bytes are here, in memory or in a file; or the reason why they are not.

    `buffers` are the paths of what it refers to, `code` digests of zips with the user's modules,
    and `modules` the folder that these are in.
    """

    def __init__(self, body: bytes = b"", path: str | None = None, problem: str = "") -> None:
        self.body = body
        self.path = path
        self.problem = problem
        self.buffers: list[str] = []
        self.code: set[str] = set()
        self.modules: list[str] = []

    @property
    def here(self) -> bool:
        """Whether its files are still there: they lie where user code can remove them."""
        paths = [*self.buffers, *self.modules]
        return all(map(os.path.exists, paths if self.path is None else [self.path, *paths]))


class Refusal:
    """Why calls are not run: what their answers say."""

    def __init__(self, kind: str, text: str, detail: str = "", frames: Any = ()) -> None:
        self.kind = kind
        self.text = text
        self.detail = detail
        self.frames = tuple(_wire.Frame(**frame) for frame in frames)


class Slot:
    """Room for one process, and its calls: the one that it runs, and those that it was given ahead.
    `number` is from 1, or 0 if there is only one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.ready = False  # whether it has run its initializer, if there is one
        self.calls: deque[_wire.Call] = deque()
        self.since = 0.0  # when the first of these was handed over, or could begin
        self.modules: list[str] = []  # the folders with modules that the process may need
