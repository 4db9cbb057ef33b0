"""Test your own code's reaction to what goes wrong: a local platform whose faults you choose.

::

    from civis_futures.testing import Fault, LocalPlatform

    with LocalPlatform(faults=[Fault.kill(says="half way", times=1)], seed=7) as platform:
        ...

With pytest, ask for the fixture ``civis_platform``; it is there as soon as the package is
installed. This room only gathers names: faults happen at the platform's edge, in
`civis_futures.local`, and the client knows nothing of them.
"""

from __future__ import annotations

from civis_futures._public import publish as _publish
from civis_futures.local import LocalPlatform
from civis_futures.local._faults.words import Fault
from civis_futures.local._journal import Request
from civis_futures.local._owner import Faults, Stats

__all__ = ["Fault", "Faults", "LocalPlatform", "Request", "Stats"]

_publish(__name__, __all__)
