"""The user's modules in a worker: unpacked once, found first, each version in its own process."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile

import pytest

from civis_futures import _wire
from civis_futures.worker import _code


class Named:
    """Pickled as a function of a module that is not here."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __reduce__(self):
        return __import__, (self.module,)


def zipped(**files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/") + ".py", text)
    return target.getvalue()


@pytest.fixture
def call(stub):
    """call(task, module, zip, ...) -> a call that returns the module's `value` and its process."""
    files = {}

    def call(task, module, *zips):
        for data in zips:
            if data not in files:
                files[data] = stub.put_file(data)
        blobs = [_wire.Blob.in_file(files[x], _wire.digest(x), len(x)) for x in zips]
        # As ``(getattr, (module, "value"), {})``, where the module is known only there.
        data = pickle.dumps((getattr, (Named(module, "value"), "value"), {}))
        return _wire.Call(task, _wire.Blob.of(data), buffers=tuple(blobs), code=len(zips))

    return call


VALUE = """
import os, pathlib
value = ({!r}, os.getpid(), len([*pathlib.Path(__file__).parents[1].glob("code-*")]))
"""


def test_each_version_has_its_process(run, stub, call):
    one, two = zipped(helper=VALUE.format(1)), zipped(helper=VALUE.format(2))
    more = zipped(other=VALUE.format(3))
    answers = run([
        call(1, "helper", one), call(2, "helper", one), call(3, "other", one, more),
        call(4, "helper", one), call(5, "helper", two, more), call(6, "helper", one, more),
    ])  # fmt: skip
    values = [stub.outcome(answer) for answer in answers]
    assert [value for value, _, _ in values] == [1, 1, 3, 1, 2, 1]
    pids = [pid for _, pid, _ in values]
    assert values[-1][2] == 1, "what processes before had is removed"
    assert len({*pids[:4]}) == 1
    assert len({pids[0], pids[4], pids[5]}) == 3
    assert stub.count("GET", f"/files/{call.__closure__[0].cell_contents[one]}") == 1


def test_a_zip_that_is_none(run, stub, call):
    (answer,) = run([call(1, "helper", b"no zip")])
    assert answer.kind == _wire.CALL_NOT_FETCHED
    assert "zip" in answer.text


@pytest.mark.parametrize("name", ["../out.py", "/out.py", "a/../../out.py"])
def test_names_that_lead_elsewhere(tmp_path, name):
    archive = tmp_path / ("buffer-" + "0" * 64)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("first.py", "")
        file.writestr(name, "")
    with pytest.raises(ValueError, match=r"out\.py"):
        _code.unpacked([str(archive)], str(tmp_path / "code"))
    assert os.listdir(tmp_path) == [archive.name]


def test_what_was_imported_from_elsewhere_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(_code, "_used", [])
    monkeypatch.setattr(sys, "path", [str(tmp_path / "image"), *sys.path])
    for place, names in (
        ("image", ("swapped_m", "pack_m/__init__", "pack_m/old", "space_m/theirs")),
        ("code", ("swapped_m", "pack_m/__init__", "space_m/mine")),
    ):
        for name in names:
            path = tmp_path / place / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"place = {place!r}\n")
    there = ("swapped_m", "pack_m", "pack_m.old", "space_m.theirs")
    for name in there:
        monkeypatch.delitem(sys.modules, name, raising=False)
        __import__(name)
    theirs = sys.modules["space_m.theirs"]
    _code.use([str(tmp_path / "code")])
    assert __import__("swapped_m").place == "code"
    assert __import__("pack_m").place == "code"
    with pytest.raises(ModuleNotFoundError):
        __import__("pack_m.old")
    assert __import__("space_m.mine").mine.place == "code"
    assert __import__("space_m.theirs").theirs is theirs
    for name in ("swapped_m", "pack_m", "space_m", "space_m.mine", "space_m.theirs"):
        sys.modules.pop(name, None)


def test_they_are_found_again_if_a_call_has_emptied_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(_code, "_used", [])
    monkeypatch.setattr(sys, "path", [])
    folder = str(tmp_path)
    for _ in range(2):
        _code.use([folder])
        _code.use([folder])
        assert sys.path == [folder]
        sys.path.clear()


def test_a_worker_without_any_imports_nothing_for_it(run, stub):
    data = pickle.dumps(
        (eval, ("[x for x in __import__('sys').modules if 'zip' in x or '_code' in x]",), {})
    )
    (answer,) = run([_wire.Call(1, _wire.Blob.of(data))])
    assert [x for x in stub.outcome(answer) if x in ("zipfile", "civis_futures.worker._code")] == []
