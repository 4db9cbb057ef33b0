"""Modules of the user's as a zip: which files belong to one, whether they have changed, the bytes.

The same files give the same bytes. It knows files and names, and neither imports nor pickles; which
modules are the user's own, and when they are needed, is decided elsewhere.
"""

from __future__ import annotations

import fnmatch
import importlib.machinery
import io
import os
import stat
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

#: What one package may have: bytes, and files. A folder with more is not read to its end.
MOST_BYTES, MOST_FILES = 100_000_000, 10_000
#: A file that was changed less than this many seconds ago may change again and look the same:
#: clocks of file systems tick some hundred times a second.
TICK = 0.1

_NO_CODE = {
    "__pycache__", ".git", ".hg", ".svn", ".ipynb_checkpoints", ".tox", ".nox", "node_modules",
}  # fmt: skip
#: A folder with one of these is a cache (https://bford.info/cachedir), or an environment.
_SIGNS_OF_NO_CODE = {"CACHEDIR.TAG", "pyvenv.cfg"}
_COMPILED = (*importlib.machinery.EXTENSION_SUFFIXES, ".so", ".pyd", ".dll", ".dylib")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can tell


class CodeError(ValueError):
    """The user's modules cannot be sent; it says why, and what to do."""


class _ChangedError(Exception):
    """A file is not what it was when it was listed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module or package is: the name `top` by which it is imported, and for each name that
    it shall have in the zip, the file or folder that is there.

    A path may lead into a zip on ``sys.path``.
    """

    top: str
    roots: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A file: its name in our zip; its path, or that of the zip that it is in as `inside`; and what
    changes when it does.
    """

    name: str
    path: str
    mark: tuple[int, ...]
    inside: str = ""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.mark[0]

    @property
    def where(self) -> str:
        """Its path, for people."""
        return os.path.join(self.path, self.inside) if self.inside else self.path


#: What changes when what is at a path does, or what is in a folder; None if nothing is there.
Glance = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a place. `seen`: all paths that were looked at, as they were then. `settled`: if
    something changes from now on, one of these is certain to change, too.
    """

    place: Place
    members: tuple[Member, ...]
    settled: bool = field(compare=False)
    seen: tuple[tuple[str, Glance], ...] = field(compare=False, default=())

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(member.size for member in self.members)


class Excluded:
    """What shall not travel: modules and files by names, with wildcards perhaps, or by paths."""

    def __init__(self, items: Iterable[str] = ()) -> None:
        given = [item.rstrip("/") for item in items]
        self._paths = {os.path.abspath(item) for item in given if os.path.exists(item)}
        self._names = {item.removeprefix("./") for item in given if not os.path.isabs(item)}
        dotted = {item for item in self._names if all(map(str.isidentifier, item.split(".")))}
        self._names |= {item.replace(".", "/") for item in dotted}
        self._plain = {item for item in self._names if not set(item) & set("*?[")}
        self._wild = self._names - self._plain

    def __contains__(self, where: tuple[str, str]) -> bool:
        """Whether what has this name, and this path, is left out."""
        name, path = where
        stem = name.removesuffix(".py")
        if name in self._plain or stem in self._plain or path in self._paths:
            return True
        last = name.rpartition("/")[2]
        return any(fnmatch.fnmatch(name, x) or fnmatch.fnmatch(last, x) for x in self._wild)


def listing(
    place: Place, excluded: Excluded, *, tick: float = TICK, most_files: int = MOST_FILES
) -> Listing:
    """The files of a place, as they are now; of a folder with more than `most_files`, not all are
    read.

    Raises:
        CodeError: there are too many, they are too large, or one cannot travel.
    """
    begin = time.time_ns()
    found: dict[str, Member] = {}
    seen: dict[str, Glance] = {}
    size = 0
    for name, path in place.roots:
        inside_zip = not os.path.lexists(path) and _zip_of(path)
        if inside_zip:
            seen[path], seen[inside_zip] = None, glance(inside_zip)
            walked = _in_zip(name, path, inside_zip, excluded)
        else:
            walked = _in_folder(name, path, excluded, seen, most_files)
        for member in walked:
            _check(place, member)
            found.setdefault(member.name, member)
            size += member.size
            if size > MOST_BYTES or len(found) > most_files:
                raise _too_large(place, found.values(), most_files)
    members = tuple(member for _, member in sorted(found.items()) if not _is_stale(member, found))
    return Listing(place, members, are_settled(seen.values(), begin, tick), tuple(seen.items()))


