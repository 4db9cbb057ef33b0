"""Modules as bytes: the same files give the same zip; what cannot be packed is refused by name."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import sys
import types
import zipfile

import pytest

from civis_futures._data import bundles, own
from civis_futures._data.bundles import CodeError, Excluded, Place, listing, packed
from civis_futures._data.own import OwnModules
from civis_futures._files.contents import ContentStore

NOTHING = Excluded()


@pytest.fixture
def package(tmp_path):
    """package(files) -> the place of a package with these files, by name and content."""

    def make(files, top="pack"):
        for name, data in files.items():
            path = tmp_path / top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Place(top, ((top, str(tmp_path / top)),))

    return make


def names_in(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def test_the_same_files_give_the_same_bytes(package, tmp_path):
    place = package({"b.py": b"1", "a.py": b"2", "deep/c.txt": b"3" * 100})
    data, _ = packed([place], NOTHING)
    shutil.copytree(tmp_path / "pack", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1, 1))
    assert packed([Place("pack", (("pack", str(tmp_path / "copy")),))], NOTHING)[0] == data
    assert names_in(data) == ["pack/a.py", "pack/b.py", "pack/deep/c.txt"]


@pytest.mark.parametrize("change", ["content", "length", "new", "gone", "moved over", "executable"])
def test_a_change_is_seen(package, tmp_path, change):
    place = package({"a.py": b"1", "b.py": b"2"})
    path = tmp_path / "pack/a.py"
    os.utime(path, (1, 1))
    before = listing(place, NOTHING)
    assert listing(place, NOTHING) == before
    match change:
        case "content":
            path.write_bytes(b"3")
            os.utime(path, (1, 1))  # as some tools do
        case "length":
            path.write_bytes(b"33")
        case "new":
            (tmp_path / "pack/c.py").touch()
        case "gone":
            path.unlink()
        case "moved over":
            (tmp_path / "pack/b.py").replace(path)
        case "executable":
            path.chmod(0o755)
    assert listing(place, NOTHING) != before


def test_what_was_changed_just_now_is_not_settled(package, tmp_path, until):
    """A second change may look the same within one tick of the file system's clock."""
    place = package({"a.py": b"1"})
    (tmp_path / "pack/a.py").write_bytes(b"2")
    assert not listing(place, NOTHING).settled
    until(lambda: listing(place, NOTHING).settled)


@pytest.mark.parametrize("meanwhile", ["grows", "changes", "vanishes"])
def test_files_that_change_while_they_are_packed(package, tmp_path, monkeypatch, meanwhile):
    place = package({"a.py": b"1", "b.py": b"2"})
    path, times = tmp_path / "pack/a.py", []

    def changing(*args, real=listing, **options):
        made = real(*args, **options)
        if len(times) < most:
            times.append(1)
            match meanwhile:
                case "grows":
                    path.write_bytes(b"1" + b"3" * len(times))
                case "changes":
                    path.write_bytes(b"%d" % (3 + len(times)))
                case "vanishes":
                    path.unlink(missing_ok=True)
        return made

    monkeypatch.setattr(bundles, "listing", changing)
    most = 1
    data, (made,) = packed([place], NOTHING)
    assert [member.name for member in made.members] == names_in(data)
    assert len(names_in(data)) == (1 if meanwhile == "vanishes" else 2)
    if meanwhile != "vanishes":
        most = 1000
        with pytest.raises(CodeError, match=r"a\.py changes while it is packed"):
            packed([place], NOTHING)


def test_a_folder_is_not_read_beyond_the_limits(package, tmp_path, monkeypatch):
    looked = []
    mark = bundles._mark
    monkeypatch.setattr(bundles, "_mark", lambda *about: looked.append(1) or mark(*about))
    place = package({f"d{n}/{m}": b"" for n in range(20) for m in range(20)})
    with pytest.raises(CodeError, match=r"'pack' .* 50 files.*exclude="):
        listing(place, NOTHING, most_files=50)
    assert len(looked) == 51
    for n in range(100):
        (tmp_path / f"bare/{n}").mkdir(parents=True)
    with pytest.raises(CodeError, match="exclude="):
        listing(Place("bare", (("bare", str(tmp_path / "bare")),)), NOTHING, most_files=50)


