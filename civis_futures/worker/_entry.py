"""From the environment to a running worker, and from its end to an exit code.

Exit codes: 0 all answered, or told to stop; 1 the platform could not be reached; 2 the environment
holds no order; 143 a TERM.
"""

from __future__ import annotations

import os
import signal
import sys
from urllib.parse import urlsplit  # which http.client has imported

from .. import _wire
from ._groups import share_cores
from ._http import Http, HttpError
from ._loop import StartedAgainError, Terminated, WorkerLoop
from ._pacing import WorkerPacing
from ._platform import PlatformRequests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_PUBLIC_API = "https://api.civisanalytics.com/"


class NoOrderError(Exception):
    """The environment does not say what to do."""


def run(order: str = "", pacing: WorkerPacing | None = None) -> int:
    """Be a worker, as the environment (or `order`, as it would be there) says; the exit code."""
    # As process 1 of a container, a process without this would not even notice a TERM.
    signal.signal(signal.SIGTERM, _terminate)
    folder, pacing = _private_folder(), pacing or WorkerPacing()
    try:
        said = order or _variable(_wire.ORDER_VARIABLE)
        # It holds a secret, and those who look for what went wrong print their environment.
        os.environ.pop(_wire.ORDER_VARIABLE, None)
        what = read_order(said, lambda file: _content(file, folder).decode())
        share_cores(what.cores, processes=what.processes)
        platform = _platform(_endpoint(what.url), pacing, max(what.lease, pacing.request))
        WorkerLoop(what, platform, folder, pacing).run()
    except NoOrderError as error:
        return _complain(f"there is nothing to do: {error}", 2)
    except (_wire.WireError, UnicodeDecodeError) as error:
        return _complain(f"the order in {_wire.ORDER_VARIABLE} cannot be read: {error}", 2)
    except StartedAgainError as error:
        print(error, flush=True)
        return 1
    except HttpError as error:
        return _complain(f"this worker gives up: {error}", 1)
    finally:
        _remove(folder)
    return 0


def run_file(arguments: list[str]) -> int:
    """Be a worker, as the order says that is in the File of ``--file ID``; the exit code.

    Templates are shared: who calls with civis.parallel may use the same one as who calls with
    civis_joblib. So a pickle, as theirs are, goes to the worker of civis-python, if there is one.
    """
    option, _, file_id = "=".join(arguments).partition("=")
    if option != "--file" or not file_id.isdigit():
        return _complain(
            "the command is civis-futures-worker, or civis-futures-worker --file ID with the id "
            f"of a File, and not {arguments!r} after its name; does the template lack a parameter?",
            2,
        )
    if not _is_pickle(file_id):
        return run(file_id)
    if not _has_worker_of_civis():
        return _complain(
            f"File {file_id} holds a pickle and no order of civis_futures. If it is a call of "
            "civis.parallel, either call with civis_joblib in its place, or install civis in this "
            "image, to whose worker it is given then.",
            2,
        )
    _complain(f"File {file_id} holds a pickle, which the worker of civis.parallel takes", 0)
    import runpy

    sys.argv[1:] = [file_id]
    runpy.run_module("civis.run_joblib_func", run_name="__main__")
    return 0


def _has_worker_of_civis() -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec("civis.run_joblib_func") is not None
    except ImportError:
        return False


def _is_pickle(file_id: str) -> bool:
    """Whether a File holds a pickle; if it cannot be read, `run` will say so."""
    folder = _private_folder()
    try:
        return _content(int(file_id), folder).startswith(b"\x80")
    except (HttpError, NoOrderError):
        return False
    finally:
        _remove(folder)


def read_order(text: str, fetch: Callable[[int], str]) -> _wire.Order:
    """The order that `text` is, or that the File holds which it names: as ``123`` or ``file:123``.

    A long order does not fit into an environment variable (the kernel allows 128 kB each), and a
    template may be given the id of a File, which names another one if the order is long.
    """
    for _ in range(2):
        text = text.strip()
        number = text[5:] if text.startswith("file:") else text
        if number.isdigit():
            text = _wire.order_for_template(fetch(int(number)))
    return _wire.order_from_json(text)


def _platform(url: str, pacing: WorkerPacing, patience: float) -> PlatformRequests:
    key, job, run = (_variable(f"CIVIS_{name}") for name in ("API_KEY", "JOB_ID", "RUN_ID"))
    only = urlsplit(url).hostname, os.environ.get(_wire.CA_CERTS_VARIABLE, "")
    return PlatformRequests(url, key, job, run, Http(patience, pacing=pacing, only=only))


def _endpoint(otherwise: str) -> str:
    return os.environ.get(_wire.ENDPOINT_VARIABLE) or otherwise


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise NoOrderError(f"the environment variable {name} is not set")
    return value


def _content(file_id: int, folder: str) -> bytes:
    path = os.path.join(folder, "order")
    pacing = WorkerPacing()
    _platform(_endpoint(_PUBLIC_API), pacing, pacing.request).download(file_id, path)
    with open(path, "rb") as file:
        return file.read()


def _private_folder() -> str:
    """A new folder that other users cannot read. (`tempfile` would cost 5 ms to import.)"""
    name = f"civis-futures-{os.urandom(8).hex()}"
    for place in (os.environ.get("TMPDIR") or "/tmp", "/var/tmp", "/dev/shm", "."):
        folder = os.path.join(place, name)
        try:
            os.mkdir(folder, 0o700)
        except OSError:
            continue
        return os.path.abspath(folder)
    raise SystemExit("civis_futures: there is no place for temporary files")


def _remove(folder: str) -> None:
    try:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:  # the user's modules are folders in it; user code may have made or removed some
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _complain(message: str, code: int) -> int:
    print(f"civis_futures: {message}", file=sys.stderr, flush=True)
    return code


def _terminate(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated(143)
