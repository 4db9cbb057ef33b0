"""The command `civis-futures`: arguments in, exit code out. What a command does is done elsewhere.

Each group of commands has a room of its own, with a function `add` that adds their parsers, and
one function for each that runs it. A user's mistake is one line on standard error and exit code 2,
never a traceback. The exit codes are in `_terms`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from . import _image, _local, _runs, _sessions
from ._terms import EXIT_CODES, MISTAKE, UNAVAILABLE, MistakeError, UnavailableError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given, separator, command = _split(sys.argv[1:] if arguments is None else list(arguments))
    parser = argparse.ArgumentParser(
        prog="civis-futures",
        description="concurrent.futures on Civis Platform",
        epilog=EXIT_CODES,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (_local, _runs, _sessions, _image):
        group.add(commands)
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
    except BrokenPipeError:  # `| head` has seen enough; nor is there anything to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Split at the first `--`: what follows is somebody else's command line, not ours to parse."""
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]
