"""What all commands say alike: exit codes, mistakes, tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

DIFFERS = 1  # the answer is no: the image differs, there was nothing to cancel
MISTAKE = 2
UNAVAILABLE = 69  # EX_UNAVAILABLE
LOST = 70  # the server ended by itself (EX_SOFTWARE)
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells say it

EXIT_CODES = (
    "Exit codes: 0 done; 1 the answer is no; 2 a mistake in the arguments, the key or the address; "
    "69 the platform has trouble; 130 Ctrl-C. `local` also ends with the code of its command."
)
#: The last column of a table is cut, but not below this.
_LEAST = 10


class MistakeError(Exception):
    """Something that the user can put right; the text is what they read."""


class UnavailableError(Exception):
    """Something that only time or the platform's people can put right."""


def show_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns, the last one cut to fit; where they do not fit, each field on lines of
    its own. What another program reads is never cut, unless COLUMNS says so.
    """
    shown = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size().columns if shown else sys.maxsize
    texts = [[_plain(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    room = width - sum(widths[:-1]) - 2 * (len(names) - 1)
    if room < min(_LEAST, widths[-1]):
        _show_fields(names, texts, width)
        return
    for row in [list(names), *texts]:
        *first, last = row
        cells = [f"{text:<{size}}" for text, size in zip(first, widths, strict=False)]
        print("  ".join([*cells, _cut(last, room)]).rstrip())


def _show_fields(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    longest = max(map(len, names))
    width = max(width, longest + 2 + _LEAST)
    for number, row in enumerate(rows):
        if number:
            print()
        for name, text in zip(names, row, strict=True):
            line = f"{name:<{longest}}  {text}"
            print("\n".join(textwrap.wrap(line, width, subsequent_indent=" " * (longest + 2))))


def show_json(value: Any) -> None:
    """Print a value for programs."""
    print(json.dumps(value, indent=2))


def _plain(value: object) -> str:
    text = "-" if value is None else str(value)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
