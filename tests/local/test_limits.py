"""The rate limit: what a client sees of it, and that some things are not limited."""

from __future__ import annotations

import pytest

from civis_futures.local import LocalPlatform


def test_without_a_limit_the_headers_say_so(api):
    reply = api("GET", "/users/me")
    assert reply.headers["x-ratelimit-limit"] == "1000000000"
    assert reply.headers["x-ratelimit-remaining"] == "1000000000"


def test_beyond_the_limit_is_429_without_a_description(make, tools):
    platform = make(rate_limit=(4, 1, 2.0))
    api = tools.Api(platform.url, platform.api_key)
    job, _run = api.run()  # one request of each kind
    refused = api("POST", f"/jobs/{job}/runs")
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert refused.headers["x-ratelimit-limit"] == "1"
    assert "errorDescription" not in refused.body
    left = [api("GET", "/users/me").headers["x-ratelimit-remaining"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    assert api("GET", "/users/me").status == 429
    assert platform.stats().refused == 2  # which is not limited itself
    # The window slides on.
    tools.until(lambda: api("POST", f"/jobs/{job}/runs").status == 201)
    platform.reset()
    assert api("GET", "/users/me").headers["x-ratelimit-remaining"] == "3"


def test_file_links_are_not_limited(make, tools):
    platform = make(rate_limit=(3, 1))
    api = tools.Api(platform.url, platform.api_key)
    made = api.ok("POST", "/files/multipart", {"name": "x", "numParts": 1})
    for _ in range(5):
        assert tools.call(made["uploadUrls"][0], "PUT", b"x").status == 200
    assert api("GET", "/users/me").headers["x-ratelimit-remaining"] == "1"


def test_civis_is_the_platforms_own_limit(make, tools):
    platform = make(rate_limit="civis")
    api = tools.Api(platform.url, platform.api_key)
    assert api("GET", "/users/me").headers["x-ratelimit-limit"] == "1000"
    job = api.create()
    assert api("POST", f"/jobs/{job}/runs").headers["x-ratelimit-limit"] == "100"


@pytest.mark.parametrize(
    "settings",
    [
        {"rate_limit": "other"},
        {"rate_limit": (1,)},
        {"rate_limit": (0, 1)},
        {"rate_limit": 5},
        {"cores": 0},
        {"cores": -1},
        {"memory": 0},
        {"start_delay": -1},
        {"start_delay": float("inf")},
        {"port": -1},
        {"port": 65536},
        {"hidden_lists": "some"},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LocalPlatform(**settings)
