"""Which of Civis's official images has which Python: the only place that knows.

From the changelog of the image's repository, https://github.com/civisanalytics/datascience-python,
up to its release 8.4.0 of March 2, 2026: read in a copy, and not tried on Civis Platform. For each
minor version of Python it is the newest image that has it. To add a new image is to add a line.

This module knows no other module.
"""

from __future__ import annotations

import sys

OFFICIAL = "civisanalytics/datascience-python"
LATEST = "latest"
#: Minor version of Python -> tag; the comments are the whole versions.
TAGS = {
    "3.11": "7.0.0",  # 3.11.4
    "3.12": "8.2.0",  # 3.12.8
    "3.13": "8.3.0",  # 3.13.5
    "3.14": "8.4.0",  # 3.14.2
}


def python_here() -> str:
    """The minor version of this Python, e.g. "3.14"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def tag_of(name: str) -> tuple[str, bool]:
    """The tag for an image of which only the name was given; and whether it is certain to be the
    right one.

    Of the official image it is one with this Python; what any other has is not known here.
    """
    if name != OFFICIAL:
        return LATEST, True
    found = TAGS.get(python_here())
    return found or LATEST, found is not None


def proposal(python: str) -> str:
    """What to use with that Python, as part of a sentence."""
    if tag := TAGS.get(python):
        return f"{OFFICIAL}:{tag} has it"
    return f"no official image is known to have it; the newest known one has Python {_newest()}"


def doubt() -> str:
    """What to say before a pool starts whose image has perhaps another Python."""
    here = python_here()
    return (
        f"{OFFICIAL}:{LATEST} is used, of which it is not known whether it has Python {here}, as "
        f"you have: the newest known one, {TAGS[_newest()]}, has Python {_newest()}. If it has "
        f"another one than yours, every call fails. Say in Container(docker_image_tag=...) which "
        f"image to use, or use Python {_newest()} here."
    )


def _newest() -> str:
    return max(TAGS, key=lambda python: [int(part) for part in python.split(".")])
