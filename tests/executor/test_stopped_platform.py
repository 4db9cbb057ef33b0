"""A local platform that its own process has stopped: nothing of it is waited for."""

from __future__ import annotations

import dataclasses
import gc

import pytest
from tasks import slept

from civis_futures import BrokenContainerPool, ContainerPoolExecutor
from civis_futures._pacing import default_pacing, set_default_pacing
from civis_futures.local import LocalPlatform


@pytest.fixture
def patient():
    """Whoever waits for the platform waits for an hour."""
    before = default_pacing()
    set_default_pacing(dataclasses.replace(before, last_patience=3600.0, outage=7200.0))
    yield
    set_default_pacing(before)


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_shutdown_is_at_once_and_says_why(patient, until, forgotten):
    platform = LocalPlatform().start()
    executor = ContainerPoolExecutor(1, platform=platform)
    done = executor.submit(abs, -1)
    assert done.result() == 1
    running = executor.submit(slept, 1000)
    until(running.running)
    if forgotten:
        del platform
        gc.collect()
    else:
        platform.stop()
    executor.shutdown()
    assert done.result() == 1
    with pytest.raises(BrokenContainerPool, match="the local platform was stopped"):
        running.result()