def test_how_deep(tmp_path):
    (tmp_path / "/".join(["deep"] + ["x"] * 80)).mkdir(parents=True)
    with pytest.raises(CodeError, match=r"deep.*'deep.*exclude="):
        listing(Place("deep", (("deep", str(tmp_path / "deep")),)), NOTHING)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("pack.sub", {"a.py", "x.csv", "data/y.csv"}),
        ("pack/sub/", {"a.py", "x.csv", "data/y.csv"}),
        ("pack.a", {"x.csv", "data/y.csv", "sub/b.py", "sub/x.csv"}),
        ("pack/a.py", {"x.csv", "data/y.csv", "sub/b.py", "sub/x.csv"}),
        ("*.csv", {"a.py", "sub/b.py"}),
        ("*/x.csv", {"a.py", "data/y.csv", "sub/b.py"}),
        ("pack/data/*", {"a.py", "x.csv", "sub/b.py", "sub/x.csv"}),
        ("pack", set()),
        ("{}/pack/data", {"a.py", "x.csv", "sub/b.py", "sub/x.csv"}),
        ("*/sub", {"a.py", "x.csv", "data/y.csv"}),
        ("sub", {"a.py", "x.csv", "data/y.csv", "sub/b.py", "sub/x.csv"}),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_exclude_says(package, tmp_path, exclude, left, zipped):
    files = dict.fromkeys(["a.py", "x.csv", "data/y.csv", "sub/b.py", "sub/x.csv"], b"")
    place = package(files)
    if zipped:
        if "{}" in exclude:
            pytest.skip("in a zip there are no paths")
        with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
            for name in files:
                archive.writestr(f"pack/{name}", b"")
        place = Place("pack", (("pack", str(tmp_path / "lib.zip/pack")),))
    found = listing(place, Excluded([exclude.format(tmp_path)])).members
    assert {member.name.removeprefix("pack/") for member in found} == left


def test_what_is_made_from_source_stays(package):
    place = package({"a.py": b"", "a.pyc": b"", "only.pyc": b""})
    found = [member.name for member in listing(place, NOTHING).members]
    assert found == ["pack/a.py", "pack/only.pyc"]


def test_a_file_that_cannot_be_read(package, monkeypatch):
    place = package({"a.py": b"1"})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CodeError, match=r"a\.py cannot be read.*exclude=\['pack/a\.py'\]"):
        packed([place], NOTHING)


# --- the library of a pool -----------------------------------------------------------------------


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return OwnModules(ContentStore("somewhere"), tick=-3600)  # all is settled


def needed(library, *modules):
    return [content.sha256 for content in library.bundles(frozenset(modules))]


def test_bundles_stay_as_they_are_while_nothing_changes(library, tmp_path):
    (tmp_path / "one_m.py").write_text("import two_m\n")
    (tmp_path / "two_m.py").write_text("")
    (tmp_path / "big_m.py").write_text("#" * (own.LARGE + 1))
    (tmp_path / "more_m.py").write_text("import big_m, one_m\n")
    first = needed(library, "one_m", "json", "numpy.linalg")
    assert len(first) == 1
    assert needed(library, "two_m") == first
    more = needed(library, "more_m")
    assert more[:1] == first
    assert len(more) == 3, "one with the small ones that are new, one for the large one"
    assert needed(library, "one_m") == more, "so that one process serves both"
    assert needed(library, "json") == []
    (tmp_path / "two_m.py").write_text("x = 1\n")
    edited = needed(library, "more_m")
    assert edited[0] != more[0]
    assert edited[1:] == more[1:]
    (tmp_path / "two_m.py").write_text("")
    assert needed(library, "one_m") == more, "what was there before is known"


def test_a_module_that_comes_late_or_goes(library, tmp_path):
    (tmp_path / "early_m.py").write_text("try:\n    import late_m\nexcept ImportError:\n    pass\n")
    first = needed(library, "early_m")
    (tmp_path / "late_m.py").write_text("")
    both = needed(library, "early_m")
    assert len(both) == 2
    (tmp_path / "late_m.py").unlink()
    assert needed(library, "early_m")[:1] == first
    (tmp_path / "early_m.py").unlink()
    assert needed(library, "early_m") in ([], both), "what is gone cannot be packed"


