"""LocalPlatform: the owner's side. It starts the server's process, knows where it is, and ends it.
It adds faults to a running platform, takes them away, and asks how often they happened.

The server is reached through HTTP only; the pipe to it carries the key and the settings once and
then nothing: that it is open is what keeps the server alive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import numbers
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from ._engines.options import Engine, chosen
from ._faults.fault import Fault, fits
from ._journal import Request
from ._listening.addresses import unclear
from ._listening.certificates import MAKER, connection, needs_maker
from ._pages.tickets import page_link
from ._schema.exchange import Origin
from ._settings import MAX_FILE_BYTES, Settings

CIVIS_LIMIT = (1000, 100, 300.0)  # requests and run starts in how many seconds
NEEDED = ("psutil", "python_multipart", "starlette", "uvicorn")

RateLimit = Literal["civis"] | tuple[int, int] | tuple[int, int, float] | None

Send = Callable[..., Any]  # (method, path, body) -> the server's answer
PATH = "/_local/faults"


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a platform did since it started, or since `LocalPlatform.reset()`.

    `requests` counts API requests by (method, path template, "client" or "worker"): a request is
    a worker's if it came with the key that its run was given. File links are counted apart.
    `active` has the process ids of each run that runs now.
    """

    requests: Mapping[tuple[str, str, str], int]
    refused: int
    runs_started: int
    uploads: int
    upload_bytes: int
    downloads: int
    download_bytes: int
    queued: int
    active: Mapping[int, tuple[int, ...]]

    def count(
        self, method: str | None = None, path: str | None = None, origin: str | None = None
    ) -> int:
        """Return how many requests there were of one method, path template or origin."""
        wanted = (method, path, origin)
        return sum(
            count
            for key, count in self.requests.items()
            if all(want is None or want == have for want, have in zip(wanted, key, strict=True))
        )


