"""One executor for what looks at tasks from outside."""

from __future__ import annotations

import pytest

from civis_futures import ContainerPoolExecutor


@pytest.fixture(scope="session")
def shared(platform):
    """An executor that no test may shut down."""
    with ContainerPoolExecutor(3, platform=platform, idle_timeout=30, name="front") as executor:
        yield executor
