"""How long is waited for what, where users have no say: one frozen value for each pool.

Whatever waits is given it. New pools and clients take `default_pacing()`; only tests change that,
by `civis_futures.testing.short_waits`. And `present`, by which it is told how long something took.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pacing:
    """Times in seconds.

    Args:
        first_backoff: the pause after the first failure of a kind of command; it doubles with each
            further one, up to `longest_backoff`. Both before jitter.
        request_backoff: the most that is waited after the first failure of one request; the bound
            doubles with each further one, up to `longest_request_backoff`.
        outage: how long a kind of command may fail, without being refused, before the pool breaks.
        last_patience: when only the end of containers is waited for, the longest time for which
            the platform cannot be asked before the waiting ends; `last_patience_refused` if it
            refuses what is asked.
        frozen: how long after the `timeout` of a call its worker may say nothing.
        probe: while no container has shown that it can do the work, the number of containers that
            there may be doubles after each such time.
        proof: a worker that has run for this long, and said nothing, has reached the user's code.
        batch: how much compute a batch of `map` should have: some ten times what a call costs
            besides.
        log_pause: the shortest pause between two reads of a log that grows.
        log_grace: after the end of a call, how long its last lines may still arrive.
        sign_of_life: the pause between two signs of life of a session's holder.
        holder_gone: the holder of a session that has given no sign of life for this long has ended,
            or is taken for one that has.
        command: how long a command of the command line tries to reach the platform, while its user
            waits.
        late: after this much more than its `idle_timeout`, a container without calls takes a client
            that has written nothing to be gone. So long a client may have to wait for the
            platform's limit of requests.
        lag: after how long a list is certain to show what was made before. No source says how far
            lists lag behind; what is asked for by its id is taken to be as it is.
    """

    first_backoff: float = 1.0
    longest_backoff: float = 60.0
    request_backoff: float = 1.0
    longest_request_backoff: float = 30.0
    outage: float = 3600.0
    last_patience: float = 75.0
    last_patience_refused: float = 8.0
    frozen: float = 120.0
    probe: float = 1.5
    proof: float = 2.0
    batch: float = 2.0
    log_pause: float = 0.2
    log_grace: float = 3.0
    sign_of_life: float = 30.0
    holder_gone: float = 90.0
    command: float = 10.0
    late: float = 300.0
    lag: float = 2.0

    def last_words(self, refused: bool) -> float:
        """How long the end of containers is waited for in vain."""
        return self.last_patience_refused if refused else self.last_patience

    def backoff(self, failures: int, chance: float) -> float:
        """Seconds to wait after this many failures in a row; `chance` in [0, 1) spreads them."""
        pause = min(self.first_backoff * 2.0 ** (failures - 1), self.longest_backoff)
        return float(pause) * (0.5 + chance)


_default = Pacing()


def default_pacing() -> Pacing:
    """That of pools and clients which are made now."""
    return _default


def set_default_pacing(pacing: Pacing) -> None:
    """For those that are made from now on."""
    global _default
    _default = pacing


def _uptime() -> float:
    """Seconds by a clock that nobody sets; those in which the machine slept count, on Linux."""
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):  # not Linux
        return time.monotonic()


def present() -> float:
    """Seconds since the epoch, by this machine's clock as it was when this process began, and what
    has passed since. So differences are durations, whoever sets the clock or stops it, as tests do.
    """
    return _uptime() + _AHEAD


# In this order, and several times: what passes between the two reads would count as time.
_AHEAD = max(time.time() - _uptime() for _ in range(3))
