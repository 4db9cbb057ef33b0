"""How a platform behaves where its documentation leaves it open, as far as that matters to us.

Each field is a switch of the client. The defaults are those that are safe on any platform, and that
cost some requests. `civis-futures check-platform` sees what is true of a platform, and remembers
it in the user's cache folder; clients of the same platform then take it into account. What is
remembered is a short JSON file, one for each address.

This module must not know how it was seen, or who acts on it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .folder import cache_folder, read_json, trusted, write_json

_FOLDER = "platforms"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a client takes into account.

    Args:
        list_lag: after how many seconds a list has been seen to show what was made before; those
            of `Pacing.lag` are waited at the least.
        text_limit: how many bytes of text an argument of a script holds; longer orders travel as
            Files.
        renaming: whether a run may rename its own script.
        starts_count: whether a run start counts against the general limit of requests, too.
        hidden_lists_have_all: whether a list of hidden scripts also has those that are not hidden.
    """

    list_lag: float = 0.0
    text_limit: int = 100_000
    renaming: bool = True
    starts_count: bool = True
    hidden_lists_have_all: bool = False


#: Of a platform that was not looked at.
UNKNOWN = Traits()
#: What a lag that was remembered may be at the most, in seconds: a longer one is a mistake.
LONGEST_LAG = 60.0


def remembered_traits(url: str, key: str, root: Path | None = None) -> Traits:
    """What is remembered of the platform at `url`, or `UNKNOWN`."""
    root = root or cache_folder()
    found = None if root is None else read_json(root / _FOLDER / _name(url, key))
    if not isinstance(found, dict) or trusted(root) is None:
        return UNKNOWN
    known = {field.name: found[field.name] for field in fields(Traits) if field.name in found}
    if not all(_fits(getattr(UNKNOWN, name), value) for name, value in known.items()):
        return UNKNOWN
    traits = Traits(**known)
    sane = 0 <= traits.list_lag <= LONGEST_LAG and 0 <= traits.text_limit <= UNKNOWN.text_limit
    return traits if sane else UNKNOWN


def remember_traits(url: str, key: str, traits: Traits, root: Path | None = None) -> Path | None:
    """Remember this of the platform at `url`; the file, or None if there is no place for it."""
    root = trusted(root or cache_folder())
    if root is None:
        return None
    return write_json(root, [_FOLDER], _name(url, key), {"url": url, **asdict(traits)})


def _fits(default: Any, value: Any) -> bool:
    """Whether a remembered value has the type that its field has."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, int if isinstance(default, int) else (int, float))


def _name(url: str, key: str) -> str:
    """Of the file: by the address. A platform on this machine gets another address and another key
    each time, and a later one at the same address need not be the same.
    """
    on_this_machine = any(f"//{host}" in url for host in ("127.0.0.1", "localhost", "[::1]"))
    whose = f"{url} {key}" if on_this_machine else url
    return f"{hashlib.sha256(whose.encode()).hexdigest()[:32]}.json"
