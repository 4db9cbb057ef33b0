"""`SharedData`: the handle of what was uploaded by hand.

It must not know how or when that happens: to the pickler it names its pieces, and that is all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NamedPiece:
    """Bytes in a File, as a handle that came from another process names them."""

    sha256: str
    size: int
    file_id: int | None
    data: None = None


@dataclass(frozen=True, slots=True, repr=False)
class SharedData:
    """An object that is uploaded once, for use in many calls; made by `ContainerPoolExecutor.put`.

    Pass it to calls, as an argument or anywhere in one: in the task there is the object in its
    place. Each call unpickles it anew, so what one call does to it no other call sees; but arrays
    of 1 MB and more in it are mapped into memory, and read-only.

    It is for the platform at the URL `platform`, and of use for two weeks. It can be pickled, and
    used in another process. `size` is in bytes.
    """

    platform: str
    size: int = field(compare=False)
    _head: bytes
    _digests: tuple[str, ...]
    _pieces: tuple[Any, ...] = field(compare=False)

    @classmethod
    def _of(cls, platform: str, head: bytes, pieces: tuple[Any, ...]) -> SharedData:
        """The handle of a pickle, `head`, and its buffers; or if that is empty, with the pickle
        as the first of the pieces.
        """
        size = len(head) + sum(piece.size for piece in pieces)
        return cls(platform, size, head, tuple(piece.sha256 for piece in pieces), pieces)

    def __post_init__(self) -> None:
        """Unpickled, a piece is a tuple: a pickle has no name of ours that is not public."""
        pieces = tuple(NamedPiece(*x) if isinstance(x, tuple) else x for x in self._pieces)
        object.__setattr__(self, "_pieces", pieces)

    def __reduce__(self) -> tuple[Any, ...]:
        """Names of the pieces; their bytes stay behind."""
        pieces = tuple((x.sha256, x.size, x.file_id) for x in self._pieces)
        return SharedData, (self.platform, self.size, self._head, self._digests, pieces)

    def __repr__(self) -> str:
        """How large it is, and where."""
        return f"<SharedData of {self.size:,} bytes on {self.platform}>"
