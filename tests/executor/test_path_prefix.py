"""A platform with two addresses: one below a path, as behind a gateway, is the client's alone.

Its containers believe what their environment says of the platform, and else what the client says.
"""

from __future__ import annotations

import os

import pytest
from benchmarks.refusing import Refusing

from civis_futures import Container, ContainerPoolExecutor


class Gateway(Refusing):
    """One that refuses nobody, and remembers who asked."""

    def __init__(self, platform):
        super().__init__(platform.url, "", 0, prefix="/gateway/civis")
        self.api_key = platform.api_key
        self.seen = []

    def refuses(self, method, path):
        self.seen.append((method, path))
        return False


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_containers_go_where_their_environment_says(platform, told):
    """On Civis Platform it says nothing, as far as is known."""
    container = Container(setup_cmd=None if told else "unset CIVIS_API_ENDPOINT")
    with Gateway(platform) as gateway:
        data = os.urandom(200_000)  # as a File, in both directions
        with ContainerPoolExecutor(1, platform=gateway, container=container) as executor:
            futures = [executor.submit(bytes.__add__, data, data) for _ in range(2)]
            assert [future.result(60) for future in futures] == [data + data] * 2
            assert futures[0].job_url.startswith(gateway.url + "/")
        # Only workers read the inbox, and theirs was read somewhere.
        read = [
            path for method, path in gateway.seen if method == "GET" and "/json_values/" in path
        ]
        assert bool(read) is not told
