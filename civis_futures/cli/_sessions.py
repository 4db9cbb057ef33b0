"""The commands about sessions: `sessions`, `purge`."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

from .._exceptions import SessionInUseError
from .._sessions.registry import SessionInfo, checked_name, listed, remove
from ._connection import connected
from ._terms import MistakeError, show_json, show_table


def add(commands: Any) -> None:
    """Add the commands."""
    sessions = commands.add_parser(
        "sessions",
        help="list your sessions",
        description="Lists your sessions, how many results they have, and who has them open.",
    )
    sessions.add_argument("--json", action="store_true", help="print JSON")
    sessions.set_defaults(run=_sessions, takes_command=False)
    purge = commands.add_parser(
        "purge",
        help="remove sessions, and end their runs",
        description="Removes sessions with their results, and stops their runs. A session that a "
        "process has open is left alone.",
    )
    purge.add_argument("names", metavar="NAME", nargs="+")
    purge.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    purge.set_defaults(run=_purge, takes_command=False)


def _sessions(options: argparse.Namespace, _: list[str]) -> int:
    with connected() as client:
        found = listed(client)
    if options.json:
        show_json([asdict(each) for each in found])
    elif not found:
        print("There is no session.")
    else:
        show_table(
            ("SESSION", "CREATED", "ANSWERED", "HELD", "RUNS", "OPEN IN"),
            [
                (each.name, time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created)),
                 each.answered, each.held, each.runs, each.holder)
                for each in found
            ],
        )  # fmt: skip
    return 0


def _purge(options: argparse.Namespace, _: list[str]) -> int:
    try:
        for name in options.names:
            checked_name(name)
        with connected() as client:
            known = {each.name: each for each in listed(client)} if options.dry_run else {}
            for name in options.names:
                if options.dry_run:
                    print(_would_be_removed(name, known.get(name)))
                else:
                    remove(client, name)
                    print(f"session {name} is removed")
    except (LookupError, SessionInUseError, ValueError) as error:
        raise MistakeError(str(error)) from None
    return 0


def _would_be_removed(name: str, info: SessionInfo | None) -> str:
    if info is None:
        raise LookupError(f"there is no session {name!r}")
    if info.holder is not None:
        return f"session {name} would not be removed: it is open in {info.holder}"
    return (
        f"session {name} would be removed, with {info.answered} answers; "
        f"runs that would end: {info.runs}"
    )
