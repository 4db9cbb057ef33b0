"""How long the worker waits for what, where its order does not say: one value, given to its parts.

Only tests give another one.
"""

from __future__ import annotations

from typing import NamedTuple  # which `_wire` imports as well


class WorkerPacing(NamedTuple):
    """Times in seconds."""

    #: One request, with all its attempts and the pauses between them; at least the lease for those
    #: that are made while calls are answered.
    request: float = 600.0
    #: Between two attempts at a request: the first pause; each further one is longer, up to the
    #: longest.
    first_pause: float = 0.2
    longest_pause: float = 30.0
    #: For changing the script's name, which only saves the client requests.
    naming: float = 20.0
    #: For posting the answers that are left when a TERM comes: the platform kills soon after it.
    last_post: float = 3.0
    #: For a child to end by itself: its exit hooks may wait for threads, or a pool of their own.
    child_end: float = 30.0
    #: For a child to end after a TERM, before it is killed.
    child_term: float = 2.0
    #: Between two reads of the inbox while the only call runs: the client may want it to end.
    calm: float = 10.0
