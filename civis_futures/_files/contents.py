"""Bytes that are known by their digest: which are in a File, or on their way, and which pools wait.
And what names some of them: `SharedData`, the handle of what was uploaded by hand, and `SentCall`.

One `ContentStore` for each platform and key serves all pools of this process, so that the same
bytes go up once, however many pools use them. It decides which pool uploads what; how,
is the affair of a `Carrier`: this module knows neither HTTP nor pickles.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from .. import _wire

#: A File is of use for a new call while it lives this long at least, in seconds: a run may take 5
#: days, and may wait before.
LEAST_LIFE = 6 * 86400.0


class Piece(Protocol):
    """What is known of bytes that another store or process has put into a File, or will."""

    sha256: str
    size: int
    data: bytes | None
    file_id: int | None


@dataclass(eq=False, slots=True, weakref_slot=True)
class Content:
    """Some bytes. `data` is a copy until they are in the File `file_id`, which ends at `expires`
    (seconds since the epoch).

    Without `data` and `expires`, all that is known is that they should be in the File `file_id`.
    Its store alone changes it, under its lock.
    """

    sha256: str
    size: int
    data: bytes | None = None
    file_id: int | None = None
    expires: float | None = None  # seconds since the epoch, by the platform's clock
    carrier: Carrier | None = None  # who brings it to the platform right now
    wishes: list[_Wish] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether it is in its File."""
        return self.expires is not None

    @property
    def blob(self) -> _wire.Blob:
        """What a call says of it; once it is ready."""
        assert self.file_id is not None, "content is in a File before it is given away"
        return _wire.Blob.in_file(self.file_id, self.sha256, self.size)


@dataclass(eq=False, slots=True)
class Carrier:
    """A pool that can upload: `run` starts a piece of work soon, on a thread that may wait;
    `deposit` puts content into a File, and returns its id and end.
    """

    run: Callable[[Callable[[], None]], None]
    deposit: Callable[[Content], tuple[int, float]]
    open: bool = True  # guarded by the store's lock


@dataclass(eq=False, slots=True)
class _Wish:
    """A wait for this much content; `done` is called once, with the error if there is one."""

    carrier: Carrier
    done: Callable[[BaseException | None], None] | None
    missing: int = 0  # contents that are not there yet


@dataclass(eq=False, slots=True)
class Value:
    """The result of a task, as a part of the calls of others; `came` is how, once it has.

    `modules` are those that its task names: it may need them. The pool's own thread fills it.
    """

    modules: frozenset[str] = frozenset()
    came: _wire.Blob | None = None

    @property
    def ready(self) -> bool:
        """Whether it is in a File, and so can be named."""
        return self.came is not None and self.came.file_id is not None

    @property
    def blob(self) -> _wire.Blob:
        """What a call says of it; once it is ready."""
        assert self.came is not None, "a call waits for what it needs"
        return self.came

    @property
    def inline(self) -> _wire.Blob | None:
        """What it is if it is in no File."""
        return None if self.ready else self.came

    def fill(self, blob: _wire.Blob | None) -> None:
        """It has come. What was there before may be a File that cannot be read."""
        if self.came is None or (self.ready and blob is not None and blob.file_id is not None):
            self.came = blob


def contents_in(buffers: Iterable[Content | Value]) -> tuple[Content, ...]:
    """Those of the buffers of a call that were known when it was submitted."""
    return tuple(each for each in buffers if isinstance(each, Content))


