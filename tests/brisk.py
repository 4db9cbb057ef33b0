"""Short pauses, and a platform that is there already: for tests, and for the pages that they run.

How long the pauses are in earnest, the tables of the scheduler and of the transport tell.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import tenacity

from civis_futures._api import client, transport
from civis_futures._executor import opening
from civis_futures._scheduling import pacing, scheduler


def shorten(replace):
    """The pauses after failures, and the patience with a platform that is gone.

    `replace(object, name, value)` is `setattr`, or that of a monkeypatch.
    """
    replace(pacing, "FIRST_BACKOFF", 0.1)
    replace(scheduler, "LAST_PATIENCE", {False: 10.0, True: 1.0})
    short = tenacity.wait_random_exponential(multiplier=0.1, max=1)
    replace(transport, "_backoff", short)
    replace(client, "LAG", 0.8)  # of a list, a test has 0.5 s


def share_platform():
    """`platform="local"` is the platform of the environment, and starts none."""
    url, key = os.environ["CIVIS_API_ENDPOINT"], os.environ["CIVIS_API_KEY"]
    shared = SimpleNamespace(url=url, api_key=key, stop=lambda: None)
    opening._local_platform = lambda _: shared
