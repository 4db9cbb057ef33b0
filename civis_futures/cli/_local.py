"""The command `local`: a local platform in the foreground, or for one command."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from .._api.credentials import CA_CERTS_VARIABLE
from ._terms import LOST, NOT_EXECUTABLE, NOT_FOUND, MistakeError

if TYPE_CHECKING:
    from civis_futures.local import LocalPlatform

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "local",
        help="run a local platform, or a command against a fresh one",
        description="Civis Platform's API on this machine. Without a command it runs until "
        "Ctrl-C and says how to reach it; with one it runs the command against a fresh platform "
        "and ends with it.",
        usage="%(prog)s [options] [-- command ...]",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        metavar="N",
        help="the port to listen on; default: a free one",
    )
    parser.add_argument(
        "--advertise",
        metavar="HOST",
        help="let other machines reach it, by this name or IP address of this machine, over TLS",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="the certificate for --advertise; default: one is made",
    )
    parser.add_argument("--private-key", metavar="FILE", help="the private key of --certificate")
    parser.add_argument(
        "--plain-http",
        action="store_true",
        help="--advertise without TLS: anyone on the network can read keys and data",
    )
    _add_runs(parser)
    parser.set_defaults(run=_run_local, takes_command=True)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how runs are kept, limited and run."""
    parser.add_argument("--state", metavar="DIR", help="keep scripts, runs, files and the key here")
    parser.add_argument(
        "--cores", type=float, metavar="X", help="cores for all runs together; default: no limit"
    )
    parser.add_argument(
        "--memory", type=int, metavar="MB", help="memory for all runs together; default: no limit"
    )
    parser.add_argument(
        "--start-delay",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds for which each run stays queued",
    )
    parser.add_argument(
        "--engine",
        default="process",
        metavar="NAME",
        help="what runs the containers: process (the default), podman, docker, slurm, own",
    )
    parser.add_argument(
        "--engine-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine, such as partition=main for slurm, network=host for podman, "
        "file=pbs.py for own; may be given several times",
    )
    parser.add_argument(
        "--rate-limit",
        choices=["civis"],
        help="Civis Platform's limits: 1000 requests and 100 run starts in 300 s",
    )


def _run_local(options: argparse.Namespace, command: list[str]) -> int:
    platform = _local_platform(options)
    if not command:
        return _serve(platform, options.engine)
    with _started(platform):
        return _run_against(platform, command)


def _local_platform(options: argparse.Namespace) -> LocalPlatform:
    try:
        from civis_futures.local import LocalPlatform
        from civis_futures.local._engines.options import from_texts
    except ImportError as error:
        raise MistakeError(f'{error}: pip install "civis-futures[local]"') from None
    try:
        return LocalPlatform(
            engine=from_texts(options.engine, options.engine_option),
            port=options.port,
            advertise=options.advertise,
            certificate=options.certificate,
            private_key=options.private_key,
            plain_http=options.plain_http,
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


def _where(engine: str) -> str:
    if engine == "process":
        return "as processes on this machine, with your rights."
    return f"with {engine}, as you."


def _serve(platform: LocalPlatform, engine: str) -> int:
    """Run in the foreground until a signal."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    with _started(platform):
        print(
            f"A local Civis Platform is at {platform.url}. To use it, in another terminal:\n\n"
            + "".join(f"export {n}={shlex.quote(v)}\n" for n, v in _way(platform).items())
            + "\nIts runs and logs in a browser (the link works once, for ten minutes):\n"
            f"{platform.page}\n\n{_who_reaches(platform)}"
            f"It runs the containers' commands {_where(engine)}\n"
            "Ctrl-C ends it, and every run.",
            flush=True,
        )
        while not ended.wait(0.5):
            if not platform.running:
                print("civis-futures: the local platform ended by itself", file=sys.stderr)
                return LOST
    return 0


def _way(platform: LocalPlatform) -> dict[str, str]:
    """The variables that lead to it."""
    way = {"CIVIS_API_ENDPOINT": platform.url, "CIVIS_API_KEY": platform.api_key}
    return way if platform.ca_certs is None else {**way, CA_CERTS_VARIABLE: platform.ca_certs}


def _who_reaches(platform: LocalPlatform) -> str:
    if platform.ca_certs is not None:
        return "Other machines reach it by the same three variables.\n"
    if platform.advertised:
        return (
            "Other machines reach it by the same two variables. There is no TLS: who can listen\n"
            "on that network reads the key and all data, and then runs commands here.\n"
        )
    return ""


def _run_against(platform: LocalPlatform, command: list[str]) -> int:
    """Run a command with the platform's address and key in its environment."""
    surroundings = {**os.environ, **_way(platform)}
    if platform.ca_certs is None:
        surroundings.pop(CA_CERTS_VARIABLE, None)  # of another platform
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
