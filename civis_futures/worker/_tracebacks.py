"""An exception as text, for users who are elsewhere: the traceback, with what is known of its
source.

The source of code that travelled by value is the client's. A file of the same name may lie here as
well, and be another: so its lines are left out, and the answer says where they are missing.

What is rendered is the user's, and may be anything: an exception may refuse to be looked at, and
rendering may raise by itself. Part of the child, and imported when something has failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback

from .._pickles.code import came_by_value, code_key
from ._frames import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from types import FrameType, TracebackType
    from typing import Any

    Frame = dict[str, Any]
    Mark = tuple[traceback.FrameSummary, FrameType]

_LIMIT = 20_000  # characters of a traceback that travel


def rendered(error: BaseException, hidden: Collection[str]) -> tuple[str, list[Frame]]:
    """The traceback, its middle left out if it is long; and its frames that lack their source.

    It begins below the frames of the files that are `hidden`.
    """
    trace = BaseException.__dict__["__traceback__"].__get__(error)
    while trace is not None and trace.tb_frame.f_code.co_filename in hidden:
        trace = trace.tb_next
    marks = Marks()
    try:
        text = _whole(error, trace, marks)
    except BaseException:
        text = _least(error, trace, marks)
    return _shortened(*_located(text, marks))


class Marks:
    """The frames of code that came by value, each of which becomes a word in the text at first."""

    def __init__(self) -> None:
        self.word = f"frame-{os.urandom(8).hex()}-"  # which no user's text can have in it
        self.met: list[Mark] = []
        self._numbers: dict[int, int] = {}

    def stack(
        self, summaries: traceback.StackSummary, trace: TracebackType | None
    ) -> traceback.StackSummary:
        """The same stack, which writes these words."""
        frames = [frame for frame, _ in traceback.walk_tb(trace)]
        for summary, frame in zip(summaries, frames, strict=False):
            same = summary.filename == frame.f_code.co_filename
            if same and summary.lineno is not None and came_by_value(frame.f_globals):
                self._numbers[id(summary)] = len(self.met)
                self.met.append((summary, frame))
        return _Stack(summaries, self)

    def written(self, summary: traceback.FrameSummary) -> str | None:
        """The word for a frame, if it is one of these."""
        number = self._numbers.get(id(summary))
        return None if number is None else f"  {self.word}{number}\n"


class _Stack(traceback.StackSummary):
    def __init__(self, summaries: traceback.StackSummary, marks: Marks) -> None:
        super().__init__(summaries)
        self._marks = marks

    def format_frame_summary(self, frame_summary: Any, **options: Any) -> str:
        """The lines of a frame."""
        word = self._marks.written(frame_summary)
        return word or super().format_frame_summary(frame_summary, **options)


def _whole(error: BaseException, trace: TracebackType | None, marks: Marks) -> str:
    """As the interpreter shows it, with causes, groups and notes."""
    whole = traceback.TracebackException(type(error), error, trace, compact=True)
    pending: list[tuple[Any, BaseException, TracebackType | None]] = [(whole, error, trace)]
    while pending:
        shown, each, at = pending.pop()
        shown.stack = marks.stack(shown.stack, at)
        inner = list(zip(shown.exceptions or (), getattr(each, "exceptions", ()), strict=False))
        inner += [(shown.__cause__, each.__cause__), (shown.__context__, each.__context__)]
        pending += [
            (part, of, of.__traceback__)
            for part, of in inner
            if part is not None and of is not None
        ]
    return "".join(whole.format())


def _least(error: BaseException, trace: TracebackType | None, marks: Marks) -> str:
    """The stack, the type's name, and what it says if it does."""
    stack = traceback.StackSummary.extract(traceback.walk_tb(trace))
    lines = ["Traceback (most recent call last):\n", *marks.stack(stack, trace).format()]
    name = type.__dict__["__qualname__"].__get__(type(error))
    try:
        lines.append(f"{name}: {error!s}\n")
    except BaseException:
        lines.append(f"{name}: <exception str() failed>\n")
    with contextlib.suppress(BaseException):
        lines += [f"{note!s}\n" for note in error.__notes__]
    return "".join(lines)


def _located(text: str, marks: Marks) -> tuple[str, list[Frame]]:
    """The text with the frames' own lines in place of their words, and where these are.

    Of a very long text only both ends, which is all that will be left of it.
    """
    if len(text) > 4 * _LIMIT:
        text = f"{text[: 2 * _LIMIT]}\n{text[-2 * _LIMIT :]}"
    parts, frames, length, end = [], [], 0, 0
    for match in re.finditer(f"^(.*)  {marks.word}([0-9]+)$", text, re.MULTILINE):
        before, indent = plain(text[end : match.start()]), plain(match[1])
        seen, frame = marks.met[int(match[2])]
        shown = "\n".join(indent + line for line in _lines(seen, frame))
        length += len(before)
        frames.append({
            "at": length, "length": len(shown), "indent": len(indent),
            "file": plain(seen.filename), "key": code_key(frame.f_code), "line": seen.lineno,
            "end_line": getattr(seen, "end_lineno", None), "column": getattr(seen, "colno", None),
            "end_column": getattr(seen, "end_colno", None),
        })  # fmt: skip
        parts += [before, shown]
        length, end = length + len(shown), match.end()
    return "".join([*parts, plain(text[end:])]), frames


def _lines(seen: traceback.FrameSummary, frame: FrameType) -> list[str]:
    """What is shown of a frame as long as the client says nothing else."""
    if "__name__" in frame.f_globals:
        seen = traceback.FrameSummary(seen.filename, seen.lineno, seen.name, line="")
    # else it may as well have been made here, without a module, of a file that is here.
    lines = "".join(traceback.StackSummary.from_list([seen]).format())
    return plain(lines).rstrip("\n").split("\n")


def _shortened(text: str, frames: list[Frame]) -> tuple[str, list[Frame]]:
    if len(text) <= _LIMIT:
        return text, frames
    half = _LIMIT // 2
    begin = len(text) - half  # of the second half
    gap = f"\n[... {len(text) - 2 * half:,} characters ...]\n"
    left = [frame for frame in frames if frame["at"] + frame["length"] <= half]
    moved = half + len(gap) - begin
    left += [{**frame, "at": frame["at"] + moved} for frame in frames if frame["at"] >= begin]
    return f"{text[:half]}{gap}{text[begin:]}", left
