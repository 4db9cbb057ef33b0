"""The command `civis-futures`: arguments in, exit code out. What a command does is done elsewhere.

Each group of commands has a module of its own, with a function `add` that adds their parsers, and
one function for each that runs it. A user's mistake is one line on standard error and exit code 2,
never a traceback. The exit codes are in `_terms`.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence

from .._public import version
from . import _image, _local, _platform, _runs, _sessions
from ._terms import EXIT_CODES, MISTAKE, UNAVAILABLE, MistakeError, UnavailableError

__all__ = ["main"]

#: Why what is printed cannot be written: a reader that has gone, a full disk.
_CANNOT_WRITE = (errno.EPIPE, errno.ENOSPC, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given, separator, command = _split(sys.argv[1:] if arguments is None else list(arguments))
    parser = argparse.ArgumentParser(
        prog="civis-futures",
        description="concurrent.futures on Civis Platform",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"civis-futures {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (_local, _runs, _sessions, _image, _platform):
        group.add(commands)
    if not given and not separator:
        parser.print_help(sys.stderr)
        return MISTAKE
    options = parser.parse_args(given)
    if separator and not options.takes_command:
        parser.error("this command takes nothing after --")
    if separator and not command:
        parser.error("there is no command after --")
    run: Callable[[argparse.Namespace, list[str]], int] = options.run
    try:
        code = run(options, command)
        sys.stdout.flush()
        return code
    except (MistakeError, UnavailableError) as error:
        print(f"civis-futures: {error}", file=sys.stderr)
        return MISTAKE if isinstance(error, MistakeError) else UNAVAILABLE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if error.filename is not None or error.errno not in _CANNOT_WRITE:
            raise
        _drop_output()
        if error.errno == errno.EPIPE:  # `| head` has seen enough
            return 128 + signal.SIGPIPE
        print(f"civis-futures: the output cannot be written: {error.strerror}", file=sys.stderr)
        return MISTAKE


def _drop_output() -> None:
    """What is still to be written would be an error once more, at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Split at the first `--`: what follows is another program's command, not ours to parse."""
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]
