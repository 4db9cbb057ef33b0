"""Short pauses, and a platform that is there already: for tests, and for the pages that they run.

How long the pauses are in earnest, the tables of the scheduler and of the transport tell.
"""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace

from civis_futures._executor import opening
from civis_futures.testing import short_waits

_forever = short_waits()


def shorten():
    """Short waits, to the end of this process. (matplotlib does not say that it lists fonts.)"""
    _forever.__enter__()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def share_platform():
    """`platform="local"` is the platform of the environment, and starts none."""
    url, key = os.environ["CIVIS_API_ENDPOINT"], os.environ["CIVIS_API_KEY"]
    shared = SimpleNamespace(url=url, api_key=key, stop=lambda: None)
    opening._local_platform = lambda _: shared
