"""All sessions of a user: listed, and removed."""

from __future__ import annotations

import re
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._container.container import Container
from .._exceptions import PlatformError
from .._types import Job, TaskId

if TYPE_CHECKING:
    from .._api.client import PlatformClient
    from .._pool.mailbox import Mailbox
    from .recovery import Findings

#: What a session may be called.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,98}[A-Za-z0-9._-])?")


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session on the platform.

    `created` is in seconds since the epoch. `holder` names the process that has it open, if one
    has. `answered` is the number of tasks that have ended, `held` that of tasks which a container
    has been given and which have not ended, and `runs` that of containers that are queued or run.
    """

    name: str
    created: float
    holder: str | None
    answered: int
    held: int
    runs: int


def sessions(platform: Any = None) -> list[SessionInfo]:
    """Your sessions, sorted by name. It makes requests for each of their containers.

    Args:
        platform: as for `ContainerPoolExecutor`; ``"local"`` is not possible.

    Raises:
        CredentialsError: there is no key.
        PlatformError: the platform cannot be reached, or refuses.
    """
    with closing(_client(platform)) as client:
        return listed(client)


def purge(name: str, platform: Any = None) -> None:
    """Remove a session: its containers are stopped, and its results cannot be found any more.

    Args:
        name: the name of the session.
        platform: as for `ContainerPoolExecutor`; ``"local"`` is not possible.

    Raises:
        LookupError: there is no session of that name.
        SessionInUseError: a process has it open.
        TypeError, ValueError: the name is not allowed.
        CredentialsError: there is no key.
        PlatformError: the platform cannot be reached, or refuses.
    """
    checked_name(name)
    with closing(_client(platform)) as client:
        remove(client, name)


def results(name: str, platform: Any = None, *, user: int | None = None) -> dict[int, Future[Any]]:
    """The results of a session so far. It may be open in any process, and is not changed.

    Returns a dict with a future that is done for each call that has ended. Its keys are the
    numbers of the calls, which count from 0 in the order of submission. Calls that were lost or
    cancelled, or have not ended, are not in it. To unpickle a result can run code of the person
    who made it, so only read sessions of people you trust.

    Args:
        name: the name of the session.
        platform: as for `ContainerPoolExecutor`; ``"local"`` is not possible.
        user: the id of the user whose session it is, if it is not yours. You must be allowed to
            see that user's scripts. (Users may have sessions of the same name.)

    Raises:
        LookupError: there is no session of that name.
        TypeError, ValueError: the name is not allowed.
        CredentialsError: there is no key.
        PlatformError: the platform cannot be reached, or refuses; or a result is in a File that
            has expired.
    """
    checked_name(name)
    with closing(_client(platform)) as client:
        return read(client, name, user)


def read(client: PlatformClient, name: str, user: int | None = None) -> dict[int, Future[Any]]:
    """As `results`, over a client."""
    from .._pool.mailbox import Mailbox
    from .anchor import anchors
    from .holding import heads, latest
    from .session import gather

    head = latest(heads(client, anchors(client, name, user)))
    if head is None:
        of = "" if user is None else f" of user {user}"
        raise LookupError(f"there is no session {name!r}{of}")
    mailbox = Mailbox(client, Container(), key=head.key)
    found, _ = gather(client, head, mailbox)
    return {
        int(task): _ended(client, mailbox, found, task)
        for task, each in sorted(found.found.items())
        if each.answer is not None
    }


def _ended(client: PlatformClient, mailbox: Mailbox, found: Findings, task: TaskId) -> Future[Any]:
    """The future of a call that has ended."""
    from .._pool.outcomes import CallPlace, outcome_from

    ended = found.found[task]
    worker_run, answer = found.inheritance.worker_runs[ended.worker], ended.answer
    assert answer is not None, "it has ended"
    name = f"{found.keys.get(task, '').partition('/')[0] or 'a call'} (task {task})"
    job, run = worker_run.job, worker_run.run_id
    place = CallPlace(name, "its image", job.id, run, client.job_url(job))
    data = None if answer.data is None else mailbox.fetch(answer.data)
    outcome, future = outcome_from(answer, data, place)(), Future[Any]()
    if outcome.exception is not None:
        future.set_exception(outcome.exception)
    else:
        future.set_result(outcome.result)
    return future


def listed(client: PlatformClient) -> list[SessionInfo]:
    """As `sessions`, over a client."""
    from .anchor import anchors

    names = sorted({anchor.session for anchor in anchors(client)})
    return [info for name in names if (info := _info(client, name)) is not None]


def _info(client: PlatformClient, name: str) -> SessionInfo | None:
    from .._pool.mailbox import Mailbox
    from .anchor import anchors
    from .holding import heads, latest
    from .session import gather

    head = latest(heads(client, anchors(client, name)))
    if head is None:  # removed meanwhile
        return None
    found, _ = gather(client, head, Mailbox(client, Container(), key=head.key))
    holder, now = head.holder, client.clock.now()
    gone = holder is None or holder.gone(now, client.pacing.holder_gone)
    held_by = None if gone else str(holder)
    alive = sum(not worker.state.over for worker in found.workers)
    return SessionInfo(name, head.created, held_by, found.answered, found.held, alive)


def remove(client: PlatformClient, name: str) -> None:
    """As `purge`, over a client."""
    from .anchor import anchors
    from .holding import heads, latest, raise_if_held
    from .session import newest_workers

    known = heads(client, anchors(client, name))
    if not known:
        raise LookupError(f"there is no session {name!r}")
    raise_if_held(name, known, client.clock.now(), client.pacing.holder_gone)
    for anchor, head in known.items():
        anchor.take(client, head.kind)
    last = latest(heads(client, known))  # nothing is added to it any more
    if last is not None:
        for entry in last.workers:
            if not entry.over:
                _end(client, Job(entry.job, last.kind))
        for _, row in newest_workers(client, last):  # such as no head knows of
            _end(client, Job(row.job_id, last.kind))
    for anchor, head in known.items():
        client.archive(Job(anchor.number, head.kind))


def _end(client: PlatformClient, job: Job) -> None:
    run = client.latest_run(job)
    if run is not None and not run.state.over:
        client.cancel_run(job, run.id)
    try:
        client.archive(job)
    except PlatformError as error:
        if error.status != 404:
            raise


def _client(platform: Any) -> PlatformClient:
    from .._api.client import PlatformClient, access  # slow to import

    return PlatformClient(*access(platform))


def checked_name(name: object) -> str:
    """The name of a session; TypeError or ValueError if it cannot be one."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a session must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 100 else f"{name[:40]}... ({len(name)} characters)"
        raise ValueError(
            f"{shown!r} cannot be the name of a session: it has 1 to 100 characters, of the "
            "letters A to Z and a to z, digits, dots, dashes, underscores and, inside, spaces; the "
            "first is a letter or a digit"
        )
    return name
