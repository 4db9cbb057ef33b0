"""The command `civis-futures`: arguments in, exit code out. What a command does is done elsewhere.

Each command is a function that adds its own parser, and a function that runs it. A user's mistake
is one line on standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from civis_futures.local import LocalPlatform

MISTAKE = 2
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells say it
LOST = 70  # the server ended by itself (EX_SOFTWARE)
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
WATCH_SECONDS = 0.5


class MistakeError(Exception):
    """Something that the user can put right; the text is what they read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given, separator, command = _split(sys.argv[1:] if arguments is None else list(arguments))
    parser = argparse.ArgumentParser(
        prog="civis-futures", description="concurrent.futures on Civis Platform"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_local(commands)
    options = parser.parse_args(given)
    if separator and not options.takes_command:
        parser.error("this command takes nothing after --")
    if separator and not command:
        parser.error("there is no command after --")
    run: Callable[[argparse.Namespace, list[str]], int] = options.run
    try:
        return run(options, command)
    except MistakeError as error:
        print(f"civis-futures: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Split at the first `--`: what follows is somebody else's command line, not ours to parse."""
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


def _add_local(commands: Any) -> None:
    parser = commands.add_parser(
        "local",
        help="run a local platform, or a command against a fresh one",
        description="Civis Platform's API on this machine. Without a command it runs until "
        "Ctrl-C and says how to reach it; with one it runs the command against a fresh platform "
        "and ends with it.",
        usage="%(prog)s [options] [-- command ...]",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="default: a free port")
    parser.add_argument("--state", metavar="DIR", help="keep scripts, runs, files and the key here")
    parser.add_argument("--cores", type=float, metavar="X", help="default: those of this machine")
    parser.add_argument("--memory", type=int, metavar="MB", help="default: no limit")
    parser.add_argument(
        "--start-delay", type=float, default=0.0, metavar="S", help="seconds that runs stay queued"
    )
    parser.add_argument("--rate-limit", choices=["civis"], help="the Platform's own: 1000 / 100")
    parser.set_defaults(run=_run_local, takes_command=True)


def _run_local(options: argparse.Namespace, command: list[str]) -> int:
    platform = _local_platform(options)
    if not command:
        return _serve(platform)
    with _started(platform):
        return _run_against(platform, command)


def _local_platform(options: argparse.Namespace) -> LocalPlatform:
    try:
        from civis_futures.local import LocalPlatform
    except ImportError as error:
        raise MistakeError(f'{error}: pip install "civis-futures[local]"') from None
    try:
        return LocalPlatform(
            port=options.port,
            state=options.state,
            cores=options.cores,
            memory=options.memory,
            start_delay=options.start_delay,
            rate_limit=options.rate_limit,
        )
    except ValueError as error:
        raise MistakeError(str(error)) from None


@contextlib.contextmanager
def _started(platform: LocalPlatform) -> Iterator[None]:
    try:
        platform.start()
    except (ImportError, RuntimeError) as error:
        raise MistakeError(str(error)) from None
    try:
        yield
    finally:
        platform.stop()


def _serve(platform: LocalPlatform) -> int:
    """Run in the foreground until a signal."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    with _started(platform):
        print(
            f"A local Civis Platform is at {platform.url}. To use it, in another terminal:\n\n"
            f"export CIVIS_API_ENDPOINT={shlex.quote(platform.url)}\n"
            f"export CIVIS_API_KEY={shlex.quote(platform.api_key)}\n\n"
            "It runs the containers' commands as processes on this machine, with your rights.\n"
            "Ctrl-C ends it, and every run.",
            flush=True,
        )
        while not ended.wait(WATCH_SECONDS):
            if not platform.running:
                print("civis-futures: the local platform ended by itself", file=sys.stderr)
                return LOST
    return 0


def _run_against(platform: LocalPlatform, command: list[str]) -> int:
    """Run a command with the platform's address and key in its environment."""
    surroundings = {
        **os.environ,
        "CIVIS_API_ENDPOINT": platform.url,
        "CIVIS_API_KEY": platform.api_key,
    }
    try:
        process = subprocess.Popen(command, env=surroundings)
    except FileNotFoundError:
        print(f"civis-futures: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"civis-futures: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # The terminal gives Ctrl-C to the command too; do not give it twice.
        if number != signal.SIGINT or not sys.stdin.isatty():
            process.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
