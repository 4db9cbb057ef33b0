"""What the owner asks of a running platform: its counters, its log, its faults. Ours, not the API.

These requests are neither counted nor limited, and meet no fault.
"""

from __future__ import annotations

from .._faults.words import LINK, Fault, fits
from .._schema.exchange import Ask, Reply
from .._schema.fields import refuse
from .._site import Site

LINK_METHODS = ("GET", "HEAD", "POST", "PUT")


def get_stats(site: Site, _ask: Ask) -> Reply:
    """GET /_local/stats: what `LocalPlatform.stats()` returns."""
    counters = site.counters
    body = {
        "requests": [[*key, count] for key, count in sorted(counters.requests.items())],
        "refused": counters.refused,
        "runs_started": counters.runs_started,
        "uploads": counters.uploads,
        "upload_bytes": counters.upload_bytes,
        "downloads": counters.downloads,
        "download_bytes": counters.download_bytes,
        "queued": site.runner.queued(),
        "active": {str(run): pids for run, pids in site.runner.active().items()},
    }
    return Reply(200, body)


def post_reset(site: Site, _ask: Ask) -> Reply:
    """POST /_local/reset: count from zero, with a full rate limit."""
    site.counters = type(site.counters)()
    site.journal = type(site.journal)()
    site.budget.reset()
    site.rules.reset()
    return Reply(204)


def get_requests(site: Site, _ask: Ask) -> Reply:
    """GET /_local/requests: what `LocalPlatform.requests()` returns."""
    return Reply(200, site.journal.told())


def get_faults(site: Site, _ask: Ask) -> Reply:
    """GET /_local/faults: each with its books."""
    return Reply(200, site.rules.told())


def post_faults(site: Site, ask: Ask) -> Reply:
    """POST /_local/faults: take away those in `remove` (null: all), then put those in `add`."""
    if "remove" in ask.body:
        gone = ask.body["remove"]
        site.rules.remove(None if gone is None else map(Fault.from_json, gone))
    faults = [Fault.from_json(given) for given in ask.body.get("add", ())]
    operations = [*site.operations, *((method, LINK) for method in LINK_METHODS)]
    for fault in faults:
        # A misspelled path would make a test pass for nothing.
        if not any(fits(fault.on, *operation) for operation in operations):
            raise refuse(f"the local platform has no request that fits {fault.on!r}")
    site.runner.meet(site.rules.add(faults))
    return Reply(204)