class LocalPlatform:
    """Civis Platform's API on this machine. Each container run is a process, or a job of an engine.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. Give it to a
    ``ContainerPoolExecutor`` as ``platform``, or point any client at it with the environment
    variables ``CIVIS_API_ENDPOINT`` (:attr:`url`) and ``CIVIS_API_KEY`` (:attr:`api_key`)::

        with LocalPlatform() as platform:
            ...

    It listens on loopback only, unless you `advertise` it. Whoever has the key can run commands
    with your rights. It ends with the process that started it, and leaves no process behind.

    Args:
        engine: What runs the containers: `"process"` (processes of this machine), `"podman"`,
            `"docker"` or `"slurm"`; or one of these with options, as in `Podman(network="host")`.
        port: The port to listen on; 0 takes a free one. Links to files use another port, which is
            always a free one.
        advertise: A name or IP address of this machine that other machines can use. The platform
            then listens at that address only. It needs TLS there: with `certificate`, or with a
            certificate that it makes itself (which takes the extra `tls`), unless `plain_http` is
            True. By default, it listens on loopback, so only this machine can reach it.
        certificate: A file with the certificate for `advertise` in PEM format, and perhaps those
            by which it is signed. Clients and runs trust the certificates in it.
        private_key: The file of the certificate's private key. Others must not be able to read it.
        plain_http: Whether to speak to other machines without TLS. Then anyone who can read that
            network's traffic sees keys and pickles, and anyone who can change it runs code as you.
        state: A folder for scripts, runs, files and the key, so that they survive a restart. Runs
            that were active then have failed, unless their engine can go on with them. By
            default, it is a temporary folder, which is removed at the end.
        cores: How many cores all runs together may use, by their `requiredResources.cpu`, of which
            up to 1024 count as one core. Runs that do not fit wait, in order; a run that asks for
            more than `cores` runs alone. By default, there is no limit, as in a process pool.
        memory: How many MB all runs together may use, by their `requiredResources.memory`. By
            default, there is no limit. (Each run's own limit is always enforced.)
        start_delay: Seconds for which each run stays queued, at least.
        rate_limit: `"civis"` for Civis Platform's limits (1000 requests and 100 run starts per
            300 s), or a tuple of requests, run starts and perhaps seconds. By default, there is no
            limit.
        hold: Seconds for which a request may wait for news, if it asks for that, at most. With 0,
            or with a `rate_limit`, no request can.
        max_file_size: The most bytes in one upload.
        environment: Additional variables for all runs.
        record: A file to which each exchange is appended as a line of JSON, without the key.
        log: A file for the server's own messages. By default, they are shown if it does not start.
        hidden_lists: Whether a list that is asked for hidden items returns "only" those, or "also"
            those. The Platform's documentation does not say which.
        updated_at_follows_runs: Whether a change of a run's state changes the `updatedAt` of its
            job. The documentation does not say this either.
        whole_seconds: Whether times have no milliseconds, as in all recorded examples.
        faults: What goes wrong from the start; see `Fault` and :attr:`faults`.
        seed: A number for the chance of faults: with the same seed and the same requests, the
            same faults happen.
    """

    def __init__(
        self,
        *,
        engine: str | Engine = "process",
        port: int = 0,
        advertise: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
        private_key: str | os.PathLike[str] | None = None,
        plain_http: bool = False,
        state: str | os.PathLike[str] | None = None,
        cores: float | None = None,
        memory: int | None = None,
        start_delay: float = 0.0,
        rate_limit: RateLimit = None,
        hold: float = 20.0,
        max_file_size: int = MAX_FILE_BYTES,
        environment: Mapping[str, str] | None = None,
        record: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | None = None,
        hidden_lists: Literal["only", "also"] = "only",
        updated_at_follows_runs: bool = False,
        whole_seconds: bool = False,
        faults: Iterable[Fault] = (),
        seed: int = 0,
    ) -> None:
        """Check the settings; nothing is started yet."""
        asked = locals()
        given = {field.name: asked[field.name] for field in dataclasses.fields(Settings)}
        for name in ("certificate", "private_key", "state", "record"):
            given[name] = _absolute(given[name])
        given["rate_limit"] = _rate_limit(rate_limit)
        given["environment"] = _variables(environment)
        given["engine"] = chosen(engine).to_json()
        self._settings = Settings(**given)
        _check(self._settings)
        self._log = None if log is None else Path(log).absolute()
        self._first_faults = tuple(faults)
        for fault in self._first_faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"faults must be Faults, not {fault!r}")
        # Guards the five below against start and stop from two threads. Starting and stopping
        # wait under it, on purpose: the second caller has nothing to do before the first is done.
        self._lock = threading.Lock()
        self._key: str | None = None
        self._url: str | None = None
        self._ca_certs: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def url(self) -> str:
        """The address of the API, for `CIVIS_API_ENDPOINT`."""
        if self._url is None:
            raise RuntimeError("the local platform is not running: start() it, or use `with`")
        return self._url

    @property
    def advertised(self) -> bool:
        """Whether other machines may reach it."""
        return self._settings.advertise is not None

    @property
    def api_key(self) -> str:
        """The key that opens it, for `CIVIS_API_KEY`."""
        if self._url is None or self._key is None:
            raise RuntimeError("the local platform is not running: start() it, or use `with`")
        return self._key

    @property
    def page(self) -> str:
        """A link that shows jobs, runs and logs in a browser, read-only. Makes no request.

        The link can be opened once, within ten minutes. After that, all links to this platform
        work in that browser. Each use of this property makes a new link. It does not have the key
        in it.
        """
        return page_link(self.url, self.api_key, time.time())

    @property
    def ca_certs(self) -> str | None:
        """The certificates by which it is trusted, for `CIVIS_FUTURES_CA_CERTS`, as PEM text.

        None if it does not use TLS. They are not secret.
        """
        if self._url is None:
            raise RuntimeError("the local platform is not running: start() it, or use `with`")
        return self._ca_certs

    @property
    def cores(self) -> float:
        """How many cores all runs together may use; without a limit, those of this machine."""
        return self._settings.cores or float(os.cpu_count() or 1)

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> LocalPlatform:
        """Start the server's process and wait until it answers. Does nothing if it runs already.

        Raises:
            RuntimeError: it does not start; the message says why.
            ImportError: packages of the extra `local` are missing.
        """
        _check_installed(self._settings)
        with self._lock:
            if self.running:
                return self
            if self._finalizer is not None:
                self._finalizer()  # it died; what it left open is closed
            self._key = _key(self._settings.state)
            self._process, where = _launch(self._settings, self._key, self._log)
            self._url, self._ca_certs = where["url"], where["ca_certs"]
            # At exit, or when this object is forgotten. It must not refer to this object.
            self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
            try:
                self.faults.add(*self._first_faults)
            except BaseException:
                self._forget()
                raise
        return self

    def stop(self) -> None:
        """Stop the server and all runs. Does nothing if it is not running."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._finalizer = self._process = self._url = self._ca_certs = None

    def __enter__(self) -> LocalPlatform:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<LocalPlatform {self._url or 'not running'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LocalPlatform owns a process and a key and is not pickled; pass its url")

    def stats(self) -> Stats:
        """Return what the platform has done so far. This request itself is not counted."""
        stats = self._ask("GET", "/_local/stats")
        requests = {(method, path, who): n for method, path, who, n in stats.pop("requests")}
        active = {int(run): tuple(pids) for run, pids in stats.pop("active").items()}
        return Stats(requests=requests, active=active, **stats)

    @property
    def faults(self) -> Faults:
        """What goes wrong: an iterable with ``add``, ``remove``, ``clear``, ``hits``, ``seen``."""
        return Faults(self._ask)

    @contextlib.contextmanager
    def fault(self, fault: Fault) -> Iterator[Fault]:
        """Add a fault for the time of a `with` block."""
        self.faults.add(fault)
        try:
            yield fault
        finally:
            if self.running:
                self.faults.remove(fault)

    def requests(
        self, on: str = "*", *, origin: Origin | None = None, fault: Fault | None = None
    ) -> list[Request]:
        """Return the requests since the start or `reset()`, in the order of their answers.

        Only the newest 100,000 are kept.

        Args:
            on, origin: which requests, as in `Fault`.
            fault: only requests that met this fault.
        """
        return [
            request
            for request in map(Request.from_json, self._ask("GET", "/_local/requests"))
            if fits(on, request.method, request.path)
            and origin in (None, request.origin)
            and (fault is None or request.fault == fault)
        ]

    def reset(self) -> None:
        """Set all counts to zero, those of the rate limit and of the faults included."""
        self._ask("POST", "/_local/reset")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        with contextlib.closing(connection(self.url, self.ca_certs)) as server:
            sent = None if body is None else json.dumps(body, default=_plain_number)
            headers = {"Authorization": f"Bearer {self.api_key}"}
            server.request(method, path, sent, headers)
            response = server.getresponse()
            found = response.read()
            if response.status == 400:
                raise ValueError(json.loads(found)["errorDescription"])
            if response.status >= 300:
                raise RuntimeError(f"the local platform answered {response.status} to {path}")
        return json.loads(found) if found else None


def _check(settings: Settings) -> None:
    """Raise TypeError or ValueError for what makes no sense."""
    for name in ("port", "cores", "memory", "start_delay", "hold", "max_file_size", "seed"):
        value = getattr(settings, name)
        if not isinstance(value, numbers.Real | None) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number, not {value!r}")
    for name in ("plain_http", "updated_at_follows_runs", "whole_seconds"):
        value = getattr(settings, name)
        if not isinstance(value, bool):  # any text would be True, "no" as well
            raise TypeError(f"{name} must be True or False, not {value!r}")
    if problem := unclear(settings):
        raise ValueError(problem)
    rules = (
        ("cores", settings.cores is None or settings.cores > 0, "must be positive"),
        ("memory", settings.memory is None or settings.memory > 0, "must be positive"),
        ("start_delay", 0 <= settings.start_delay < float("inf"), "must not be negative"),
        ("hold", 0 <= settings.hold < float("inf"), "must not be negative"),
        ("port", 0 <= settings.port < 65536, "must be between 0 and 65535"),
        ("max_file_size", settings.max_file_size > 0, "must be positive"),
        ("hidden_lists", settings.hidden_lists in ("only", "also"), 'must be "only" or "also"'),
    )
    for name, is_right, rule in rules:
        if not is_right:
            raise ValueError(f"{name} {rule}, not {getattr(settings, name)!r}")


def _rate_limit(given: RateLimit) -> tuple[int, int, float] | None:
    if given is None:
        return None
    if given == "civis":
        return CIVIS_LIMIT
    if isinstance(given, tuple) and len(given) in (2, 3) and all(number > 0 for number in given):
        general, runs, *seconds = given
        return int(general), int(runs), float(seconds[0]) if seconds else CIVIS_LIMIT[2]
    raise ValueError(f'rate_limit must be "civis" or (requests, runs[, seconds]), not {given!r}')


def _variables(environment: Mapping[str, str] | None) -> dict[str, str]:
    given = {} if environment is None else environment
    if not isinstance(given, Mapping):
        raise TypeError(f"environment must be a mapping, not {given!r}")
    for item in given.items():
        if not all(isinstance(text, str) for text in item):
            raise TypeError(f"environment must contain only str, not {item[0]!r}: {item[1]!r}")
    return dict(given)


def _plain_number(value: Any) -> float:
    """One of NumPy's as JSON takes it."""
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    raise TypeError(f"not JSON: {value!r}")


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _check_installed(settings: Settings) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'the local platform needs {", ".join(missing)}: pip install "civis-futures[local]"'
        )
    if needs_maker(settings) and importlib.util.find_spec(MAKER) is None:
        raise ImportError(
            f"there is no certificate for {settings.advertise}: give certificate and private_key, "
            f'or pip install "civis-futures[tls]" to have one made, or choose plain_http'
        )
    if os.name != "posix":
        raise RuntimeError("the local platform runs on Linux and macOS only")