@dataclass(slots=True)
class SentCall:
    """A call on its way, and what is kept of it for who runs it again: it has neither `blob` nor
    `data` if that was too large. The pool's own thread alone changes it.

    `blob` is what containers are told, or `data` what is still to be uploaded, or completed, for
    that. `retry_on` is the user's word on which exceptions are a reason to try again. `needs` are
    the dependencies that it waits for, the first one for the futures whose results it has if it
    has any. `modules` are those that it names, and `came` is its own result, for others.
    """

    blob: _wire.Blob | None
    data: bytes | None
    buffers: tuple[Content | Value, ...] = ()
    code: int = 0  # how many of these, the last ones, are modules
    key: str = ""
    timeout: float | None = None
    retry_on: Callable[[BaseException], bool] | None = None
    needs: tuple[Any, ...] = ()
    modules: frozenset[str] = frozenset()
    came: _wire.Blob | None = None

    @property
    def kept(self) -> bool:
        """Whether it can be sent again."""
        return self.blob is not None or self.data is not None

    @property
    def complete(self) -> bool:
        """Whether it needs nothing more of others."""
        return not self.needs

    @property
    def contents(self) -> tuple[Content, ...]:
        """The buffers that were known when it was submitted."""
        return contents_in(self.buffers)

    @property
    def values(self) -> tuple[Value, ...]:
        """The results in it that are to come, or in Files."""
        return tuple(each for each in self.buffers if isinstance(each, Value))

    @property
    def awaited(self) -> Future[Any] | None:
        """The first future that it waits for, if there is one."""
        open_ = (need.awaited for need in self.needs)
        return next((future for future in open_ if future is not None), None)

    def settled(self) -> bool:
        """Its future has the result. Whether that has to do for others: unless it is in a File."""
        if self.came is not None and self.came.file_id is None:
            self.came = None
        return self.came is None

    def shrink(self) -> None:
        """It has succeeded, and is seldom run again: it is kept if it costs little."""
        self.needs = ()
        inline = "" if self.blob is None else self.blob.inline or ""
        # In characters: as much as a future takes itself.
        if len(inline) > 4_000 or self.data is not None:
            self.blob = self.data = None
            self.buffers = ()


