"""`PlatformStore`: what `joblib.Memory` asks of a store, told to the Files of the platform.

joblib thinks in folders: one for each function, in it one for each call, with the result and what
is known of it. Here these are the beginnings of names. What was found is remembered: the first
question is for all calls of a function, and later ones are for those that were not there then.

This module must not know Civis Platform, nor anything of `civis_futures` that is not public.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, BinaryIO

from joblib import register_store_backend
from joblib._store_backends import CacheItemInfo, StoreBackendBase, StoreBackendMixin

from civis_futures import NamedFile, NamedFiles

#: For this many seconds the platform is not asked again for what was not there.
MEMORY = 2.0
#: The end of the name of a folder with the result of a call.
_CALL = re.compile(r"[a-f0-9]{32}")
#: The longest name of a folder; longer ones are cut, and end in a digest.
LONGEST = 120

#: The platform of all stores, unless they have one of their own: see `register_store`.
_default: dict[str, Any] = {"platform": None}


class PlatformStore(StoreBackendBase, StoreBackendMixin):  # type: ignore[misc]
    """A store of `joblib.Memory`, made by it: its items are Files on the platform."""

    location: str
    compress: Any = False
    mmap_mode: str | None = None
    verbose = 0

    def configure(
        self, location: str, verbose: int = 0, backend_options: dict[str, Any] | None = None
    ) -> None:
        """Called by joblib. `backend_options` may have a `platform`."""
        options = backend_options or {}
        self.location, self.verbose = location, verbose
        self.compress = options.get("compress", False)
        self.mmap_mode = None if self.compress else options.get("mmap_mode")  # joblib has warned
        self._files = NamedFiles(options.get("platform", _default["platform"]))
        self._known: dict[str, NamedFile] = {}  # by name
        self._asked: dict[str, float] = {}  # when, for the names that begin so
        self._sources: dict[int | None, str] = {}  # of functions, by File
        self._written: dict[str, BinaryIO] = {}
        self._folder: str | None = None

    # --- what the platform has -----------------------------------------------------------------

    def _ask(self, folder: str) -> None:
        """What there is in this folder now, and in those below it."""
        prefix = f"{_named(folder)}/"
        found = self._files.find(prefix)
        self._known = {n: file for n, file in self._known.items() if not n.startswith(prefix)}
        self._known.update(found)
        self._asked[prefix] = time.monotonic()

    def _refresh(self, folder: str) -> None:
        """Ask, unless that was just done: at first for all calls of a function at once."""
        above = os.path.dirname(folder) if _CALL.fullmatch(os.path.basename(folder)) else folder
        asked = [self._asked.get(f"{_named(path)}/") for path in (folder, above)]
        if asked == [None, None]:
            self._ask(above)
        elif time.monotonic() - max(at for at in asked if at is not None) > MEMORY:
            self._ask(folder)

    def _find(self, path: str) -> NamedFile | None:
        name = _named(path)
        if name not in self._known:
            self._refresh(os.path.dirname(path))
        return self._known.get(name)

    def _item_exists(self, location: str) -> bool:
        if os.path.splitext(location)[1] in (".pkl", ".json", ".py"):
            return self._find(location) is not None
        prefix = f"{_named(location)}/"
        if not any(name.startswith(prefix) for name in self._known):
            self._refresh(location)
        return any(name.startswith(prefix) for name in self._known)

    def object_exists(self, location: str) -> bool:
        """Whether there is something of that name."""
        return self._item_exists(location)

    def _open_item(self, path: str, mode: str) -> BinaryIO:
        if mode == "wb":
            self._written[path] = target = _Kept()
            return target
        file = self._find(path)
        if file is None:
            raise FileNotFoundError(path)
        source = tempfile.TemporaryFile()  # noqa: SIM115 - joblib closes it
        try:
            self._read(file, source)
        except BaseException:
            source.close()
            raise
        source.seek(0)
        return source

    def _move_item(self, src: str, dst: str) -> None:
        """What was written becomes an item, all of it at once."""
        with self._written.pop(src) as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            name = _named(dst)
            earlier, self._known[name] = self._known.get(name), self._files.put(name, source, size)
        if earlier is not None:
            self._files.remove([earlier])

    def _read(self, file: NamedFile, target: BinaryIO) -> None:
        try:
            self._files.read(file, target)
        except LookupError:
            self._known.pop(file.name, None)
            raise

    # --- what joblib asks ----------------------------------------------------------------------

    def load_item(
        self, call_id: Any, verbose: int = 1, timestamp: Any = None, metadata: Any = None
    ) -> Any:
        """The result of a call; with `mmap_mode` mapped from a copy that ends with the process."""
        if self.mmap_mode is None:
            return super().load_item(call_id, verbose, timestamp, metadata)
        from joblib import load

        path = os.path.join(self.location, *call_id, "output.pkl")
        file = self._find(path)
        if file is None:
            raise KeyError(f"there is no {path}")
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="civis-joblib-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        here = os.path.join(self._folder, f"{file.file_id}.pkl")
        if not os.path.exists(here):
            with open(f"{here}.part", "wb") as target:
                self._read(file, target)
            os.replace(f"{here}.part", here)
        return load(here, mmap_mode=self.mmap_mode)

    def store_cached_func_code(self, call_id: Any, func_code: Any = None) -> None:
        """The source of a function. joblib 1.5.0 writes it in its place, and does not move it."""
        super().store_cached_func_code(call_id, func_code)
        if (path := os.path.join(self.location, *call_id, "func_code.py")) in self._written:
            self._move_item(path, path)

    def get_cached_func_code(self, call_id: Any) -> str:
        """The source of a function, for which joblib asks at each call; read once."""
        file = self._find(os.path.join(self.location, *call_id, "func_code.py"))
        key = None if file is None else file.file_id
        if key not in self._sources:  # this raises if there is none
            self._sources[key] = super().get_cached_func_code(call_id)
        return self._sources[key]

    def get_metadata(self, call_id: Any) -> Any:
        """What is known of a call. joblib asks at each call, and hardly ever looks into it."""
        return Metadata(lambda: super(PlatformStore, self).get_metadata(call_id))

    def create_location(self, location: str) -> None:
        """A folder is there when there is something in it."""

    def clear_location(self, location: str) -> None:
        """Remove all of it."""
        self._ask(location)
        prefix = f"{_named(location)}/"
        for name in [name for name in self._known if name.startswith(prefix)]:
            self._files.remove([self._known.pop(name)])

    def get_items(self) -> list[CacheItemInfo]:
        """The results of calls, each with what belongs to it; as old as its File is."""
        self._ask(self.location)
        prefix = f"{_named(self.location)}/"
        folders: dict[str, list[NamedFile]] = {}
        for name, file in self._known.items():
            folder = os.path.dirname(name)
            if name.startswith(prefix) and _CALL.fullmatch(os.path.basename(folder)):
                folders.setdefault(folder, []).append(file)
        return [
            CacheItemInfo(
                folder,
                sum(file.size for file in files),
                datetime.datetime.fromtimestamp(max(file.created for file in files)),
            )
            for folder, files in folders.items()
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        """By its location. The platform stays here: elsewhere it is that of `register_store`, or of
        the environment.
        """
        options = {"compress": self.compress, "mmap_mode": self.mmap_mode}
        return _store, (self.location, self.verbose, options)


def _store(location: str, verbose: int, options: dict[str, Any]) -> PlatformStore:
    """One that was pickled."""
    store = PlatformStore()
    store.configure(location, verbose, options)
    return store


class Metadata(Mapping[str, Any]):
    """What is known of a call, read when it is looked at."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read = read

    @cached_property
    def _all(self) -> dict[str, Any]:
        return self._read()

    def __getitem__(self, name: str) -> Any:
        """As of a dict."""
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        """As of a dict."""
        return iter(self._all)

    def __len__(self) -> int:
        """As of a dict."""
        return len(self._all)

    def __repr__(self) -> str:
        """As of a dict."""
        return repr(self._all)

    def __reduce__(self) -> tuple[Any, ...]:
        """As a dict."""
        return dict, (self._all,)


