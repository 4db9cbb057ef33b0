"""The source of what was sent: noted when a function is pickled, shown when it has failed there.

A function that travels by value fails where its file is not, or where another one has that name. So
the lines of its file are kept when it is first sent, as `linecache` has them then: those of a file,
a cell of a notebook, a doctest. A traceback tells which code a frame is of (`_pickles.code`), and
the frame is rendered here, by the standard library, from these lines.

Modules that travel in a zip have their files there, whose paths are shown as those that they were
packed from.

Nothing is asked of the disk for what has been sent before. No locks: of two threads that note the
same, either may win.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import CodeType, FunctionType
from typing import Any

from .._pickles.code import came_by_value, code_key
from .._wire import Answer, Frame

#: How many pieces of code are remembered: of more than that, those that were sent last. And how
#: many folders with modules.
MOST_CODE, MOST_FOLDERS = 20_000, 100
#: Where a traceback names a file of a zip; see `worker._code`.
_IN_ZIP = re.compile(r'(?<=File ")[^"\n]*/(code-[0-9a-f]{16})/([^"\n]+)(?=", line (\d+))')


def _begin() -> float:
    """When this process began, in seconds since the epoch; now, where it cannot be known."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    except (AttributeError, IndexError, OSError, ValueError):
        return time.time()


_BEGIN = _begin()


@dataclass(eq=False, slots=True)
class _Text:
    """The lines of a file. `shown_as` is what a notebook calls it, if it is a cell.

    `doubtful`: it was written after this process began, so perhaps after its code was loaded; or
    the code was not even loaded from here.
    """

    file: str
    lines: list[str]
    shown_as: str
    doubtful: bool
    _keys: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        """Whether this is what the code was made of, as far as one can know."""
        if self.doubtful and not self._keys:
            self._keys.add("")
            with contextlib.suppress(Exception):  # it need not be Python any more
                made = compile("".join(self.lines), self.file, "exec", dont_inherit=True)
                self._keys.update(map(code_key, _all_in(made)))
        return not self.doubtful or key in self._keys


_texts: dict[str, _Text] = {}  # by the file's name: the last one of each
_seen: dict[int, CodeType] = {}  # by their id
#: By file and key; and by the key alone, for code that an earlier process has sent.
_known: dict[tuple[str, str], tuple[_Text, str]] = {}
_numbers = itertools.count()
#: By the name of the folder that zips are unpacked into: the paths here, by the names there.
_folders: dict[str, Mapping[str, str]] = {}


def note(function: FunctionType, most: int = MOST_CODE) -> None:
    """A function is sent by value: remember where its source is, and that of `most` in all."""
    code = function.__code__
    if _seen.get(id(code)) is code:
        return
    parts = _all_in(code)
    _seen.update((id(each), each) for each in parts)
    with contextlib.suppress(Exception):  # whatever is wrong with its file, it can be sent
        text = _text_of(code, function.__globals__)
        for each in parts:
            key = code_key(each)
            _known[each.co_filename, key] = _known["", key] = text, each.co_name
        _forget(_seen, most)
        _forget(_known, 2 * most)


def with_sources(answer: Answer) -> Answer:
    """The answer with the source of our own code in its text, as far as we know it."""
    text = answer.text
    for frame in sorted(answer.frames, key=lambda frame: frame.at, reverse=True):
        known = _known.get((frame.file, frame.key)) or _known.get(("", frame.key))
        begin, end = frame.at + frame.indent, frame.at + frame.length
        if known is not None and text.startswith('  File "', begin):
            indent = text[frame.at : begin]
            shown = "\n".join(indent + line for line in _rendered(frame, *known))
            text = f"{text[: frame.at]}{shown}{text[end:]}"
    return replace(answer, text=_IN_ZIP.sub(_path_here, text), frames=())


def note_folder(name: str, paths: Mapping[str, str]) -> None:
    """Zips with modules are sent: remember where their files are."""
    _folders[name] = paths
    _forget(_folders, MOST_FOLDERS)


def own_place(answer: Answer) -> str:
    """The file and line of the user's modules that the text of an answer names last, if any."""
    found = _IN_ZIP.findall(answer.text)
    return f"{found[-1][1]}, line {found[-1][2]}" if found else ""


def _path_here(match: re.Match[str]) -> str:
    return _folders.get(match[1], {}).get(match[2], match[0])


def _all_in(code: CodeType) -> list[CodeType]:
    """Some code, and that of the functions and classes within it."""
    found = [code]
    for each in found:
        found += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
    return found


def _forget(table: dict[Any, Any], most: int) -> None:
    """Leave the newest."""
    for oldest in list(itertools.islice(table, max(0, len(table) - most))):
        table.pop(oldest, None)


def _text_of(code: CodeType, variables: dict[str, Any]) -> _Text:
    name = code.co_filename
    linecache.checkcache(name)
    lines = linecache.getlines(name, variables)  # a doctest puts another function there
    if not lines:  # since Python 3.14: of ``python -c``
        lines = getattr(linecache, "_getlines_from_code", lambda _: [])(code)
    entry: Any = linecache.cache.get(name, ())
    written = entry[1] if len(entry) == 4 else None
    doubtful = came_by_value(variables) or (written is not None and written > _BEGIN)
    cell, known = _cell(name), _texts.get(name)
    if (
        known is None
        or known.lines is not lines
        or (known.shown_as, known.doubtful) != (cell, doubtful)
    ):
        known = _texts[name] = _Text(name, lines, cell, doubtful)
    return known


def _cell(name: str) -> str:
    """What IPython calls the cell whose file has this name, say "Cell In[3]"; empty if none."""
    with contextlib.suppress(Exception):  # there is none, or one that cannot say
        shell = sys.modules["IPython"].get_ipython()
        return " ".join(shell.compile.format_code_name(name) or ())
    return ""


def _rendered(frame: Frame, text: _Text, name: str) -> list[str]:
    """The lines of a frame, as the interpreter shows them."""
    head = traceback.FrameSummary(text.file, frame.line, name, line="")
    shown = _formatted(head)
    if text.shown_as:
        shown = [f"  {text.shown_as}, line {frame.line}, in {name}"]
    if not (_fits(frame, text.lines) and text.has(frame.key)):
        return shown
    alias = f"<civis_futures {next(_numbers)}>"
    linecache.cache[alias] = (0, None, text.lines, alias)
    try:
        place: Any = {
            "end_lineno": frame.end_line,
            "colno": frame.column,
            "end_colno": frame.end_column,
        }
        whole = traceback.FrameSummary(alias, frame.line, name, lookup_line=False, **place)
        return shown + _formatted(whole)[1:]
    finally:
        del linecache.cache[alias]


def _formatted(summary: traceback.FrameSummary) -> list[str]:
    return "".join(traceback.StackSummary.from_list([summary]).format()).rstrip("\n").split("\n")


def _fits(frame: Frame, lines: list[str]) -> bool:
    """Whether there is such a place."""
    last = frame.end_line or frame.line
    if not 0 < frame.line <= last <= len(lines):
        return False
    return (frame.end_column or 0) <= len(lines[last - 1].encode("utf-8", "replace"))