def _key(state: str | None) -> str:
    """Return a new key, or the one that belongs to a state folder."""
    fresh = secrets.token_urlsafe(32)
    if state is None:
        return fresh
    path = Path(state) / "key"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path.parent)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(fresh)
        return path.read_text().strip() or fresh
    except OSError as error:
        raise RuntimeError(f"the local platform cannot use {state}: {error}") from None


def _check_private(state: Path) -> None:
    """Refuse a folder that others own or can write to: they could replace the key or database."""
    about = state.stat()
    if about.st_uid != os.getuid():
        raise RuntimeError(
            f"the local platform cannot use {state}: it belongs to another user. Choose a folder "
            "of your own"
        )
    if about.st_mode & 0o022:
        raise RuntimeError(
            f"the local platform cannot use {state}: others can write there. Choose another "
            f"folder, or take that right away: chmod go-w {shlex.quote(str(state))}"
        )


def _own_file(path: Path) -> IO[bytes]:
    """Open a file to append to; a new one can be read by its user alone."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab+")


def _launch(
    settings: Settings, key: str, log: Path | None, seconds: float = 60.0
) -> tuple[subprocess.Popen[bytes], Mapping[str, Any]]:
    """Start the server and return it with what it says: its `url`, its `ca_certs`. It has this many
    `seconds`, as it is slow on a machine that does much else.
    """
    try:
        # Closed by the `with` below.
        messages: IO[bytes] = tempfile.TemporaryFile() if log is None else _own_file(log)  # noqa: SIM115
    except OSError as error:
        raise RuntimeError(f"the local platform cannot write its log: {error}") from None
    with messages:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("__main__.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            # Ctrl-C in a terminal is for the owner, which ends the server when it ends itself.
            start_new_session=True,
        )
        first_line = {"key": key, "owner": os.getpid(), "settings": settings.to_json()}
        try:
            line = _first_answer(
                process, json.dumps(first_line, default=_plain_number).encode() + b"\n", seconds
            )
        except BaseException:  # Ctrl-C, while we wait
            _end(process, os.getpid())
            raise
        answer = json.loads(line) if line else {}
        if "url" in answer:
            return process, answer
        _end(process, os.getpid())
        why = _reason(answer, messages)
        if not answer and process.returncode == -signal.SIGKILL:  # by us, or for want of memory
            why = f"it had not answered within {seconds:g} s, or the system has killed it; {why}"
        raise RuntimeError(f"the local platform did not start: {why}")


def _first_answer(process: subprocess.Popen[bytes], first_line: bytes, seconds: float) -> bytes:
    """Give the server its first line, and return the one that it prints: nothing if it is slow."""
    assert process.stdin is not None
    assert process.stdout is not None
    # The pipe ends when the server dies, and when it is killed because it prints nothing.
    late = threading.Timer(seconds, process.kill)
    late.name = "civis-local-start"
    late.daemon = True
    late.start()
    try:
        with contextlib.suppress(BrokenPipeError), process.stdout:
            process.stdin.write(first_line)
            process.stdin.flush()
            return process.stdout.readline()
        return b""
    finally:
        late.cancel()
        late.join()


def _reason(answer: Mapping[str, str], messages: IO[bytes]) -> str:
    if "error" in answer:
        return answer["error"]
    messages.seek(max(0, messages.seek(0, os.SEEK_END) - 4000))
    return messages.read().decode(errors="replace") or "it said nothing"


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End the server; not from a fork of the owner, to which it does not belong."""
    if os.getpid() != owner:
        return
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        # A line, as a process that was forked from us may hold the pipe open.
        process.stdin.write(b"stop\n")
        process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()  # its guard ends the runs
        process.wait()


