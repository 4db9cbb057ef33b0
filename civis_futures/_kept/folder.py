"""The user's cache folder: what programs of the user remember, and can do without.

Threads and processes share it without a lock: a file is written aside and then renamed into its
place, and the last one counts. No error leaves this module: what cannot be read is not there, and
what cannot be written is not remembered. It must not know what is in the files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_FOLDER = "civis_futures"


def cache_folder() -> Path | None:
    """Where the user's programs keep what they can do without; None if there is no such place."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # a relative one is to be ignored, says its specification
        return Path(given) / _FOLDER
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / _FOLDER


def trusted(root: Path | None) -> Path | None:
    """The folder, unless others could write there what we believe."""
    try:
        about = None if root is None else root.stat()
    except OSError:
        return root  # it is not there yet, or cannot be used anyway
    if about is not None and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        _log.warning(
            "%s is not used to find what was remembered before: others can write there. "
            "It is yours alone after: chmod go-w %s", root, root,
        )  # fmt: skip
        return None
    return root


def read_json(path: Path) -> Any:
    """What a file says, or None."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(root: Path, folders: Sequence[str], name: str, value: Any) -> Path | None:
    """Write a file for its owner alone, in these folders below `root`; None if that fails."""
    folder = root
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in folders:
            folder /= each
            folder.mkdir(mode=0o700, exist_ok=True)
        aside = folder / f".{secrets.token_hex(8)}"
        try:
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(value, file)
            os.replace(aside, folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            return None
    except OSError:  # a home that cannot be written
        return None
    return folder / name
