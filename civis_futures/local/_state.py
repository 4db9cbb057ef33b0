"""The state of a running platform, which every endpoint is given: store, keys, counters, clock.

Only the event loop's thread uses it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ._faults.rules import Rules
from ._journal import Journal
from ._schema.exchange import ApiError, Origin
from ._schema.fields import iso
from ._settings import CA_CERTS_VARIABLE, ENDPOINT_VARIABLE, RUN_KEY_PREFIX, Settings

if TYPE_CHECKING:
    from ._faults.rules import Rule
    from ._limits import Budget
    from ._listening.addresses import Listening
    from ._places.place import Ending, Line
    from ._store import Store

USER: dict[str, Any] = {
    "id": 77,
    "name": "Local User",
    "username": "localuser",
    "initials": "LU",
    "online": True,
}


@dataclasses.dataclass
class Counters:
    """What `LocalPlatform.stats()` reports; see there."""

    requests: collections.Counter[tuple[str, str, str]] = dataclasses.field(
        default_factory=collections.Counter
    )
    refused: int = 0
    runs_started: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0


@dataclasses.dataclass
class Keys:
    """The keys that are valid: the owner's, and one of its own for each active run.

    Where a run has an agent, that has another one: it opens what agents ask for, and nothing else.
    """

    owner: str
    # Part of each run's key: by it, processes of these runs are found by their environment.
    mark: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    runs: dict[str, int] = dataclasses.field(default_factory=dict)
    agents: dict[str, int] = dataclasses.field(default_factory=dict)

    def for_run(self, run_id: int) -> str:
        """Make the key of a run that starts."""
        key = f"{RUN_KEY_PREFIX}-{self.mark}-{secrets.token_hex(16)}"
        self.runs[key] = run_id
        return key

    def forget(self, key: str) -> None:
        """Refuse the key of a run that ended."""
        self.runs.pop(key, None)

    def origin(self, key: str) -> Origin | None:
        """Return whose key this is, None if it is not valid."""
        if hmac.compare_digest(key.encode(), self.owner.encode()):
            return "client"
        return "worker" if key in self.runs else None


#: What a request may wait for: a change of any row of a table, or (table, id) of this one.
Topic = str | tuple[str, int]


class News:
    """Who waits until something is changed."""

    def __init__(self) -> None:
        # By topic: who waits, and the name that each has given ("" if none).
        self._waiting: dict[Topic, dict[asyncio.Future[None], str]] = collections.defaultdict(dict)
        self._names: frozenset[str] = frozenset()
        self._closed = False

    @contextlib.contextmanager
    def only_for(self, names: Collection[str]) -> Iterator[None]:
        """Within it, what changes is news for those with one of these names, if there are any, and
        for those without one.
        """
        self._names = frozenset(names)
        try:
            yield
        finally:
            self._names = frozenset()

    def changed(self, table: str, key: int) -> None:
        """Wake those who wait for this."""
        for topic in (table, (table, key)):
            for waiter, name in self._waiting.get(topic, {}).items():
                if not (waiter.done() or (self._names and name and name not in self._names)):
                    waiter.set_result(None)

    async def wait(self, topics: Collection[Topic], seconds: float, name: str = "") -> bool:
        """Return as soon as one of these changes; False if none did in time, or if none will be
        waited for any more. With a `name`, what changes for others only is waited out.
        """
        if self._closed or seconds <= 0:
            return False
        waiter = asyncio.get_running_loop().create_future()
        for topic in topics:
            self._waiting[topic][waiter] = name
        try:
            done, _ = await asyncio.wait([waiter], timeout=seconds)
        finally:
            for topic in topics:
                del self._waiting[topic][waiter]
                if not self._waiting[topic]:
                    del self._waiting[topic]
        return bool(done) and not self._closed

    def close(self) -> None:
        """End all waits: the server is about to stop."""
        self._closed = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class RunQueue(Protocol):
    """What endpoints need of the runner, which itself needs the state and their documents."""

    def queue(self, run_id: int) -> None:
        """Start this run when there is room."""

    def cancel(self, run_id: int) -> None:
        """End this run, soon."""

    def add_faults(self, rules: list[Rule]) -> None:
        """Let the runs that there are meet new faults."""

    def flush(self, run_id: int) -> None:
        """Store what this run has printed so far."""

    def queued(self) -> int:
        """Return how many runs wait for room."""

    def active(self) -> dict[int, list[int]]:
        """Return the processes of each run."""


class AgentDesk(Protocol):
    """What the endpoints for agents need of the place where the runs are."""

    def give_order(self, run_id: int, agent: str, host: str) -> dict[str, Any]:
        """Return what a run consists of; ApiError if it is another agent's."""

    def take_report(
        self, run_id: int, agent: str, first: int, lines: list[Line], *, termed: bool
    ) -> dict[str, Any]:
        """Keep lines, of which the first has this number; return the answer."""

    def take_ending(self, run_id: int, ending: Ending) -> None:
        """Note how a run ended."""

    async def word(self, run_id: int, agent: str, known: str) -> str:
        """Return what an agent is to do, when that is not what it knows."""

    def leave(self) -> None:
        """End all waits for an answer."""


@dataclasses.dataclass
class Platform:
    """Everything that an endpoint may need."""

    settings: Settings
    store: Store
    keys: Keys
    budget: Budget
    listening: Listening
    ca_certs: str | None = None  # what to believe of us, as PEM; None: there is no TLS
    # Held while the parts of a file become one: an await lies between looking and writing.
    joining: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    counters: Counters = dataclasses.field(default_factory=Counters)
    journal: Journal = dataclasses.field(default_factory=Journal)
    news: News = dataclasses.field(default_factory=News)
    rules: Rules = dataclasses.field(init=False)
    operations: tuple[tuple[str, str], ...] = ()  # (method, path template) of the API
    agents: AgentDesk | None = None
    _runner: RunQueue | None = None
    _late: set[asyncio.Task[None]] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.rules = Rules(self.settings.seed)
        self.store.on_change = self.news.changed

    @property
    def api_url(self) -> str:
        """Return the address for all that ask the API, runs included; no slash at its end."""
        return f"{self._scheme}://{self.listening.api_host}"

    @property
    def blob_url(self) -> str:
        """Return the address that links of files begin with; no slash at its end."""
        return f"{self._scheme}://{self.listening.blob_host}"

    @property
    def _scheme(self) -> str:
        return "http" if self.ca_certs is None else "https"

    def way_here(self) -> dict[str, str]:
        """Return the variables by which a run finds us, wherever it runs."""
        way = {ENDPOINT_VARIABLE: self.api_url}
        return way if self.ca_certs is None else {**way, CA_CERTS_VARIABLE: self.ca_certs}

    @property
    def runner(self) -> RunQueue:
        """Return what runs the containers; it needs this state, so it is attached later."""
        assert self._runner is not None
        return self._runner

    def attach(self, runner: RunQueue) -> None:
        """Set the runner, once."""
        self._runner = runner

    def later(self, seconds: float, act: Callable[[], Awaitable[object]]) -> None:
        """Do something after a delay in seconds; a refusal then has no effect."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            with contextlib.suppress(ApiError):
                await act()

        task = asyncio.create_task(wait())
        self._late.add(task)  # the event loop keeps no strong reference
        task.add_done_callback(self._late.discard)

    def now(self) -> float:
        """Return the platform's time in seconds since the epoch; a fault may set its clock."""
        return time.time() + self.rules.ahead

    def time(self, moment: float | None) -> str | None:
        """Return a time as this platform writes it."""
        return iso(moment, whole_seconds=self.settings.whole_seconds)
