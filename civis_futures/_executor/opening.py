"""Puts together what one pool consists of: platform, client, mailbox, scheduler, manager."""

from __future__ import annotations

import secrets
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from .._api.budget import RateBudget, platform_clock
from .._api.client import LogSource, PlatformClient, access
from .._api.credentials import Access
from .._container.container import Container, Template, job_kind
from .._data.own import OwnModules
from .._data.pickling import Payload, initial_payload, with_modules
from .._data.unpickling import loaded_call
from .._exceptions import BrokenContainerPool
from .._files.contents import Content, ContentStore, SentCall, Value, content_store
from .._futures.logs import LogAccess
from .._pacing import default_pacing
from .._pool.mailbox import Mailbox
from .._pool.manager import Manager, Pool
from .._pool.threads import end_pools_on_term
from .._scheduling.events import Attached, InboxInDoubt, TerminateRequested
from .._scheduling.scheduler import Scheduler
from .._sessions.session import Session, attach
from .._wire import pool_name
from .options import PoolOptions


@dataclass(frozen=True, slots=True)
class Opened:
    """A pool at work; the logs of its runs; how to load a call; a new link to the platform's page,
    if that has one which the key opens.
    """

    manager: Manager
    url: str
    logs: LogAccess
    load: Callable[[SentCall], Callable[[], Any]]
    own_modules: OwnModules
    session: Session | None = None
    page: Callable[[], str] | None = None


def open_pool(options: PoolOptions) -> Opened:
    """The pool of one executor. Contacts no platform, but to open a session, and starts a local one
    if asked to.

    Raises:
        CredentialsError: there is no key, and no platform either.
        CallPicklingError: the initializer cannot be pickled.
        ValueError: a session was asked for on a platform that ends with the executor.
    """
    container, policy, session = options.runs_in, options.policy, options.session
    owned = _local_platform(session) if options.platform == "local" else None
    try:
        way = access(options.platform if owned is None else owned)
        url, key = way.url, way.key
        contents = content_store(url, key, platform_clock(url).now)
        own_modules = OwnModules(contents, options.include, options.exclude, options.code)
        initial = initializer_call(options, contents)
        if initial.data:
            initial = with_modules("the initializer", initial, own_modules)
        client, attached = PlatformClient(*way), None
        own = client.is_local or way.direct
        if isinstance(container, Container) and container.doubt and not own:
            warnings.warn(container.doubt, UserWarning, stacklevel=3)
        if session:
            second = PlatformClient(*way, budget=client.budget)
            attached = attach(second, session, container)
    except BaseException:
        if owned is not None:
            owned.stop()
        raise
    seal_key = secrets.token_hex(32) if attached is None else attached.head.key
    manager = Manager(
        scheduler=Scheduler(policy, default_pacing()),
        mailbox=Mailbox(client, container, attached, seal_key),
        client=client,
        pool=Pool(pool_name(options.title, session), url, container, initial),
        contents=contents,
        at_end=_enders(attached, owned),
        stopped=_asks_whether_stopped(options.platform),
    )
    if attached is not None:
        _hand_over(attached, manager)
    manager.start()
    end_pools_on_term()
    reader = _Reader(way, container, client.budget)
    logs = LogAccess(reader.logs, reused=policy.max_tasks_per_worker != 1)
    page = reader.page if own else None
    return Opened(manager, url, logs, reader.call, own_modules, attached, page)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads logs and calls, also after the pool is gone, hence over clients of its own."""

    way: Access = field(repr=False)
    container: Container | Template
    budget: RateBudget

    def logs(self) -> LogSource:
        """The logs of this pool's kind of jobs."""
        client = PlatformClient(*self.way, budget=self.budget)
        return LogSource(client, job_kind(self.container))

    def page(self) -> str:
        """A link that opens the pages of a local platform once; made without a request."""
        from ..local._pages.tickets import page_link

        return page_link(self.way.url.rstrip("/"), self.way.key, time.time())

    def call(self, sent: SentCall) -> Callable[[], Any]:
        """What a call would run, as a function without arguments."""
        with closing(PlatformClient(*self.way)) as client:
            fetch = Mailbox(client, self.container).fetch
            needed = sent.buffers[: len(sent.buffers) - sent.code]  # the modules are here
            buffers = [_data_of(each) or fetch(each.blob) for each in needed]
            data = sent.data if sent.blob is None else fetch(sent.blob)
            return loaded_call(data or b"", buffers)


def _data_of(buffer: Content | Value) -> bytes | None:
    """The bytes of a part of a call, if they are here."""
    if isinstance(buffer, Value) or buffer.ready:
        return None
    return buffer.data or b""


def initializer_call(options: PoolOptions, contents: ContentStore) -> Payload:
    """What is asked for as a call; empty if nothing is."""
    if options.initializer is None:
        return Payload(b"")
    arguments = tuple(options.initargs)
    return initial_payload(options.initializer, arguments, contents, options.shared_from)


def _hand_over(session: Session, manager: Manager) -> None:
    """Give the manager what earlier processes have left, for as long as the session is ours."""
    found = session.findings
    manager.post(Attached(found.workers, found.highest_id), found.inheritance)

    def lost(error: Exception) -> None:
        manager.post(TerminateRequested(BrokenContainerPool(str(error)), leave=True))

    session.start(lost, lambda: manager.post(InboxInDoubt()))


def _enders(session: Session | None, owned: Any) -> Callable[[], None]:
    """What is to be done when the manager has ended."""

    def end() -> None:
        if session is not None:
            session.close()
        if owned is not None:
            owned.stop()

    return end


def _asks_whether_stopped(platform: Any) -> Callable[[], bool]:
    """Whether a `LocalPlatform` of this process has ended. It is not kept alive for that."""
    if not isinstance(getattr(platform, "running", None), bool):
        return lambda: False
    reference = weakref.ref(platform)

    def stopped() -> bool:
        there = reference()
        return there is None or not there.running

    return stopped


def _local_platform(session: str | None) -> Any:
    if session:
        raise ValueError(
            'a session outlives its executor, and platform="local" does not: start a platform with '
            "`civis-futures local`, or pass a LocalPlatform of your own"
        )
    try:
        from ..local import LocalPlatform
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"platform='local' needs {error.name}: pip install 'civis-futures[local]'",
            name=error.name,
        ) from error
    platform = LocalPlatform()
    platform.start()
    return platform
