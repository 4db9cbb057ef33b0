"""Requests to a platform by hand: what tests see is not what our own client makes of it."""

from __future__ import annotations

import json
import urllib.request


def ask(platform, method, path, body=None):
    """What the platform answers, from JSON; HTTPError if it refuses."""
    headers = {"Authorization": f"Bearer {platform.api_key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(platform.url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read() or b"null")


def get(platform, path):
    """The same for GET."""
    return ask(platform, "GET", path)
