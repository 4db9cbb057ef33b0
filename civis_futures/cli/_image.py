"""The command `check-image`: what is in an image, against what is here.

One container prints its Python and its packages. Functions are pickled here and run there, so
another minor version of Python is a no; another version of a package that both have is worth
knowing. What only one of the two has is not: the functions may not need it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._container.container import Container, image_and_tag
from .._container.images import proposal
from .._exceptions import PlatformError
from .._types import Job, JobKind, LogLine, Run
from ._connection import connected
from ._terms import DIFFERS, MistakeError, UnavailableError, show_json, show_table

if TYPE_CHECKING:
    from .._api.client import PlatformClient

#: Packages whose version does not matter: they only install others, or are sent along.
_IRRELEVANT = {"pip", "setuptools", "wheel", "civis-futures", "cloudpickle"}
_LINE = re.compile(r"civis_futures: image (\d+) (.*)")
#: It runs on any Python 3. Lines are short, as it is not documented how long one in a log may be.
_PROGRAM = """
import json, sys
packages = []
try:
    from importlib.metadata import distributions
    for found in distributions():
        packages.append((found.metadata["Name"], found.version))
except ImportError:
    import pkg_resources
    for found in pkg_resources.working_set:
        packages.append((found.project_name, found.version))
known = {"python": list(sys.version_info[:3]), "packages": packages}
text = json.dumps(known, separators=(",", ":"))
for place in range(0, len(text), 1000):
    print("civis_futures: image %d %s" % (place // 1000, text[place:place + 1000]))
"""
_PAUSES = (0.2, 5.0)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a Python installation is made of: its version, and those of its packages."""

    python: tuple[int, ...]
    packages: dict[str, str]


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check-image",
        help="compare Python and packages of an image with those here",
        description="Starts one container of the image, and compares. Exit code 1: functions from "
        "here cannot run there, since the minor version of Python differs.",
    )
    parser.add_argument("image", metavar="IMAGE", help="as in NAME or NAME:TAG")
    parser.add_argument(
        "--timeout", type=float, default=900.0, metavar="S", help="seconds to wait; default: 900"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check, takes_command=False)


def _check(options: argparse.Namespace, _: list[str]) -> int:
    name, tag = split_image(options.image)
    if not 0 < options.timeout < float("inf"):
        raise MistakeError("--timeout must be a number of seconds, above 0")
    with connected() as client:
        run, lines = _ran(client, name, tag, options.timeout)
    there = contents_of(lines)
    if there is None:
        tail = " / ".join(line.message for line in lines[-3:])
        print(
            f"civis-futures: {name}:{tag} told nothing, is there a python3 in it? "
            f"(run {run.id} {run.said}: {tail})",
            file=sys.stderr,
        )
        return DIFFERS
    here = contents_here()
    fit = here.python[:2] == there.python[:2]
    differing = differences(here, there)
    if options.json:
        show_json(_record(f"{name}:{tag}", here, there, fit, differing))
    else:
        _show(f"{name}:{tag}", here, there, fit, differing)
    return 0 if fit else DIFFERS


def split_image(text: str, tag: str | None = "latest") -> tuple[str, str]:
    """Name and tag. A name alone has `tag`; if that is None, the one that fits this Python."""
    name, given = image_and_tag(text)
    try:
        image = Container(docker_image_name=name, docker_image_tag=given or tag)
    except ValueError:
        raise MistakeError(f"{text!r} is no image: say NAME or NAME:TAG, in lower case") from None
    return image.docker_image_name, image.docker_image_tag or ""


def _ran(client: PlatformClient, name: str, tag: str, timeout: float) -> tuple[Run, list[LogLine]]:
    """One run of the program in the image, over, with its log; its script is archived."""
    body = {
        "name": f"civis_futures check-image [{secrets.token_hex(8)}]",
        "docker_image_name": name,
        "docker_image_tag": tag,
        "docker_command": f"exec python3 -c {shlex.quote(_PROGRAM)}",
        "required_resources": {"cpu": 250, "memory": 512, "disk_space": 1.0},
        "notifications": {"success_on": False, "failure_on": False},
        "hidden": True,
    }
    job = client.create_script(JobKind.CONTAINER, body)
    try:
        run = client.start_run(job)
        with _stopped_at_least(client, job, run):
            run = _over(client, job, run, timeout)
        return run, client.list_logs(job, run.id, limit=10_000)
    finally:
        with contextlib.suppress(PlatformError):
            client.archive(job)


@contextlib.contextmanager
def _stopped_at_least(client: PlatformClient, job: Job, run: Run) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(PlatformError):
            client.cancel_run(job, run.id)
        raise


def _over(client: PlatformClient, job: Job, run: Run, timeout: float) -> Run:
    end, (pause, longest) = time.monotonic() + timeout, _PAUSES
    while not run.state.over:
        if time.monotonic() > end:
            raise UnavailableError(f"run {run.id} is still {run.said} after {timeout:g} seconds")
        time.sleep(pause)
        pause = min(pause * 1.3, longest)
        run = client.get_run(job, run.id, low_priority=True)
    return run


def contents_of(lines: Iterable[LogLine]) -> Contents | None:
    """What the program has printed, or None if it has not."""
    parts = {int(found[1]): found[2] for x in lines if (found := _LINE.match(x.message))}
    try:
        known = json.loads("".join(parts[place] for place in sorted(parts)))
        return Contents(tuple(known["python"]), _named(known["packages"]))
    except (ValueError, KeyError, TypeError):
        return None


def contents_here() -> Contents:
    """What is installed here."""
    found = [(each.metadata["Name"], each.version) for each in importlib.metadata.distributions()]
    return Contents(tuple(sys.version_info[:3]), _named(found))


def _named(packages: Iterable[Any]) -> dict[str, str]:
    """Versions by normalized name; of two, the first is the one that is imported."""
    found: dict[str, str] = {}
    for name, version in packages:
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", str(name)).lower(), str(version))
    return found


def differences(here: Contents, there: Contents) -> list[tuple[str, str, str]]:
    """Packages of both, in other versions: name, version here, version there."""
    both = sorted((here.packages.keys() & there.packages.keys()) - _IRRELEVANT)
    return [
        (name, here.packages[name], there.packages[name])
        for name in both
        if here.packages[name] != there.packages[name]
    ]


def _record(
    image: str, here: Contents, there: Contents, fit: bool, differing: list[tuple[str, str, str]]
) -> dict[str, Any]:
    return {
        "image": image,
        "fit": fit,
        "python": {"here": _dotted(here), "there": _dotted(there)},
        "packages": [dict(zip(("name", "here", "there"), each, strict=True)) for each in differing],
    }


def _show(
    image: str, here: Contents, there: Contents, fit: bool, differing: list[tuple[str, str, str]]
) -> None:
    python = ".".join(map(str, here.python[:2]))
    said = proposal(python)
    verdict = "fits" if fit else f"does not fit: another minor version of Python ({python}: {said})"
    print(f"{image} {verdict}.")
    print()
    show_table(("", "HERE", "THERE"), [("Python", _dotted(here), _dotted(there)), *differing])
    if not differing:
        print("\nNo package that both have differs in version.")


def _dotted(contents: Contents) -> str:
    return ".".join(map(str, contents.python))
