"""What the platform says of itself: to all its user, its spec and its notifications, to its owner
counters, journal and faults. The paths of the latter begin with `/_local/` and are ours, not the
API's; requests to them are neither counted nor limited, and meet no fault.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from .._faults.fault import LINK, Fault, fits
from .._schema import tables
from .._schema.exchange import ApiError, ApiRequest, Reply
from .._schema.fields import refuse
from .._state import USER, Platform

LINK_METHODS = ("GET", "HEAD", "POST", "PUT")
ME: dict[str, Any] = {
    **{name: USER[name] for name in ("id", "name", "username", "initials")},
    "email": "localuser@localhost",
    "lastCheckedAnnouncements": "2026-01-01T00:00:00.000Z",
    "featureFlags": {},
    "roles": ["sdm"],
    "preferences": {
        "default_success_notifications_on": True,
        "default_failure_notifications_on": True,
        "query_preview_rows": 50,
    },
    "customBranding": None,
    "primaryGroupId": 7,
    "groups": [
        {
            "id": 7,
            "name": "Local Group",
            "slug": "local_group",
            "organizationId": 1,
            "organizationName": "Local Organization",
        }
    ],
    "organizationName": "Local Organization",
    "organizationSlug": "local_organization",
    "organizationDefaultThemeId": None,
    "createdAt": "2026-01-01T00:00:00.000Z",
    "signInCount": 0,
    "assumingRole": False,
    "roleAssumer": {},
    "assumingAdmin": False,
    "assumingAdminExpiration": None,
    "superadminModeExpiration": None,
    "disableNonCompliantFedrampFeatures": False,
    "personaRole": None,
    "createdById": None,
    "lastUpdatedById": None,
}


def get_me(_platform: Platform, _request: ApiRequest) -> Reply:
    """GET /users/me: there is one user."""
    return Reply(200, ME)


def get_endpoints(_platform: Platform, _request: ApiRequest) -> Reply:
    """GET /endpoints: the official spec if the official client is here, else our cut of it."""
    return Reply(200, raw=_spec())


@functools.cache
def _spec() -> bytes:
    official = importlib.util.find_spec("civis")
    for folder in (official and official.submodule_search_locations) or []:
        path = Path(folder) / "resources" / "civis_api_spec.json"
        if path.exists():
            return path.read_bytes()
    return tables.SPEC


def get_notifications(_platform: Platform, _request: ApiRequest) -> Reply:
    """GET /notifications: its payload is undocumented, so nothing here pretends to know it."""
    said = "The local platform has no notifications."
    raise ApiError(501, "not_implemented", said)


def get_stats(platform: Platform, _request: ApiRequest) -> Reply:
    """GET /_local/stats: what `LocalPlatform.stats()` returns."""
    counters = platform.counters
    body = {
        **vars(counters),
        "requests": [[*key, count] for key, count in sorted(counters.requests.items())],
        "queued": platform.runner.queued(),
        "active": {str(run): pids for run, pids in platform.runner.active().items()},
    }
    return Reply(200, body)


def post_reset(platform: Platform, _request: ApiRequest) -> Reply:
    """POST /_local/reset: count from zero, with a full rate limit."""
    platform.counters = type(platform.counters)()
    platform.journal = type(platform.journal)()
    platform.budget.reset()
    platform.rules.reset()
    return Reply(204)


def get_requests(platform: Platform, _request: ApiRequest) -> Reply:
    """GET /_local/requests: what `LocalPlatform.requests()` returns."""
    return Reply(200, platform.journal.to_json())


def get_faults(platform: Platform, _request: ApiRequest) -> Reply:
    """GET /_local/faults: each with how often it matched and happened."""
    return Reply(200, platform.rules.to_json())


def post_faults(platform: Platform, request: ApiRequest) -> Reply:
    """POST /_local/faults: take away those in `remove` (null: all), then put those in `add`."""
    if "remove" in request.body:
        gone = request.body["remove"]
        platform.rules.remove(None if gone is None else map(Fault.from_json, gone))
    faults = [Fault.from_json(given) for given in request.body.get("add", ())]
    operations = [*platform.operations, *((method, LINK) for method in LINK_METHODS)]
    for fault in faults:
        # A misspelled path would make a test pass for nothing.
        if not any(fits(fault.on, *operation) for operation in operations):
            raise refuse(f"the local platform has no request that fits {fault.on!r}")
    platform.runner.add_faults(platform.rules.add(faults))
    return Reply(204)
