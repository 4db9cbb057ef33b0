"""The user's own modules: which ones a call needs, and the bundles that bring them to the worker.

Own is what is neither of the standard library nor of an installed distribution: modules next to
the script, in folders on ``sys.path``, of editable installs. A call needs those that its pickle
names, and those that these import, as far as their source tells. Each goes whole, under the name
by which it is imported.

What counts is what is on disk when the call is submitted, as for a process that starts then.
"""

from __future__ import annotations

import contextlib
import dis
import importlib.util
import json
import os
import re
import sys
import sysconfig
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from .. import _wire
from .._files.contents import Content, ContentStore
from .bundles import (
    TICK,
    Excluded,
    Glance,
    Listing,
    Member,
    Place,
    are_settled,
    glance,
    listing,
    packed,
    read,
)
from .sources import note_folder

#: This many files are looked at for each call. Of more, as often as takes half of the time at most.
FEW_FILES = 500
#: For this many sets of modules it is remembered what calls need that name them.
_MOST_LOOKS = 1_000
#: Modules of this many bytes have a bundle of their own: an edit elsewhere does not send them
#: again.
LARGE = 1_000_000
#: Never the user's own. (We may be an editable install; then the image has us or has us not.)
_MAIN = {"__main__", "__mp_main__"}
_NOT_OWN = {*_MAIN, "civis_futures", "civis_joblib", "cloudpickle"}
_INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})