def glance(path: str) -> Glance:
    """What is at a path, so far as one question to the system tells."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return None
    return _glance(about)


def are_settled(glances: Iterable[Glance], now: int, tick: float) -> bool:
    """Whether these will be others if something changes from now on; `now` in nanoseconds."""
    return max((seen[0] for seen in glances if seen), default=0) < now - tick * 1e9


def packed(
    places: Iterable[Place], excluded: Excluded, tick: float = TICK
) -> tuple[bytes, tuple[Listing, ...]]:
    """A zip with all files of these places, and what is in it.

    Raises:
        CodeError: as of `listing`; or a file cannot be read, or changes all the time.
    """
    places = tuple(places)
    for _ in range(3):  # it may have changed meanwhile
        listings = tuple(listing(place, excluded, tick=tick) for place in places)
        try:
            return _zipped(listings), listings
        except _ChangedError as error:
            changed = error
    raise CodeError(f"{changed} changes while it is packed: try again once it is written")


def read(member: Member) -> bytes:
    """The bytes of a file.

    Raises:
        CodeError: it cannot be read.
    """
    try:
        return _read(member)
    except _ChangedError:
        return b""


def _zipped(listings: tuple[Listing, ...]) -> bytes:
    target = io.BytesIO()
    members = {member.name: member for each in listings for member in each.members}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, member in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # the mode is that of Unix
            info.external_attr = (0o755 if member.mark[4] else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, _read(member))
    return target.getvalue()


def _read(member: Member) -> bytes:
    try:
        with open(member.path, "rb") as file:
            if member.inside:
                with zipfile.ZipFile(file) as archive:
                    data = archive.read(member.inside)
            else:
                data = file.read(member.size + 1)  # of one that grows, no more
            now = _mark(os.fstat(file.fileno()))
    except FileNotFoundError as error:
        raise _ChangedError(member.path) from error
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise CodeError(
            f"{member.path} cannot be read ({error}): leave it out with "
            f"exclude=[{member.name!r}], if the call can do without"
        ) from error
    if now[1:] != member.mark[1:] or len(data) != member.size:
        raise _ChangedError(member.path)
    return data


def _mark(about: os.stat_result, size: int | None = None) -> tuple[int, ...]:
    own = about.st_size if size is None else size
    executable = int(bool(about.st_mode & 0o100))
    return own, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, executable


def _glance(about: os.stat_result) -> Glance:
    # The first of them cannot be set: it tells of all changes.
    return about.st_ctime_ns, about.st_mtime_ns, about.st_size, about.st_ino


def _in_folder(
    name: str, path: str, excluded: Excluded, seen: dict[str, Glance], most_files: int
) -> Iterator[Member]:
    """The file that is there, or all that is in the folder; what links lead to as well. All paths
    that are looked at are put into `seen`.

    A folder that a link in it leads back to is not gone into again; what is no file is left out.
    """
    above: list[tuple[int, int]] = []

    def walk(name: str, path: str) -> Iterator[Member]:
        try:
            about = os.stat(path)
        except OSError:  # it has vanished, or is a link to nowhere
            seen[path] = None
            return
        seen[path] = _glance(about)
        if stat.S_ISREG(about.st_mode):
            yield Member(name, path, _mark(about))
        here = about.st_dev, about.st_ino
        if not stat.S_ISDIR(about.st_mode) or here in above:
            return
        if len(seen) > 2 * most_files or len(above) > 50:
            raise CodeError(f"too many folders, or too deep: leave {name!r} out with exclude=[...]")
        try:
            entries = sorted(os.listdir(path))
        except OSError as error:
            raise CodeError(
                f"the folder {path} cannot be read ({error}): leave it out with "
                f"exclude=[{name!r}], if the call can do without"
            ) from error
        if above and not _SIGNS_OF_NO_CODE.isdisjoint(entries):
            return
        above.append(here)
        for entry in entries:
            inner = f"{name}/{entry}", os.path.join(path, entry)
            if entry not in _NO_CODE and inner not in excluded:
                yield from walk(*inner)
        above.pop()

    if (name, path) not in excluded:
        yield from walk(name, path)


def _zip_of(path: str) -> str:
    """The zip that a path leads into; empty if there is none."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path if os.path.isfile(path) and zipfile.is_zipfile(path) else ""


def _in_zip(name: str, path: str, archive: str, excluded: Excluded) -> Iterator[Member]:
    start = os.path.relpath(path, archive).replace(os.sep, "/")
    about = os.stat(archive)
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            inner = info.filename.removeprefix(start)
            if info.is_dir() or inner == info.filename or inner[:1] not in ("", "/"):
                continue
            parts = (name + inner).split("/")
            above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
            if _NO_CODE.isdisjoint(parts) and not any((x, "") in excluded for x in above):
                yield Member(name + inner, archive, _mark(about, info.file_size), info.filename)


def _is_stale(member: Member, found: dict[str, Member]) -> bool:
    """Whether it was made from a source that is there, too."""
    return member.name.endswith(".pyc") and member.name[:-1] in found


def _check(place: Place, member: Member) -> None:
    """Raise CodeError if it cannot be used elsewhere, or have its name there."""
    last = member.name.rpartition("/")[2]
    if last.endswith(_COMPILED) or ".so." in last:
        raise CodeError(
            f"your module {place.top!r} has a compiled part, {member.path}, which runs only where "
            f"it was built for: install {place.top!r} in the image (setup_cmd='pip install ...') "
            f"and say exclude=[{place.top!r}]; or, if it is of no use there, "
            f"exclude=[{member.name!r}]"
        )
    try:
        member.name.encode()
    except UnicodeEncodeError:
        pattern = "".join("?" if "\udc80" <= char <= "\udcff" else char for char in member.name)
        raise CodeError(
            f"the name of {member.path!a} is not UTF-8: rename it, or leave it out with "
            f"exclude=[{pattern!r}]"
        ) from None


def _too_large(place: Place, members: Iterable[Member], most_files: int) -> CodeError:
    largest = sorted(members, key=lambda member: -member.size)[:3]
    files = ", ".join(f"{member.name} ({member.size:,} bytes)" for member in largest)
    return CodeError(
        f"your module {place.top!r} ({place.roots[0][1]}) is more than {MOST_BYTES:,} bytes or "
        f"{most_files:,} files, and travels whole. Leave out what no call needs, with "
        f"exclude=[...]; send large data with executor.put(); or install it in the image, and say "
        f"exclude=[{place.top!r}]. The largest files up to there: {files}"
    )
