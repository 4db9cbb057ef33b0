"""The user's own modules go along with the calls that need them; see docs/your-own-modules.md."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import cloudpickle
import pytest
from benchmarks.measure import running, spending

import civis_futures as cf
from civis_futures._data import own
from civis_futures._data.own import References

SECONDS = 60  # only a hang takes so long


@pytest.fixture
def project(tmp_path, monkeypatch):
    """project({name: text}) -> the folder, which is on the path, with these files in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(files):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), "utf-8")
        importlib.invalidate_caches()
        return folder

    yield write
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or str(tmp_path) in file:
            del sys.modules[name]


@pytest.fixture(scope="module")
def executor(platform):
    with cf.ContainerPoolExecutor(1, platform=platform, idle_timeout=60) as executor:
        yield executor


def load(name):
    return importlib.import_module(name)


def result(executor, function, *args):
    return executor.submit(function, *args).result(SECONDS)


def run(folder, *arguments):
    """What a process prints there."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# --- which ones travel ---------------------------------------------------------------------------

SHOP = {
    "shop.py": """
        import json
        import prices
        def total(items):
            return sum(prices.of(item) for item in items)
        def late(item):
            import rebates
            return prices.of(item) - rebates.OFF
        class Basket:
            def __init__(self, items):
                self.items = items
            def total(self):
                return total(self.items)
        """,
    "prices.py": "from tables import TABLE\ndef of(item):\n    return TABLE[item]\n",
    "tables.py": "TABLE = {'a': 1, 'b': 20}\n",
    "rebates.py": "OFF = 5\n",
    "unrelated.py": "1 / 0\n",
}


def test_a_function_with_what_its_module_imports(executor, project):
    project(SHOP)
    assert result(executor, load("shop").total, "aab") == 22


def test_an_import_within_a_function_that_nobody_has_made_yet(executor, project):
    project(SHOP)
    assert result(executor, load("shop").late, "b") == 15
    assert "rebates" not in sys.modules


def test_instances_go_and_come_back(executor, project):
    project(SHOP)
    shop = load("shop")
    basket = shop.Basket("ab")
    assert result(executor, basket.total) == 21
    back = result(executor, shop.Basket, "b")
    assert type(back) is shop.Basket
    assert back.items == "b"


def test_what_functions_by_value_use(executor, project):
    """As those of a script or a notebook are."""
    project(SHOP)
    shop = load("shop")

    def of_a_global(items):
        import prices

        return [shop.total(items), prices.of("a")]

    def of_a_name():
        import importlib

        return importlib.import_module("rebates").OFF

    assert result(executor, of_a_global, "ab") == [21, 1]
    assert result(executor, of_a_name) == 5
    assert result(executor, lambda: __import__("json").dumps(shop.total("b"))) == "20"


def test_what_is_found_by_its_name_only(executor, project):
    """Where nothing says so but a name: functions with a cache, constants that are one object."""
    project({"named.py": """
        import functools
        @functools.lru_cache
        def cached(x):
            return x + 1
        class Missing:
            def __reduce__(self):
                return "MISSING"
        MISSING = Missing()
        """})  # fmt: skip
    named = load("named")
    assert result(executor, named.cached, 1) == 2
    assert result(executor, str, named.MISSING).startswith("<named.Missing")
    assert result(executor, list, [named.MISSING]) == [named.MISSING]


def test_what_only_stands_for_a_module(executor, project, monkeypatch):
    class Odd:
        __path__ = 3

    monkeypatch.setitem(sys.modules, "odd_one", Odd())
    project({"careful.py": "try:\n    import odd_one\nexcept ImportError:\n    pass\n"
             "def f():\n    return 1\n"})  # fmt: skip
    assert result(executor, load("careful").f) == 1


def test_what_is_registered_to_go_by_value_needs_no_module(project):
    project({"valued.py": "class V:\n    pass\ndef f(v):\n    return type(v).__name__\n"})
    valued = load("valued")
    cloudpickle.register_pickle_by_value(valued)
    try:
        references = References(cloudpickle.list_registry_pickle_by_value())
        references.meet(valued.V(), by_value=False)
        references.meet(valued.V, by_value=True)
        references.meet(valued.f, by_value=True)
    finally:
        cloudpickle.unregister_pickle_by_value(valued)
    assert references.modules == set()


def test_what_shared_data_is_made_of(executor, project):
    project(SHOP)
    handle = executor.put([load("shop").Basket("aaa")] * 3)
    assert result(executor, lambda baskets: [x.total() for x in baskets], handle) == [3] * 3


def test_an_initializer(make_executor, project):
    project({"setting.py": "value = None\ndef init(x):\n    global value\n    value = x\n"
             "def get():\n    return value\n"})  # fmt: skip
    setting = load("setting")
    executor = make_executor(1, initializer=setting.init, initargs=(7,))
    assert result(executor, setting.get) == 7


def test_an_initializer_that_is_edited(make_executor, project):
    """With a call that needs its module it is of the call's version."""
    text = "import plain\nvalue = None\ndef init():\n    global value\n    value = {}\n"
    text += "def get():\n    return value, plain.__name__\n"
    folder = project({"starting.py": text.format(1), "plain.py": "def f():\n    return 0\n"})
    starting, plain = load("starting"), load("plain")
    executor = make_executor(1, initializer=starting.init)
    assert result(executor, plain.f) == 0
    assert result(executor, starting.get) == (1, "plain")
    (folder / "starting.py").write_text(text.format(2))
    assert result(executor, abs, -3) == 3
    assert result(executor, starting.get) == (2, "plain")


