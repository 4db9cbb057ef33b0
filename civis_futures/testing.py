"""Test your own code's reaction to what goes wrong: a local platform whose faults you choose.

::

    from civis_futures.testing import Fault, LocalPlatform

    with LocalPlatform(faults=[Fault.kill(says="half way", times=1)], seed=7) as platform:
        ...

With pytest, ask for the fixture ``civis_platform``; it is there as soon as the package is
installed. This module only gathers names: faults happen at the platform's edge, in
`civis_futures.local`, and the client knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator as _Iterator
from contextlib import contextmanager as _contextmanager

from civis_futures import _pacing
from civis_futures._public import publish as _publish
from civis_futures.local import LocalPlatform
from civis_futures.local._faults.fault import Fault
from civis_futures.local._journal import Request
from civis_futures.local._owner import Faults, Stats

__all__ = ["Fault", "Faults", "LocalPlatform", "Request", "Stats", "short_waits"]

_SHORT = _pacing.Pacing(
    first_backoff=0.1,
    request_backoff=0.1,
    longest_request_backoff=1.0,
    last_patience=10.0,
    last_patience_refused=1.0,
    frozen=10.0,
    lag=0.8,
)


@_contextmanager
def short_waits() -> _Iterator[None]:
    """For tests in which things go wrong: executors that are made in this block wait less.

    After a failure they wait a tenth of a second in place of one second, and at their shutdown
    they wait ten seconds for a platform that does not answer, in place of 75::

        with short_waits(), ContainerPoolExecutor(platform=platform) as executor:
            ...
    """
    before = _pacing.default_pacing()
    _pacing.set_default_pacing(_SHORT)
    try:
        yield
    finally:
        _pacing.set_default_pacing(before)


_publish(__name__, __all__)
