"""From the environment to a running worker, and from its end to an exit code.

Exit codes: 0 all answered, or told to stop; 1 the platform could not be reached; 2 the environment
holds no order; 143 a TERM.
"""

from __future__ import annotations

import os
import signal
import sys

from .. import _wire
from ._http import PATIENCE, Http, HttpError
from ._loop import Terminated, Worker
from ._platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_PUBLIC_API = "https://api.civisanalytics.com/"


class NoOrderError(Exception):
    """The environment does not say what to do."""


def run(order: str = "") -> int:
    """Be a worker, as the environment (or `order`, as it would be there) says; the exit code."""
    # As process 1 of a container, a process without this would not even notice a TERM.
    signal.signal(signal.SIGTERM, _terminate)
    folder = _private_folder()
    try:
        said = order or _variable(_wire.ORDER_VARIABLE)
        what = read_order(said, lambda file: _text(file, folder))
        Worker(what, _platform(what.url, max(what.lease, PATIENCE)), folder).run()
    except NoOrderError as error:
        return _complain(f"there is nothing to do: {error}", 2)
    except _wire.WireError as error:
        return _complain(f"the order in {_wire.ORDER_VARIABLE} cannot be read: {error}", 2)
    except HttpError as error:
        return _complain(f"this worker gives up: {error}", 1)
    finally:
        _remove(folder)
    return 0


def holds_order(file_id: str) -> bool:
    """Whether a File holds an order; if it cannot be read, `run` will say so."""
    folder = _private_folder()
    try:
        _wire.order_from_json(_text(int(file_id), folder))
    except ValueError:  # an id that is none, bytes that are no text, a text that is no order
        return not file_id.isdigit()
    except (HttpError, NoOrderError):
        return True
    finally:
        _remove(folder)
    return True


def read_order(text: str, fetch: Callable[[int], str]) -> _wire.Order:
    """The order that `text` is, or that the File holds which it names: as ``123`` or ``file:123``.

    A long order does not fit into an environment variable (the kernel allows 128 kB each), and a
    parameter of type `file` holds an id.
    """
    text = text.strip()
    number = text[5:] if text.startswith("file:") else text
    if number.isdigit():
        text = fetch(int(number))
    return _wire.order_from_json(text)


def _platform(url: str, patience: float = PATIENCE) -> Platform:
    key, job, run = (_variable(f"CIVIS_{name}") for name in ("API_KEY", "JOB_ID", "RUN_ID"))
    return Platform(url, key, job, run, Http(patience))


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise NoOrderError(f"the environment variable {name} is not set")
    return value


def _text(file_id: int, folder: str) -> str:
    path = os.path.join(folder, "order")
    _platform(os.environ.get("CIVIS_API_ENDPOINT") or _PUBLIC_API).download(file_id, path)
    with open(path, encoding="utf-8") as file:
        return file.read()


def _private_folder() -> str:
    """A new folder that nobody else can read. (`tempfile` would cost 5 ms to import.)"""
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
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


def _complain(message: str, code: int) -> int:
    print(f"civis_futures: {message}", file=sys.stderr, flush=True)
    return code


def _terminate(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated(143)