def test_a_package_travels_whole(executor, project):
    folder = project({
        "goods/__init__.py": "from . import a\n",
        "goods/a.py": "from .deep import b\nfrom .deep.b import C\n",
        "goods/deep/__init__.py": "",
        "goods/deep/b.py": """
            from pathlib import Path
            from .. import a
            C = 3
            def names(folder=Path(__file__).parents[1]):
                return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if x.is_file())
            def text():
                import importlib.resources
                return (importlib.resources.files("goods") / "data" / "ä.txt").read_text("utf-8")
            """,
        "goods/data/ä.txt": "schön",
        "goods/__pycache__/a.cpython-311.pyc": "",
        "goods/.git/config": "",
        "goods/cache/CACHEDIR.TAG": "Signature: 8a477f597d28d172789f06886806bc55",
        "goods/cache/x": "",
    })  # fmt: skip
    (folder / "goods/run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "goods/run.sh").chmod(0o755)
    b = load("goods.deep.b")
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        there = result(executor, b.names)
    finally:
        sys.dont_write_bytecode = before
    there = [name for name in there if "__pycache__" not in name]
    assert there == [
        "__init__.py", "a.py", "data/ä.txt", "deep/__init__.py", "deep/b.py", "run.sh",
    ]  # fmt: skip
    assert result(executor, b.text) == "schön"
    goods = load("goods")

    def run_it():
        path = Path(goods.__file__).parent / "run.sh"
        return subprocess.run([path], capture_output=True, text=True, check=True).stdout

    assert result(executor, run_it) == "ran\n"


def test_parts_of_a_namespace_package(executor, project, monkeypatch, tmp_path):
    project({"acme/one/__init__.py": "from acme.two import x\ndef f():\n    return x\n"})
    (tmp_path / "more/acme").mkdir(parents=True)
    (tmp_path / "more/acme/two.py").write_text("x = 2\n")
    installed = tmp_path / "venv/site-packages/acme"
    installed.mkdir(parents=True)
    (installed / "three.py").write_text("x = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    monkeypatch.syspath_prepend(str(installed.parent))
    one = load("acme.one")
    assert result(executor, one.f) == 2

    def three():
        import acme.three

        return acme.three.x

    with pytest.raises(ModuleNotFoundError, match="three"):
        result(executor, three)


def test_in_a_zip(executor, tmp_path, monkeypatch):
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inner/zipped/__init__.py", "from .b import f\nimport beside\n")
        file.writestr(
            "inner/zipped/b.py", "def f(x):\n    import beside\n    return beside.y + x\n"
        )
        file.writestr("inner/beside.py", "y = 10\n")
    monkeypatch.syspath_prepend(str(archive / "inner"))
    try:
        assert result(executor, load("zipped").f, 1) == 11
    finally:
        for name in ("zipped", "zipped.b", "beside"):
            sys.modules.pop(name, None)


def test_an_editable_install_knows_its_version(executor, tmp_path, monkeypatch):
    site, source = tmp_path / "site-packages", tmp_path / "pro ject" / "src"
    (site / "made_up-4.5.dist-info").mkdir(parents=True)
    (site / "made_up-4.5.dist-info/METADATA").write_text("Name: made-up\nVersion: 4.5\n")
    url = {"url": source.parent.as_uri(), "dir_info": {"editable": True}}
    (site / "made_up-4.5.dist-info/direct_url.json").write_text(json.dumps(url))
    for name in ("made_up", "made_up_too"):
        (source / name).mkdir(parents=True)
        (source / name / "__init__.py").write_text(
            "from importlib.metadata import version\nV = version('made-up')\n"
            "def f():\n    return V\n"
        )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(source))
    own._editables.cache_clear()
    try:
        made_up, too = load("made_up"), load("made_up_too")
        assert result(executor, lambda: [made_up.f(), too.f()]) == ["4.5", "4.5"]
    finally:
        own._editables.cache_clear()
        sys.modules.pop("made_up"), sys.modules.pop("made_up_too")


def test_what_is_installed_does_not_travel(executor, project, tmp_path, monkeypatch):
    """As with ``pip install --target``; its compiled parts would not be good there either."""
    target = tmp_path / "target"
    (target / "vendored").mkdir(parents=True)
    (target / "vendored/__init__.py").write_text("def f():\n    return 1\n")
    (target / "vendored/fast.so").write_bytes(b"")
    (target / "vendored-1.0.dist-info").mkdir()
    (target / "vendored-1.0.dist-info/RECORD").write_text("vendored/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(target))
    vendored = load("vendored")
    try:
        with pytest.raises(cf.EnvironmentMismatchError, match="'vendored'"):
            result(executor, vendored.f)
    finally:
        del sys.modules["vendored"]


def test_one_with_the_name_of_the_standard_library(executor, project, monkeypatch):
    """As here: where hers is imported, it is hers."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    project({"colorsys.py": "def mine():\n    return 'mine'\n"})
    mine = load("colorsys").mine

    def red():
        import colorsys

        return colorsys.rgb_to_hsv(1, 0, 0)

    assert result(executor, mine) == "mine"
    with pytest.raises(AttributeError, match="rgb_to_hsv"):
        result(executor, red)


def test_include_exclude_and_none(make_executor, project, tmp_path):
    project({
        "by_name.py": "x = 1\n",
        "left.py": "",
        "taken/__init__.py": "from pathlib import Path\n"
        "def names():\n    return sorted(x.name for x in Path(__file__).parent.iterdir())\n",
        "taken/big.parquet": "",
        "taken/tests/test_it.py": "",
        "taken/kept.txt": "",
    })  # fmt: skip
    (tmp_path / "elsewhere.py").write_text("x = 2\n")

    def find(*names):
        found = []
        for name in names:
            try:
                found.append(importlib.import_module(name).x)
            except ModuleNotFoundError:
                found.append(None)
        return found

    executor = make_executor(
        1,
        include=["by_name", tmp_path / "elsewhere.py"],
        exclude=["left", "*.parquet", "taken.tests"],
    )
    assert result(executor, find, "by_name", "elsewhere") == [1, 2]
    names = [x for x in result(executor, load("taken").names) if x != "__pycache__"]
    assert names == ["__init__.py", "kept.txt"]
    off = make_executor(1, code=False)
    with pytest.raises(cf.EnvironmentMismatchError, match=r"'taken'.*code=False"):
        result(off, load("taken").names)


def test_what_is_included_lies_next_to_the_modules(make_executor, project):
    folder = project({
        "reading.py": "from pathlib import Path\nimport big_one\n"
        "def read():\n    return (Path(__file__).resolve().parent / 'table.csv').read_text()\n",
        "big_one.py": "#" * 1_100_000,
        "table.csv": "1,2",
    })  # fmt: skip
    executor = make_executor(1, include=[folder / "table.csv"])
    assert result(executor, pow, 2, 2) == 4
    assert result(executor, load("reading").read) == "1,2"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"include": "shop"}, TypeError),
        ({"exclude": [3]}, TypeError),
        ({"code": "no"}, TypeError),
        ({"include": ["json"], "code": False}, ValueError),
        ({"include": ["no_such_thing"]}, ValueError),
    ],
)
def test_options_that_mean_nothing(make_executor, options, error):
    with pytest.raises(error, match=next(iter(options))):
        make_executor(1, **options)


# --- programs ------------------------------------------------------------------------------------

SCRIPT = """
    import helper
    from civis_futures import ContainerPoolExecutor

    def use(x):
        return helper.f(x) + 1

    if __name__ == "__main__":
        with ContainerPoolExecutor(1, platform="local") as executor:
            print(*executor.map(use, [1, 2]), executor.submit(helper.f, 3).result())
    """


def test_a_script(project):
    folder = project({"script.py": SCRIPT, "helper.py": "def f(x):\n    return 10 * x\n"})
    assert run(folder.parent, str(folder / "script.py")) == ["11", "21", "30"]


def test_a_class_of_the_script_whose_base_wants_a_keyword(project):
    folder = project({
        "plugins.py": "class Plugin:\n    def __init_subclass__(cls, *, key):\n"
        "        super().__init_subclass__()\n        cls.key = key\n",
        "script.py": """
            from civis_futures import ContainerPoolExecutor
            from plugins import Plugin

            class Mine(Plugin, key="mine"):
                def told(self):
                    return self.key

            if __name__ == "__main__":
                with ContainerPoolExecutor(1, platform="local") as executor:
                    print(executor.submit(Mine().told).result())
                    print(type(executor.submit(Mine).result()) is Mine)
            """,
    })  # fmt: skip
    assert run(folder, "script.py") == ["mine", "True"]


def test_a_module_that_is_run(project):
    folder = project({
        "tool/__init__.py": "",
        "tool/__main__.py": SCRIPT.replace("import helper", "from . import helper").replace(
            "return helper", "from .more import g\n        return g() + helper"),
        "tool/helper.py": "def f(x):\n    return 10 * x\n",
        "tool/more.py": "def g():\n    return 100\n",
    })  # fmt: skip
    assert run(folder, "-m", "tool") == ["111", "121", "30"]


# --- edits ---------------------------------------------------------------------------------------


def test_an_edit_counts_from_the_next_call_on(executor, project):
    folder = project(
        {"edited.py": "import edits\ndef f():\n    return edits.A\n", "edits.py": "A = 1\n"}
    )
    f = load("edited").f
    first = executor.submit(f)
    assert first.result(SECONDS) == 1
    (folder / "edits.py").write_text("A = 2\n")
    second = executor.submit(f)
    (folder / "edits.py").write_text("A = 3\n")
    third = executor.submit(f)
    assert [second.result(SECONDS), third.result(SECONDS)] == [2, 3]
    assert first.job_id == second.job_id == third.job_id, "the workers stay"


WAITING = """
    import pathlib
    import time
    A = 1

    def versions(gate):
        pathlib.Path(gate, "arrived-it").touch()
        while not pathlib.Path(gate, "open").exists():
            time.sleep(0.01)
        import mixed.late
        return A, mixed.late.A
    """


def test_no_call_mixes_two_versions(executor, project, gate, until):
    folder = project({"mixed/__init__.py": WAITING, "mixed/late.py": "A = 1\n"})
    versions = load("mixed").versions
    old = executor.submit(versions, gate.path)
    queued = executor.submit(versions, gate.path)
    until(lambda: gate.arrived)
    for name in ("__init__", "late"):
        path = folder / f"mixed/{name}.py"
        path.write_text(path.read_text().replace("A = 1", "A = 2"))
    new = executor.submit(versions, gate.path)
    gate.open()
    assert [x.result(SECONDS) for x in (old, queued, new)] == [(1, 1), (1, 1), (2, 2)]


def test_a_process_stays_while_nothing_is_edited(executor, project):
    """Also when calls need more modules than those before."""
    project({"alpha.py": "import os\ncalls = []\ndef pid():\n    calls.append(os.getpid())\n"
             "    return calls\n"})  # fmt: skip
    project({"beta.py": "import alpha\ndef pid():\n    return alpha.pid()\n"})
    alpha, beta = load("alpha"), load("beta")
    first, then, last = (result(executor, x.pid) for x in (alpha, beta, alpha))
    assert last == first * 3, "what a process has in memory stays"
    assert then == first * 2
    assert [result(executor, os.getpid)] == first


def test_a_session_notices(project, platform, make_executor):
    folder = project({"learning.py": "import rates\ndef fit(x):\n    return rates.of(x)\n",
                      "rates.py": "def of(x):\n    return x * 2\n"})  # fmt: skip
    fit = load("learning").fit

    def run(session="own modules"):
        with cf.ContainerPoolExecutor(1, platform=platform, session=session) as executor:
            future = executor.submit(fit, 4)
            return future.result(SECONDS), future.run_id

    try:
        first = run()
        (folder / "rates.py").write_text("# a comment\n\ndef of(x):\n    return x * 2\n")
        importlib.reload(load("rates"))
        assert run() == first
        (folder / "rates.py").write_text("def of(x):\n    return x * 3  # it was 2\n")
        importlib.reload(load("rates"))
        with pytest.raises(cf.SessionMismatchError, match="fit does something else now"):
            run()
    finally:
        cf.purge("own modules", platform=platform)


# --- what it costs -------------------------------------------------------------------------------


def test_requests(project):
    """One File for all that is small; none and no request for calls whose code is known."""
    project(SHOP)
    total = load("shop").total
    with running() as platform, cf.ContainerPoolExecutor(1, platform=platform) as executor:
        result(executor, pow, 2, 3)
        with spending(platform) as own:
            assert result(executor, total, "a") == 1
        with spending(platform) as known:
            assert result(executor, total, "ab") == 21
    assert own.uploads == 1
    assert (known.uploads, known.downloads) == (0, 0)


def test_tracebacks_name_the_files_here(executor, project):
    folder = project({"failing.py": "def f():\n    return 1 / 0  # a division\n"})
    text = executor.submit(load("failing").f).exception(SECONDS).__cause__.text
    assert f'File "{folder}/failing.py", line 2, in f\n    return 1 / 0  # a division\n' in text


# --- what cannot be sent -------------------------------------------------------------------------


def refusal(executor, function, *args):
    error = executor.submit(function, *args).exception(SECONDS)
    assert type(error) is cf.CallPicklingError
    return str(error)


def test_compiled_parts(executor, project):
    folder = project({"quick/__init__.py": "def f():\n    return 1\n"})
    (folder / "quick/_fast.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
    said = refusal(executor, load("quick").f)
    assert "_fast.cpython-311" in said
    assert "exclude=['quick']" in said


def test_a_package_that_is_too_large(executor, project, monkeypatch):
    folder = project({"heavy/__init__.py": "def f():\n    return 1\n"})
    with open(folder / "heavy/model.bin", "wb") as file:
        file.truncate(3_000_000_000)  # takes no room
    for number in range(50):
        (folder / f"heavy/z{number}").touch()
    said = refusal(executor, load("heavy").f)
    assert "heavy/model.bin (3,000,000,000 bytes)" in said
    assert "100,000,000 bytes" in said
    assert "exclude=" in said
    assert "put()" in said


def test_only_what_is_needed_of_a_large_folder(executor, project):
    folder = project({"lone.py": "def f():\n    return 1\n"})
    with open(folder / "data.bin", "wb") as file:
        file.truncate(3_000_000_000)
    assert result(executor, load("lone").f) == 1


def test_a_module_that_is_broken_by_now(executor, project):
    folder = project({"broken.py": "def f():\n    return 1\n"})
    f = load("broken").f
    (folder / "broken.py").write_text("def f(:\n")
    error = executor.submit(f).exception(SECONDS)
    assert type(error) is cf.CallUnpicklingError
    assert "SyntaxError" in str(error)
    assert "in your broken.py, line 1" in str(error)
    assert f'File "{folder}/broken.py", line 1' in error.__cause__.text


def test_one_that_fails_in_the_container_only(executor, project):
    project({
        "needy.py": "import os, sys\nif 'civis_futures_worker' in sys.modules:\n"
        "    raise KeyError('no such table')\ndef f():\n    return 1\n",
        "lacking.py": "import sys\nif 'civis_futures_worker' in sys.modules:\n"
        "    import no_such_library\ndef f():\n    return 1\n",
    })  # fmt: skip
    error = executor.submit(load("needy").f).exception(SECONDS)
    assert type(error) is cf.CallUnpicklingError
    assert "no such table" in str(error)
    assert "in your needy.py, line 3" in str(error)
    error = executor.submit(load("lacking").f).exception(SECONDS)
    assert type(error) is cf.EnvironmentMismatchError
    assert "'no_such_library'" in str(error)


def test_links_are_what_they_lead_to(executor, project, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/table.txt").write_text("42")
    folder = project({
        "linked/__init__.py": "from pathlib import Path\nHERE = Path(__file__).parent\n"
        "def f():\n    return [(HERE / x).read_text() for x in ('table.txt', 'out/table.txt')]\n"
    })  # fmt: skip
    (folder / "linked/table.txt").symlink_to(tmp_path / "out/table.txt")
    (folder / "linked/out").symlink_to(tmp_path / "out")
    (folder / "linked/loop").symlink_to(folder / "linked")
    (folder / "linked/nowhere").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "linked/pipe")
    assert result(executor, load("linked").f) == ["42", "42"]


def test_what_a_module_has_by_a_name_is_the_one_that_is_there(executor, project):
    """Context variables, which do not say of which module they are, and what a function gives that
    is in another module than the class.
    """
    project({
        "settings.py": """
            from contextvars import ContextVar
            import threading
            DEPTH = ContextVar("depth of this", default=0)
            def set_depth(value):
                DEPTH.set(value)
            class Missing:
                def __init__(self):
                    self.lock = threading.Lock()
                def __reduce__(self):
                    import constants
                    return constants.missing, ()
            """,
        "constants.py": """
            import settings
            MISSING = settings.Missing()
            def missing():
                return MISSING
            """,
    })  # fmt: skip
    script = {"__name__": "__main__", "DEPTH": load("settings").DEPTH}
    exec(
        "import constants, settings\n"
        "def depth():\n"
        "    settings.set_depth(5)\n"
        "    return DEPTH.get()\n"
        "def is_missing(x):\n"
        "    return x is constants.MISSING\n",
        script,
    )
    assert result(executor, script["depth"]) == 5
    assert result(executor, script["is_missing"], load("constants").MISSING)


def test_a_name_that_is_not_utf8(executor, make_executor, project):
    folder = project({"latin/__init__.py": "def f():\n    return 1\n"})
    path = os.fsencode(folder / "latin") + b"/caf\xe9.txt"
    with open(path, "w"):
        pass
    said = refusal(executor, load("latin").f)
    assert "caf\\udce9.txt" in said
    exclude = ast.literal_eval(said.partition("exclude=")[2])
    assert result(make_executor(1, exclude=exclude), load("latin").f) == 1
