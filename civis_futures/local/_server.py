"""The server's process, from its first line of input to its end.

The first line of standard input has the key and the settings; the server ends when standard input
does (the owner stopped it, or died). Standard output gets one line: where the server listens, or
why it does not. Nothing else of the owner is known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._listening.addresses import listen
from ._listening.certificates import Identity, identity
from ._settings import Settings, StartError
from ._state import Keys, Platform

if TYPE_CHECKING:
    from ._engines.options import OwnScheduler, Slurm
    from ._places.place import RunPlace

HTTP_SERVER: dict[str, Any] = {
    "ws": "none",
    "lifespan": "off",
    "loop": "asyncio",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "date_header": False,  # a fault may set the platform's clock
    "timeout_keep_alive": 60,
    "ssl_ciphers": "DEFAULT",  # OpenSSL's own; uvicorn's would be those of TLS 1.0
    "timeout_graceful_shutdown": 1,
}


def main() -> None:
    """Serve until the owner goes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes these while it serves, then raises them again: go on to the clean end.
        signal.signal(number, lambda *_: None)
    line = _first_line()
    if not line:
        return
    start = json.loads(line)
    try:
        _run(Settings.from_json(json.dumps(start["settings"])), start["key"], start["owner"])
    except StartError as error:
        _say({"error": str(error)})
        sys.exit(2)


