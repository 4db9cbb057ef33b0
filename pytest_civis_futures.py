"""The pytest fixture `civis_platform`: a local platform for code that uses a pool of containers.

pytest imports this module at its start, in every project where the package is installed. So it is a
module of its own, which imports nothing of `civis_futures` before a test asks for the fixture:
pytest starts as fast as without it, and a measurement of coverage misses nothing.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from civis_futures.testing import LocalPlatform


@pytest.fixture(scope="session")
def civis_platform_options() -> dict[str, Any]:
    """Arguments for the `LocalPlatform` of `civis_platform`; override it in a conftest.py.

    The default lets containers find the modules that the tests find.
    """
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    here = [path for path in sys.path if path and not path.startswith(installed)]
    return {"cores": 16, "environment": {"PYTHONPATH": os.pathsep.join(here)}}


@pytest.fixture(scope="session")
def _civis_platform(civis_platform_options: dict[str, Any]) -> Iterator[LocalPlatform]:
    from civis_futures.testing import LocalPlatform

    with LocalPlatform(**civis_platform_options) as platform:
        yield platform


@pytest.fixture
def civis_platform(
    _civis_platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalPlatform]:
    """A `civis_futures.testing.LocalPlatform` with nothing wrong, as long as the test lasts.

    `CIVIS_API_ENDPOINT` and `CIVIS_API_KEY` point to it, so that pools and clients without a
    platform of their own find it. One server serves all tests of the session; faults and counts are
    those of the test, and no run outlives it.
    """
    platform = _civis_platform.start()  # again, if a test has stopped it
    platform.reset()
    monkeypatch.setenv("CIVIS_API_ENDPOINT", platform.url)
    monkeypatch.setenv("CIVIS_API_KEY", platform.api_key)
    first = list(platform.faults)
    yield platform
    if not platform.running:
        return
    platform.faults.clear()
    platform.faults.add(*first)
    stats = platform.stats()
    if stats.active or stats.queued:
        platform.stop()  # its runs end with it