class ContentStore:
    """All content of one platform and key in this process; any thread may call.

    A thread that pickles a call takes no lock: a signal's handler may interrupt it anywhere, and
    wait for the threads that upload. It reads and writes these tables in single operations. At
    worst the same bytes go up twice.
    """

    def __init__(self, platform: str, now: Callable[[], float] = time.time) -> None:
        self.platform = platform
        self._now = now  # by the platform's clock, in seconds since the epoch
        # Guards which pool uploads what, and which wait for it. Under it there is no I/O, hashing
        # or copying, and of others' code only the queue of a lane.
        self._lock = threading.Lock()
        self._ready: dict[str, Content] = {}
        # Those on their way live as long as a call, a handle or an upload has use for them.
        self._met: dict[str, object] = {}  # digests that were asked about, and by what
        self._coming: weakref.WeakValueDictionary[str, Content] = weakref.WeakValueDictionary()

    def take(self, view: memoryview) -> Content:
        """The content with these bytes, of which a copy is made only if they are new."""
        return self.find(_wire.digest(view)) or self.keep(bytes(view))

    def is_repeated(self, view: memoryview, by: object) -> bool:
        """Whether this was asked about these bytes before, by something else."""
        if len(self._met) > 10_000:  # of some 150 bytes each
            self._met.clear()
        return self._met.setdefault(_wire.digest(view), by) is not by

    def keep(self, data: bytes) -> Content:
        """The content with these bytes."""
        # Of the copy: what it was made from may be changing.
        sha256 = _wire.digest(data)
        content = self.find(sha256)
        if content is None:  # or one of which no more than the name was known
            content = self._coming.setdefault(sha256, Content(sha256, len(data)))
            content.data = data
        return content

    def adopt(self, piece: Piece) -> Content:
        """The content with the bytes that this piece names."""
        content = self.find(piece.sha256)
        if content is None:
            new = Content(piece.sha256, piece.size, piece.data, piece.file_id)
            content = self._coming.setdefault(piece.sha256, new)
        return content

    def gather(
        self,
        contents: Iterable[Content],
        carrier: Carrier,
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Call `done` once all of this is in Files, or with the error if it cannot be.

        What is not on its way there yet, `carrier` brings. `done` may be called here and now, or on
        any thread later; after `leave` it may never be.
        """
        wish = _Wish(carrier, done)
        with self._lock:
            for content in dict.fromkeys(contents):
                if not content.ready:
                    wish.missing += 1
                    content.wishes.append(wish)
                    if content.carrier is None:
                        self._hand(content, carrier)
            complete = not wish.missing
        if complete:
            done(None)

    def leave(self, carrier: Carrier) -> None:
        """The pool ends: nothing more is handed to it."""
        with self._lock:
            carrier.open = False

    def forget(self, content: Content) -> None:
        """A worker could not fetch it: the next call that has use for it brings it anew."""
        with self._lock:
            if self._ready.get(content.sha256) is content:
                del self._ready[content.sha256]

    def find(self, sha256: str) -> Content | None:
        """What can be used as it is: in a File, or with bytes to put there."""
        content = self._ready.get(sha256)
        if content is not None and (content.expires or 0.0) - self._now() > LEAST_LIFE:
            return content
        content = self._coming.get(sha256)
        return content if content is not None and (content.ready or content.data) else None

    def _hand(self, content: Content, carrier: Carrier) -> None:
        if carrier.open:
            content.carrier = carrier
            carrier.run(lambda: self._carry(content, carrier))

    def _carry(self, content: Content, carrier: Carrier) -> None:
        """On a thread of the carrier's: bring content to its File, and wake those who wait."""
        error: BaseException | None = None
        try:
            file_id, expires = carrier.deposit(content)
        except BaseException as problem:
            error = problem
        with self._lock:
            content.carrier = None
            wishes, content.wishes = content.wishes, []
            if error is None:
                content.file_id, content.expires, content.data = file_id, expires, None
                self._ready[content.sha256] = content
                self._coming.pop(content.sha256, None)
            else:
                # The trouble may be this pool's own, whose client was closed: another tries again.
                others = [wish for wish in wishes if wish.carrier is not carrier]
                wishes = [wish for wish in wishes if wish.carrier is carrier]
                content.wishes = [wish for wish in others if wish.carrier.open]
                if content.wishes:
                    self._hand(content, content.wishes[0].carrier)
            ended = [done for wish in wishes if (done := _callback_due(wish, error)) is not None]
        for done in ended:
            done(error)


def _callback_due(
    wish: _Wish, error: BaseException | None
) -> Callable[[BaseException | None], None] | None:
    """Whom to tell now, if this was all that was missing, or is an error."""
    wish.missing -= 1
    if error is None and wish.missing:
        return None
    done, wish.done = wish.done, None
    return done


_stores: dict[tuple[int, str, str], ContentStore] = {}


def content_store(platform: str, key: str, now: Callable[[], float] = time.time) -> ContentStore:
    """The store of all pools of this process with this key; a fork begins with an empty one. `now`
    is the platform's clock.
    """
    return _stores.setdefault((os.getpid(), platform, key), ContentStore(platform, now))


@dataclass(frozen=True, slots=True)
class NamedPiece:
    """Bytes in a File, as a handle that came from another process names them."""

    sha256: str
    size: int
    file_id: int | None
    data: None = None


@dataclass(frozen=True, slots=True, repr=False)
class SharedData:
    """A handle of an object that is uploaded once, for use in many calls.

    It is made by `ContainerPoolExecutor.put`. Pass it to calls, as an argument or anywhere within
    one: in the task, the object takes its place. Each call unpickles the object again, so no call
    sees what another one does to it. Arrays of 1 MB or more in it are read-only.

    It is valid for two weeks, on the platform at the URL `platform`. It can be pickled, and used
    in another process. `size` is in bytes.
    """

    platform: str
    size: int = field(compare=False)
    _head: bytes
    _digests: tuple[str, ...]
    _pieces: tuple[Any, ...] = field(compare=False)
    _modules: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def _of(
        cls, platform: str, head: bytes, pieces: tuple[Any, ...], modules: Collection[str] = ()
    ) -> SharedData:
        """The handle of a pickle, `head`, and its buffers; or if that is empty, with the pickle
        as the first of the pieces. `modules` are those that the pickle names.
        """
        size = len(head) + sum(piece.size for piece in pieces)
        digests = tuple(piece.sha256 for piece in pieces)
        return cls(platform, size, head, digests, pieces, tuple(sorted(modules)))

    def __post_init__(self) -> None:
        """Unpickled, a piece is a tuple: a pickle has no name of ours that is not public."""
        pieces = tuple(NamedPiece(*x) if isinstance(x, tuple) else x for x in self._pieces)
        object.__setattr__(self, "_pieces", pieces)

    def __reduce__(self) -> tuple[Any, ...]:
        """Names of the pieces; their bytes stay behind."""
        pieces = tuple((x.sha256, x.size, x.file_id) for x in self._pieces)
        own = self.platform, self.size, self._head, self._digests, pieces, self._modules
        return SharedData, own

    def __repr__(self) -> str:
        """How large it is, and where."""
        return f"<SharedData of {self.size:,} bytes on {self.platform}>"
