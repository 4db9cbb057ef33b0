"""Puts the rooms of one pool together: platform, client, mailbox, scheduler, manager."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ._api import PlatformClient, credentials
from ._mailbox import Mailbox
from ._manager import Manager, Pool
from ._scheduler import Scheduler
from ._script import job_kind
from ._serialize import load_call
from ._state import Policy
from ._types import Container, Job, LogLine, Template
from ._wire import Blob

#: How much of a log `ContainerFuture.logs` reads: what the platform gives at a time.
LOG_LINES = 10_000


@dataclass(frozen=True, slots=True)
class Opened:
    """A pool at work; how to read the log of a (job, run) of its kind; how to load a call."""

    manager: Manager
    url: str
    read_logs: Callable[[int, int], list[LogLine]]
    load: Callable[[Blob], Callable[[], Any]]


def open_pool(
    *,
    platform: Any,
    name: str,
    container: Container | Template,
    initializer: bytes | None,
    policy: Policy,
) -> Opened:
    """The pool of one executor. Contacts no platform, but starts a local one if asked to.

    Raises:
        CredentialsError: there is no key, and no platform either.
    """
    owned = None
    if platform == "local":
        owned = platform = _local_platform()
    try:
        url, key = credentials(platform)
        client = PlatformClient(url, key)
    except BaseException:
        if owned is not None:
            owned.stop()
        raise
    manager = Manager(
        scheduler=Scheduler(policy),
        mailbox=Mailbox(client, container),
        client=client,
        pool=Pool(name, url, container, initializer, policy.lease),
        at_end=(lambda: None) if owned is None else owned.stop,
    )
    kind = job_kind(container)

    def read_logs(job_id: int, run_id: int) -> list[LogLine]:
        # A client of its own: logs are read after the pool is gone, too.
        with closing(PlatformClient(url, key)) as reader:
            return reader.list_logs(Job(job_id, kind), run_id, limit=LOG_LINES)

    def load(call: Blob) -> Callable[[], Any]:
        with closing(PlatformClient(url, key)) as reader:
            return load_call(Mailbox(reader, container).fetch(call))

    manager.start()
    return Opened(manager, url, read_logs, load)


def _local_platform() -> Any:
    try:
        from .local import LocalPlatform
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"platform='local' needs {error.name}: pip install 'civis-futures[local]'",
            name=error.name,
        ) from error
    platform = LocalPlatform()
    platform.start()
    return platform