def _first_line() -> bytes:
    """Read up to the first newline and not a byte more: the event loop reads the rest."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _run(settings: Settings, key: str, owner: int) -> None:
    from ._limits import Budget
    from ._places.guard_process import GuardProcess
    from ._store import StateInUseError, Store

    # What this process writes is its own alone; what runs write is as their user has it.
    umask = os.umask(0o077)
    temporary = settings.state is None
    folder = Path(settings.state or tempfile.mkdtemp(prefix="civis-local-"))
    keys = Keys(key)
    # First, while nothing runs yet: it starts up beside us.
    last = _last_command(settings, keys.mark)
    guard = GuardProcess(keys.mark, str(folder) if temporary else None, last)
    try:
        listening = listen(settings.advertise, settings.port or _last_port(settings, folder))
        try:
            store = Store(folder, durable=not temporary)
        except (OSError, StateInUseError) as error:
            raise StartError(f"cannot use {folder}: {error}") from None
        try:
            _clear(store.work)
            (folder / "port").write_text(str(listening.sockets[0].getsockname()[1]))
            who = identity(settings, folder)
            budget, ca_certs = Budget(settings.rate_limit), who.ca_certs if who else None
            platform = Platform(settings, store, keys, budget, listening, ca_certs)
            asyncio.run(_serve(platform, guard, who, owner, umask))
        finally:
            _clear(store.work)
            store.close()
    finally:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)
        guard.dismiss()


def _last_port(settings: Settings, folder: Path) -> int:
    """Return the port of the server before this one: runs that go on elsewhere ask there. 0, if
    that is another one's now.
    """
    try:
        port = int((folder / "port").read_text())
        for listener in listen(settings.advertise, port).sockets:
            listener.close()
        return port
    except (OSError, ValueError, StartError):
        return 0


def _clear(folder: Path) -> None:
    """Remove the folders of runs that were active when a server ended."""
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True)


async def _serve(
    platform: Platform, guard: Any, who: Identity | None, owner: int, umask: int
) -> None:
    import uvicorn

    from ._api.app import make_app
    from ._faults.breakage import OpenConnection
    from ._places.place import UnusableError
    from ._record import Recorder
    from ._runs.runner import Runner

    sockets = list(platform.listening.sockets)
    try:
        place = _place(platform, guard, umask, sockets)
        recorder = Recorder(platform.settings.record)
    except UnusableError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(f"cannot record: {error}") from None
    runner = Runner(platform, place)
    platform.attach(runner)
    config = uvicorn.Config(
        make_app(platform, recorder),
        http=OpenConnection,
        ssl_certfile=who.certificate if who else None,
        ssl_keyfile=who.private_key if who else None,
        **HTTP_SERVER,
    )
    try:
        await _until_owner_goes(uvicorn.Server(config), owner, platform, sockets)
    finally:
        runner.close()
        recorder.close()


def _place(platform: Platform, guard: Any, umask: int, sockets: list[socket.socket]) -> RunPlace:
    """Return where the runs run, if it is usable; adds sockets, where they reach us by others."""
    from ._engines.options import Docker, OwnScheduler, Podman, Processes, Slurm, from_json
    from ._places.here import Here
    from ._places.place import Capacity
    from ._places.plain import Plain

    settings = platform.settings
    wanted = from_json(settings.engine)
    mark, work = platform.keys.mark, platform.store.work
    if isinstance(wanted, OwnScheduler | Slurm):
        return _elsewhere(platform, wanted, umask)
    capacity = Capacity(settings.cores, settings.memory)
    if isinstance(wanted, Podman | Docker):
        from ._engines.containers import Containers

        addresses = [listener.getsockname() for listener in sockets]
        containers = Containers(wanted, _tag(mark), umask, addresses)
        place = Here(containers, capacity, guard, mark, work)
        place.check()
        if containers.enclosure is not None:
            sockets += containers.enclosure.sockets
        return place
    assert isinstance(wanted, Processes)
    place = Here(Plain(work, umask), capacity, guard, mark, work)
    place.check()
    return place


def _tag(mark: str) -> str:
    """Return what the names of containers have in common: of the mark, which is part of keys."""
    return hashlib.sha256(mark.encode()).hexdigest()[:10]


def _last_command(settings: Settings, mark: str) -> str | None:
    """Return what the guard does, if this process is killed, besides ending processes."""
    from ._engines.options import Docker, Podman, from_json

    wanted = from_json(settings.engine)
    if not isinstance(wanted, Podman | Docker):
        return None
    from ._engines.containers import leftovers

    return leftovers(wanted, _tag(mark))


def _elsewhere(platform: Platform, wanted: OwnScheduler | Slurm, umask: int) -> RunPlace:
    """Return the machines of a scheduler."""
    from ._elsewhere.commands import Commands
    from ._elsewhere.place import Conditions, Elsewhere
    from ._elsewhere.scheduler import FileScheduler
    from ._elsewhere.slurm import SlurmScheduler
    from ._engines.options import Slurm

    commands = Commands()
    conditions = Conditions(
        label="Slurm" if isinstance(wanted, Slurm) else "The scheduler",
        name=f"civis-{platform.store.name}",
        url=platform.api_url,
        certificate=platform.ca_certs,
        umask=umask,
        pause=wanted.pause,
        lease=wanted.lease,
        setup=wanted.setup or "",
        durable=platform.settings.state is not None,
    )
    try:
        if isinstance(wanted, Slurm):
            scheduler: Any = SlurmScheduler(wanted.to_json(), commands)
        else:
            scheduler = FileScheduler(wanted.file, wanted.options)
    except ValueError as error:
        raise StartError(str(error)) from None
    place = platform.agents = Elsewhere(platform, scheduler, commands, conditions)
    return place


async def _until_owner_goes(
    server: Any, owner: int, platform: Platform, sockets: list[socket.socket]
) -> None:
    loop = asyncio.get_running_loop()

    def leave() -> None:
        platform.news.close()
        if platform.agents is not None:
            platform.agents.leave()
        server.should_exit = True

    def stop() -> None:
        # A line or the end of input: both mean the same.
        loop.remove_reader(0)
        leave()

    async def stop_with_owner() -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        _say({"url": platform.api_url, "ca_certs": platform.ca_certs})
        # Whoever the owner forked holds the other end of the pipe too, so its end alone is not
        # enough to tell that the owner died.
        while os.getppid() == owner:
            await asyncio.sleep(0.5)
        leave()

    loop.add_reader(0, stop)
    owner_check = asyncio.create_task(stop_with_owner())
    try:
        await server.serve(sockets=sockets)
    finally:
        loop.remove_reader(0)
        owner_check.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await owner_check
