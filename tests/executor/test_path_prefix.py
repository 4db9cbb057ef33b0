"""A platform below a path, as behind a gateway: the client and its containers find it there."""

from __future__ import annotations

import os

from benchmarks.refusing import Refusing

from civis_futures import ContainerPoolExecutor


def test_a_platform_below_a_path(platform):
    with Refusing(platform.url, "", 0, prefix="/gateway/civis") as gateway:
        gateway.api_key = platform.api_key
        data = os.urandom(200_000)  # as a File, in both directions
        with ContainerPoolExecutor(1, platform=gateway) as executor:
            futures = [executor.submit(bytes.__add__, data, data) for _ in range(2)]
            assert [future.result(60) for future in futures] == [data + data] * 2
            assert futures[0].job_url.startswith(gateway.url + "/")