class Faults:
    """The faults of a running platform, in the order in which they were added."""

    def __init__(self, send: Send) -> None:
        self._ask = send

    def add(self, *faults: Fault) -> None:
        """Add faults, after those that are there.

        Raises:
            ValueError: the API has no such path.
        """
        self._ask("POST", PATH, {"add": [fault.to_json() for fault in faults]})

    def remove(self, *faults: Fault) -> None:
        """Remove faults. What has begun goes on, except for an outage, which ends."""
        self._ask("POST", PATH, {"remove": [fault.to_json() for fault in faults]})

    def clear(self) -> None:
        """Remove all faults."""
        self._ask("POST", PATH, {"remove": None})

    def hits(self, fault: Fault) -> int:
        """How often a fault has happened so far, even if it was removed since.

        A run that ended before its fault was due does not count.
        """
        return self._sum(fault, "hits")

    def seen(self, fault: Fault) -> int:
        """How many requests, runs or lines have matched so far, whether or not they met it."""
        return self._sum(fault, "seen")

    def _sum(self, fault: Fault, what: str) -> int:
        return sum(int(book[what]) for book in self._ask("GET", PATH) if _fault(book) == fault)

    def __iter__(self) -> Iterator[Fault]:
        """The faults that can happen now."""
        return iter([_fault(book) for book in self._ask("GET", PATH) if not book["removed"]])

    def __repr__(self) -> str:
        return "<the faults of a LocalPlatform>"


def _fault(book: dict[str, Any]) -> Fault:
    return Fault.from_json(book["fault"])