def test_of_many_files_not_each_call_looks_at_all(library, tmp_path, monkeypatch):
    looked, now = [], [100.0]
    real = own.OwnModules._holds, own.OwnModules._closure
    monkeypatch.setattr(own.time, "monotonic", lambda: now[0])

    def slow(how):
        def look(*args):
            looked.append(1)
            now[0] += 1.0
            return how(*args)

        return look

    monkeypatch.setattr(own.OwnModules, "_holds", slow(real[0]))
    monkeypatch.setattr(own.OwnModules, "_closure", slow(real[1]))
    for name in ("few_m", "many_m"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for n in range(own.FEW_FILES):
        (tmp_path / f"many_m/a{n}.py").touch()
    for _ in range(3):
        needed(library, "few_m")
    assert len(looked) == 3
    for seconds in (0.0, 0.5, 0.4, 0.2, 0.9, 0.2, 0.9):
        now[0] += seconds
        needed(library, "many_m")
    assert len(looked) == 3 + 3, "as long as it took"


def test_imports_are_found_in_any_source(library, tmp_path):
    text = """
        import aa_m, bb_m as b; import cc_m
        if True: from dd_m import (
            x)
        def broken(:
            from ee_m.inner import y
            importlib.import_module("ff_m")
        import gg_m, \\
            hh_m
        from . import nothing_m
        """
    names = [f"{letter}{letter}_m" for letter in "abcdefgh"]
    for name in (*names, "nothing_m"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "root_m.py").write_text(text)
    needed(library, "root_m")
    found = {each.place.top for bundle in library._known[0] for each in bundle.listings}
    assert found == {"root_m", *names}


NAMES = frozenset(["pack_m"])
CHANGES = {
    "the same size": lambda f: write(f / "pack_m/part.py", "x = 2\n"),
    "the same time": lambda f: write(f / "pack_m/part.py", "x = 22\n", (1, 1)),
    "new": lambda f: write(f / "pack_m/new.py", ""),
    "new in a folder": lambda f: write(f / "pack_m/data/new.txt", ""),
    "gone": lambda f: (f / "pack_m/data/a.txt").unlink(),
    "another in its place": lambda f: (f / "pack_m/data/a.txt").replace(f / "pack_m/part.py"),
    "may be run": lambda f: (f / "pack_m/part.py").chmod(0o755),
    "a link": lambda f: write(f / "aim.txt", "other"),
    "a folder is a cache": lambda f: write(f / "pack_m/data/CACHEDIR.TAG", ""),
    "what it imports": lambda f: write(f / "late_m.py", "x = 1\n"),
    "a file of a package that it imports": lambda f: write(f / "other_m/b.py", "x = 1\n"),
    "in front of another": lambda f: write(f / "first/other_m/__init__.py", "x = 1\n"),
    "a zip": lambda f: zip_of(f / "some.zip", "x = 2\n"),
    "another path": lambda f: sys.path.insert(0, str(f / "second")),
    "another module": lambda f: sys.modules.update(loaded_m=loaded(f / "second/loaded_m.py")),
}


def write(path, text, times=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if times is not None:
        os.utime(path, times)


def zip_of(path, text):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped_m.py", text)


def loaded(path):
    module = types.ModuleType("loaded_m")
    module.__file__ = str(path)
    return module


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package, and all ways in which modules may be found."""
    for name, text in {
        "pack_m/__init__.py": "import late_m, other_m, zipped_m, loaded_m\n",
        "pack_m/part.py": "x = 1\n", "pack_m/data/a.txt": "", "aim.txt": "1", "first/a.py": "",
        "other_m/__init__.py": "", "second/late_m.py": "", "second/loaded_m.py": "x = 2\n",
        "loaded_m.py": "x = 1\n",
    }.items():  # fmt: skip
        write(tmp_path / name, text)
    (tmp_path / "pack_m/link.txt").symlink_to(tmp_path / "aim.txt")
    zip_of(tmp_path / "some.zip", "x = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path), *sys.path])
    sys.path.append(str(tmp_path / "some.zip"))
    monkeypatch.setitem(sys.modules, "loaded_m", loaded(tmp_path / "loaded_m.py"))
    return tmp_path


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_quick_look_sees(project, monkeypatch, until, change):
    """All that a thorough one would: who has just been asked asks no more than for each path."""
    library, whole = OwnModules(ContentStore("somewhere"), tick=0.01), []
    real = own.listing
    monkeypatch.setattr(
        own, "listing", lambda *args, **options: whole.append(1) or real(*args, **options)
    )

    def files(library):
        archives = [zipfile.ZipFile(io.BytesIO(x.data)) for x in library.bundles(NAMES)]
        infos = [(each, info) for each in archives for info in each.infolist()]
        return {x.filename: (each.read(x), x.external_attr) for each, x in infos}

    def quick():
        files(library)
        before = len(whole)
        first = files(library)
        return first if len(whole) == before else None

    first = until(quick)
    CHANGES[change](project)
    importlib.invalidate_caches()
    assert files(library) == files(OwnModules(ContentStore("elsewhere"))) != first
    until(quick)


def test_calls_that_need_different_modules_do_not_make_each_other_look(library, project):
    needed(library, "pack_m")
    both = needed(library, "pack_m", "other_m"), needed(library, "loaded_m")
    looks = dict(library._known[1])
    assert len(looks) == 3
    assert (needed(library, "pack_m", "other_m"), needed(library, "loaded_m")) == both
    assert {name: id(look) for name, look in library._known[1].items()} == {
        name: id(look) for name, look in looks.items()
    }
