"""Where logs are read from: a client, for one kind of jobs. It knows nothing of what is in them."""

from __future__ import annotations

import functools

from ._api import PlatformClient
from ._exceptions import PlatformError
from ._types import Job, JobKind, LogPage


class LogSource:
    """The logs of one kind of jobs, over a client of its own, which it closes.

    Reading them gives way to other requests: somebody may follow many for hours.
    """

    def __init__(self, client: PlatformClient, kind: JobKind) -> None:
        self._client = client
        self._kind = kind

    @property
    def pace(self) -> float:
        """Seconds per request that the budget sustains."""
        return self._client.budget.pace

    def page(self, job_id: int, run_id: int, last_id: int | None, limit: int) -> LogPage:
        """Some lines of a run's log; patient only where trouble may pass."""
        job = Job(job_id, self._kind)
        read = functools.partial(self._client.log_page, job, run_id, limit=limit, last_id=last_id)
        try:
            return read(look=True)
        except PlatformError as error:
            if error.status is not None and 400 <= error.status < 500 and error.status != 429:
                raise
            return read()

    def close(self) -> None:
        """Close the client."""
        self._client.close()