#: Imports in source: it need not be correct, and words in texts that look like one do no harm.
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from[ \t]+(\w[\w.]*)[ \t]+import\b|import[ \t]+([^;#\n]+))"
    r"|(?:import_module|__import__)\([ \t]*[\"'](\w[\w.]*)[\"']",
    re.MULTILINE,
)

#: What imports by a name, and what that may look like in code.
_BY_NAME = {"import_module", "__import__"}
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")

#: Modules, or paths of modules and folders.
Include = ModuleType | str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Some modules as they were when they were packed."""

    listings: tuple[Listing, ...]
    content: Content

    @property
    def tops(self) -> frozenset[str]:
        """The names by which they are imported."""
        return frozenset(each.place.top for each in self.listings)


@dataclass(frozen=True, slots=True)
class _Look:
    """What calls need that name some modules; it is so while what it was read from stays.

    `loaded`: modules by the names that were asked for; `seen`: paths as they were, None if they may
    change and look the same; `path`: that of the interpreter, if it matters. Not looked at again
    before `until`, of the monotonic clock; `many`: that takes long.
    """

    contents: tuple[Content, ...]
    loaded: tuple[tuple[str, object], ...]
    seen: tuple[tuple[str, Glance], ...] | None
    path: list[str] | None
    many: bool
    until: float


class References:
    """Which modules a pickle refers to; filled in while it is made. `by_value` are those of which
    nothing is imported.
    """

    def __init__(self, by_value: Collection[str] = ()) -> None:
        self.modules: set[str] = set()
        self._by_value = by_value

    def meet(self, value: Any, by_value: bool) -> None:
        """Something is pickled that has no way of its own in `pickle`: a module, class, function or
        instance. Functions `by_value` bring their code, and need what that imports.
        """
        if isinstance(value, ModuleType):
            self._add(value.__name__)
        elif by_value and isinstance(value, FunctionType):
            if imports_of_code(value.__code__):
                self.modules.update(_imports_of_function(value))
        elif not (by_value and isinstance(value, type)):  # of an instance, that of its class
            self._add(_module_of(value))

    def _add(self, name: object) -> None:
        if not isinstance(name, str) or name in self.modules:
            return
        if not self._by_value or not self._comes_by_value(name):
            self.modules.add(name)

    def _comes_by_value(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[: n + 1]) in self._by_value for n in range(len(parts)))


class OwnModules:
    """The own modules of one pool, as far as calls have needed them.

    All that was needed so far goes with each call that needs any: so what one call may import from
    here is what the next one may, and one process of a worker serves both.

    No lock: of two threads that submit at the same time either may win, and what the other one has
    added is added again. `on`: False if nothing is to be sent.
    `tick`: for how many seconds a file that was changed may change again and look the same.
    """

    def __init__(
        self,
        contents: ContentStore,
        include: Iterable[Include] = (),
        exclude: Iterable[Include] = (),
        on: bool = True,
        tick: float = TICK,
    ) -> None:
        self._contents = contents
        self._tick = tick
        self._on = on
        self._excluded = Excluded(map(_excluded_name, exclude))
        self._included = {place.top: place for place in map(_included_place, include)}
        self._imports: dict[Member, frozenset[str]] = {}
        # The bundles, and what was found for calls that name some modules, with these bundles. One
        # value, so that they fit together whichever thread has set it.
        self._known: tuple[tuple[_Bundle, ...], dict[frozenset[str], _Look]] = (), {}

    def bundles(self, modules: frozenset[str]) -> tuple[Content, ...]:
        """What a call needs whose pickle names these modules.

        Raises:
            CodeError: it cannot be sent.
        """
        if not self._on:
            return ()
        begin = time.monotonic()
        looks = self._known[1]
        look = looks.get(modules)
        if look is not None and (begin < look.until or self._holds(look)):
            if begin >= look.until and look.many:
                looks[modules] = replace(look, until=2 * time.monotonic() - begin)
            return look.contents
        return self._looked(modules, begin).contents

    def _looked(self, modules: frozenset[str], begin: float) -> _Look:
        """Look at all that may be needed."""
        clock = time.time_ns()
        path = sys.path[:]
        folders = [(each, glance(each or ".")) for each in path if isinstance(each, str)]
        asked: dict[str, object] = {}
        places = [place for name in modules if (place := self._place(name, asked))]
        before, looks = self._known
        closure: dict[str, Listing] = {}
        bundles: tuple[_Bundle, ...] = ()
        if places or self._included:
            closure = self._closure(places, asked)
            bundles = self._renewed(before, closure)
            if bundles != before:
                _note(bundles)
                looks = {}
            before = bundles
        seen = [each for listed in closure.values() for each in listed.seen]
        certain = all(map(_is_certain, asked))
        seen += [] if certain else folders
        settled = are_settled((each for _, each in seen), clock, self._tick)
        settled = settled and not any(map(_is_in_pieces, asked))
        many = sum(len(each.members) for each in closure.values()) > FEW_FILES
        look = _Look(
            tuple(bundle.content for bundle in bundles),
            tuple(asked.items()),
            tuple(dict(seen).items()) if settled else None,
            None if certain else path,
            many,
            2 * time.monotonic() - begin if many else 0.0,
        )
        if len(looks) > _MOST_LOOKS:
            looks = {}
        looks[modules] = look
        self._known = before, looks
        return look

    def _holds(self, look: _Look) -> bool:
        """Whether another look would find the same."""
        if look.seen is None or (look.path is not None and look.path != sys.path):
            return False
        loaded = sys.modules.get
        for name, module in look.loaded:
            if loaded(name) is not module:
                return False
        for path, seen in look.seen:
            if glance(path or ".") != seen:
                return False
        find = self._contents.find
        return all(find(content.sha256) is not None for content in look.contents)

    def _closure(self, places: Iterable[Place], asked: dict[str, object]) -> dict[str, Listing]:
        """What is to be sent for these: they, what is included, and what all of it imports."""
        found: dict[str, Listing] = {}
        ahead = [*self._included.values(), *places]
        while ahead:
            place = ahead.pop()
            if place.top in found:
                continue
            found[place.top] = made = listing(place, self._excluded, tick=self._tick)
            imported = {name for member in made.members for name in self._imported_by(member)}
            ahead += [at for name in sorted(imported) if (at := self._place(name, asked))]
        return found

    def _renewed(
        self, before: tuple[_Bundle, ...], needed: dict[str, Listing]
    ) -> tuple[_Bundle, ...]:
        """The bundles with what is needed as it is now, and with what was needed before."""
        bundles = []
        missing = dict(needed)
        for bundle in before:
            now = tuple(missing.pop(each.place.top, each) for each in bundle.listings)
            bundles += [bundle] if self._is_current(bundle, now) else self._made(now)
        large = [each for each in missing.values() if each.size > LARGE]
        small = [each for each in missing.values() if each.size <= LARGE]
        for group in (small, *([each] for each in large)):
            bundles += self._made(group)
        return tuple(bundles)

    def _is_current(self, bundle: _Bundle, now: tuple[Listing, ...]) -> bool:
        same = bundle.listings == now and all(each.settled for each in bundle.listings)
        return same and self._contents.find(bundle.content.sha256) is not None

    def _made(self, listings: Iterable[Listing]) -> list[_Bundle]:
        places = [each.place for each in listings]
        if not places:
            return []
        data, packed_as = packed(places, self._excluded, self._tick)
        packed_as = tuple(each for each in packed_as if each.members)  # else it is gone
        if not packed_as:
            return []
        return [_Bundle(packed_as, self._contents.keep(data))]

    def _imported_by(self, member: Member) -> frozenset[str]:
        """The modules that a file imports, by their whole names."""
        if not member.name.endswith(".py"):
            return frozenset()
        known = self._imports.get(member)
        if known is None:
            if len(self._imports) > _MOST_CODE:  # of files that were edited, most of them
                self._imports.clear()
            text = read(member).decode("utf-8", "replace").replace("\\\n", " ")
            known = self._imports[member] = frozenset(_imports_in(text))
        return known

    def _place(self, name: str, asked: dict[str, object]) -> Place | None:
        """Where the top of a module is, if it is own. What is loaded by that name is noted."""
        top = name.partition(".")[0]
        if top in self._included:
            return self._included[top]
        asked[top] = sys.modules.get(top)
        place = own_place(top)
        return None if place is None or (top, "") in self._excluded else place


def _note(bundles: Iterable[_Bundle]) -> None:
    """So that tracebacks name the files here."""
    listings = [each for bundle in bundles for each in bundle.listings]
    paths = {member.name: member.where for each in listings for member in each.members}
    note_folder(_wire.code_folder({bundle.content.sha256 for bundle in bundles}), paths)


def _excluded_name(item: Include) -> str:
    return item.__name__ if isinstance(item, ModuleType) else os.fspath(item)


def _included_place(item: Include) -> Place:
    """Where something is that goes along because the user says so.

    Raises:
        ValueError: there is no such thing.
    """
    name = item.__name__ if isinstance(item, ModuleType) else os.fspath(item)
    if not isinstance(item, ModuleType) and os.path.exists(name):
        path = os.path.abspath(name)
        return Place(os.path.basename(path).removesuffix(".py"), ((os.path.basename(path), path),))
    # In a container that a path does not lead to, what came along is a module.
    module = name if isinstance(item, ModuleType) else Path(name).name.removesuffix(".py")
    place = _place_of(module.partition(".")[0])
    if place is None:
        raise ValueError(f"include: {name!r} is no module that can be found here, and no path")
    return place


#: What is known of modules: what was loaded then, and where it is. Single operations, no lock.
_places: dict[str, tuple[object, Place | None]] = {}


def own_place(top: str) -> Place | None:
    """Where a module or package is, if it is the user's own."""
    module, known = sys.modules.get(top), _places.get(top)
    place = None if known is None or known[0] is not module else known[1]
    if place is None or (module is None and place.roots):  # what is not loaded may be elsewhere now
        place = _found(top)
        _places[top] = (module, place)
    return place if place is not None and place.roots else None


def _is_certain(top: str) -> bool:
    """Whether a module that was asked for is where it is as long as the same is loaded."""
    module, place = _places[top]
    return place is not None and (module is not None or not place.roots)


def _is_in_pieces(top: str) -> bool:
    """Whether all that is known of a package are modules that were loaded by themselves."""
    module, place = _places[top]
    return module is None and place is not None and any("/" in name for name, _ in place.roots)


def is_own(name: object) -> bool:
    """Whether a module is the user's: also the script, and those that are no files."""
    if not isinstance(name, str):
        return False
    top = name.partition(".")[0]
    if top in _MAIN or own_place(top) is not None:
        return True
    return _places[top][1] is None


def _found(top: str) -> Place | None:
    """Where a module is, as far as it is the user's own; None if it is nowhere."""
    if top in _NOT_OWN or top in sys.builtin_module_names:
        return Place(top, ())
    if top in sys.stdlib_module_names and top not in sys.modules:
        return Place(top, ())
    place = _place_of(top)
    if place is None:
        return Place(top, ()) if top in sys.stdlib_module_names else None
    own = [(name, path) for name, path in place.roots if not _is_installed(path, top)]
    return Place(top, (*own, *_metadata(path for _, path in own)))


def _metadata(paths: Iterable[str]) -> set[tuple[str, str]]:
    """The metadata of the editable installs that these are of: packages ask for their version."""
    above = [path + os.sep for path in paths]
    return {
        (os.path.basename(info), info)
        for info, project in _editables()
        if any(path.startswith(project) for path in above)
    }


@cache
def _editables() -> tuple[tuple[str, str], ...]:
    """The metadata and the project folder of each editable install (PEP 610)."""
    found = []
    for folder in filter(os.path.isdir, sys.path):
        for file in sorted(Path(folder).glob("*.dist-info/direct_url.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                origin = json.loads(file.read_text("utf-8"))
                url = urlsplit(origin["url"])
                if origin["dir_info"]["editable"] and url.scheme == "file":
                    found.append((str(file.parent), unquote(url.path).rstrip("/") + "/"))
    return tuple(x for x in found if not os.path.basename(x[0]).startswith("civis_futures-"))


def _place_of(top: str) -> Place | None:
    """The files and folders of a module or package, loaded or not; None if it has none."""
    try:
        file, folders = _file_and_folders(top)
    except Exception:  # what stands for a module may be anything, and so may who finds it
        return None
    if folders is not None:
        roots = [(top, os.path.abspath(folder)) for folder in folders if isinstance(folder, str)]
    elif isinstance(file, str):
        roots = [(top + file.removeprefix(os.path.splitext(file)[0]), os.path.abspath(file))]
    else:
        roots = []
    return Place(top, tuple(roots)) if roots else _place_of_parts(top)


def _file_and_folders(top: str) -> tuple[str | None, list[str] | None]:
    """The file of a module, or the folders of a package."""
    module = sys.modules.get(top)
    if module is None:
        spec = importlib.util.find_spec(top)
        if spec is None:
            return None, None
        file, folders = spec.origin if spec.has_location else None, spec.submodule_search_locations
    else:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
    return file, None if folders is None else list(folders)


def _place_of_parts(top: str) -> Place | None:
    """Where the modules of a package are that import cannot find; pytest may load its files so."""
    roots = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith(top + ".") and isinstance(file, str) and file.endswith(".py"):
            inner = "/__init__.py" if hasattr(module, "__path__") else ".py"
            roots.append((name.replace(".", "/") + inner, os.path.abspath(file)))
    return Place(top, tuple(sorted(roots))) if roots else None


@cache
def _is_installed(path: str, top: str) -> bool:
    """Whether a module at this path is of the standard library, or of a distribution."""
    folder = os.path.dirname(path)
    if not _INSTALLED.isdisjoint(Path(path).parts):
        return True
    if path.startswith(_STDLIB):
        return True
    try:
        infos = [entry for entry in os.listdir(folder) if entry.endswith(".dist-info")]
    except OSError:  # a zip, say
        return False
    for info in infos:  # of ``pip install --target``
        try:
            record = Path(folder, info, "RECORD").read_text("utf-8", "replace")
        except OSError:
            continue
        if re.search(rf"^{re.escape(top)}[./]", record, re.MULTILINE):
            return True
    return False


def _module_of(value: Any) -> Any:
    try:
        return value.__module__
    except Exception:  # it may do anything
        return None


def _imports_in(text: str) -> Iterator[str]:
    for match in _IMPORT.finditer(text):
        one, some, by_name = match.groups()
        if some is None:
            yield one or by_name
        else:
            yield from (part.split()[0] for part in some.split(",") if part.strip())


def _imports_of_function(function: FunctionType) -> Iterator[str]:
    """What the code of a function imports when it runs."""
    return resolved(imports_of_code(function.__code__), function.__globals__.get("__package__"))


def resolved(imports: Iterable[tuple[str, int]], package: object) -> Iterator[str]:
    """The whole names of what is imported in a package."""
    for name, level in imports:
        if not level:
            yield name
        elif isinstance(package, str) and package:
            above = package.split(".")[: len(package.split(".")) - level + 1]
            yield ".".join([*above, *([name] if name else [])])


#: How many pieces of code are remembered.
_MOST_CODE = 20_000
_by_code: dict[int, tuple[CodeType, tuple[tuple[str, int], ...]]] = {}


def imports_of_code(code: CodeType) -> tuple[tuple[str, int], ...]:
    """What code imports when it runs: modules, and what is taken from them, which may be modules
    too; each with the number of dots before it.
    """
    known = _by_code.get(id(code))
    if known is not None and known[0] is code:
        return known[1]
    found: list[tuple[str, int]] = []
    if bytes([dis.opmap["IMPORT_NAME"]]) in code.co_code:
        before: list[Any] = [0, None]
        for each in dis.get_instructions(code):
            if each.opname == "IMPORT_NAME":
                name, level, taken = str(each.argval), before[0] or 0, before[1] or ()
                found += [(name, level)] if name else []
                found += [(f"{name}.{part}".lstrip("."), level) for part in taken if part != "*"]
            before = [before[1], each.argval]
    by_name = not _BY_NAME.isdisjoint(code.co_names)  # as of a plugin
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += imports_of_code(constant)
        elif by_name and isinstance(constant, str) and _NAME.fullmatch(constant):
            found.append((constant, 0))
    while len(_by_code) >= _MOST_CODE:
        _by_code.pop(next(iter(_by_code)), None)
    _by_code[id(code)] = (code, tuple(found))
    return tuple(found)


def source_of(name: str) -> tuple[bytes, str]:
    """The source of a module of the user's, and the package that it is in; empty if none."""
    place = own_place(name.partition(".")[0])
    whole = name.replace(".", "/")
    for root, path in () if place is None else place.roots:
        for inner, package in ((".py", name.rpartition(".")[0]), ("/__init__.py", name)):
            if f"{whole}{inner}".startswith(root):
                file = Path(path + f"{whole}{inner}"[len(root) :])
                with contextlib.suppress(OSError):
                    return file.read_bytes(), package
    return b"", ""
