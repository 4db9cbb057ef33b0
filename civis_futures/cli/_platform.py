"""The command `check-platform`: whether the platform behaves as this package assumes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .._container.images import OFFICIAL
from ._connection import connected
from ._image import split_image
from ._terms import DIFFERS, MistakeError, UnavailableError, show_json, show_table

_WORDS = {True: "yes", False: "NO", None: "-"}


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check-platform",
        help="see whether the platform behaves as this package assumes",
        description="Starts two small containers with your key, makes fewer than 100 requests, "
        "and removes what it has made. What differs is remembered for your user account, and "
        "taken into account from then on. Exit code 1: something differs.",
    )
    parser.add_argument(
        "--image", metavar="IMAGE", help="with any Python 3; default: the official image"
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds to wait; default: 600"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check, takes_command=False)


def _check(options: argparse.Namespace, _: list[str]) -> int:
    from .._checking.assumptions import findings, traits_of  # slow to import
    from .._checking.visit import Ear, UnfinishedError, visit

    image = split_image(OFFICIAL if options.image is None else options.image, None)
    if not 0 < options.timeout < float("inf"):
        raise MistakeError("--timeout must be a number of seconds, above 0")
    ear = Ear()
    with connected(heard=ear) as client:
        try:
            seen = visit(client, ear, image, options.timeout)
        except UnfinishedError as error:
            raise UnavailableError(f"{error}; what was started is cancelled") from None
        traits = traits_of(seen)
        place = client.remember(traits)
    found = findings(seen)
    if options.json:
        remembered = None if place is None else {"file": str(place), **asdict(traits)}
        show_json(
            {
                "assumptions": [asdict(each) for each in found],
                "requests": seen.requests,
                "run_starts": seen.starts,
                "remembered": remembered,
            }
        )
    else:
        show_table(
            ("HOLDS", "ASSUMPTION", "SEEN", "WHAT FOLLOWS"),
            [(_WORDS[x.holds], x.assumption, x.seen, x.follows) for x in found],
        )
        where = "nowhere: your cache folder cannot be written" if place is None else place
        print(f"\n{seen.requests} requests, {seen.starts} run starts. Remembered in {where}.")
    return DIFFERS if any(each.holds is False for each in found) else 0
