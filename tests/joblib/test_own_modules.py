"""The user's own modules go along over joblib, too, with the same options."""

from __future__ import annotations

import importlib
import sys

import pytest
from cases import mostly_repeats
from joblib import Parallel, delayed, parallel_config

import civis_futures as cf
import civis_joblib

FILES = {
    "fields/__init__.py": "from .area import area\n",
    "fields/area.py": "import lengths\ndef area(x, y):\n    return lengths.checked(x) * y\n",
    "lengths.py": "def checked(x):\n    return abs(x)\n",
    "plugin.py": "value = 5\n",
    "nesting.py": """
from joblib import Parallel, delayed
import fields

def outer(n):
    return Parallel(2)(delayed(fields.area)(n, y) for y in range(3))

def by_name(name):
    import importlib
    return importlib.import_module(name).value
""",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder on the path, with modules."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    importlib.invalidate_caches()
    yield importlib.import_module
    for name in [x for x in sys.modules if x.partition(".")[0] in {"fields", "lengths", "nesting"}]:
        del sys.modules[name]


def test_functions_of_own_modules(project):
    fields = project("fields")
    with parallel_config("civis", n_jobs=2):
        assert Parallel()(delayed(fields.area)(-2, y) for y in range(4)) == [0, 2, 4, 6]


@pytest.mark.parametrize("remote", mostly_repeats(["loky", "civis"], "civis"))
def test_within_a_task(project, remote, tmp_path):
    nesting = project("nesting")
    civis_joblib.register(remote_backend=remote, include=["lengths", tmp_path / "plugin.py"])
    with parallel_config("civis", n_jobs=6):
        assert Parallel()(delayed(nesting.outer)(n) for n in (1, 2)) == [[0, 1, 2], [0, 2, 4]]


def test_the_same_options(project):
    nesting = project("nesting")
    civis_joblib.register(include=["plugin"])
    with parallel_config("civis", n_jobs=2):
        assert Parallel()(delayed(nesting.by_name)("plugin") for _ in range(2)) == [5, 5]
    civis_joblib.register(code=False)
    with (
        parallel_config("civis", n_jobs=2),
        pytest.raises(cf.EnvironmentMismatchError, match="'nesting'"),
    ):
        Parallel()(delayed(nesting.by_name)("plugin") for _ in range(2))
    with pytest.raises(TypeError, match="exclude"):
        civis_joblib.make_backend_factory(exclude="plugin")