class _Kept(io.BytesIO):
    """Bytes that outlive the `close` of who wrote them."""

    def close(self) -> None:
        """Not yet."""

    def __exit__(self, *_: object) -> None:
        """Not yet."""


def _named(path: str) -> str:
    """A path as a part of a name on the platform."""
    folders = []
    for folder in path.split("/"):
        plain = re.sub(r"[\[\]\s]", "_", folder)
        if plain != folder or len(folder) > LONGEST + 17:  # what was cut is cut no more
            digest = hashlib.sha256(folder.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            plain = f"{plain[:LONGEST]}-{digest}"
        folders.append(plain)
    return "/".join(folders)


def register_store(platform: Any = None) -> None:
    """Let ``joblib.Memory("project-x", backend="civis")`` keep its results on the platform.

    The location is a name, not a folder. By it, other processes, other machines and tasks in
    containers find the results. The images of such tasks need this package with
    its extra ``joblib``.

    Args:
        platform: as for `ContainerPoolExecutor`; ``"local"`` is not possible.

    Raises:
        TypeError, ValueError: `platform` is not allowed.
    """
    if platform == "local":
        raise ValueError('platform="local" ends with its executor, and all results with it')
    if platform is not None:
        NamedFiles(platform)  # what is wrong is wrong here, not at the first use
    _default["platform"] = platform
    register_store_backend("civis", PlatformStore)
