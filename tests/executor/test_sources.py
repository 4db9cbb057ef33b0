"""A traceback from a container shows the user's own files and lines, as one from here does."""

from __future__ import annotations

import doctest
import importlib
import linecache
import os
import subprocess
import sys
import textwrap
import traceback
from types import FunctionType

import cloudpickle
import pytest
from cases import mostly_repeats
from tasks import SECONDS

import civis_futures as cf
from civis_futures._data import sources

#: A module of a user's. Each function of it fails in another way.
SHOP = """
import asyncio
import contextlib
import functools
import threading
import time


def helper(x):
    return 1 / x


def call_a_helper():
    return helper(0)


class Model:
    rate = property(lambda self: self.missing)

    def fit(self, rows):
        return [
            helper(row) +
            self.offset
            for row in rows
        ]

    @classmethod
    def made(cls):
        return cls().fit([1, 0])

    @staticmethod
    def static():
        return Model().rate


def a_method():
    return Model().fit([1])


a_classmethod, a_staticmethod = Model.made, Model.static
a_lambda = lambda: (lambda x: x["schlüssel"])({"ü": 1})  # noqa: E731


def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


@logged
@logged
def decorated():
    def nested():
        def deeper():
            return helper(0)
        return deeper()
    return nested()


def rows():
    yield 1
    yield helper(0)


def a_generator():
    return [row for row in rows()]


def a_genexp():
    return sum(helper(x) for x in (1, 0))


async def later():
    await asyncio.sleep(0)
    async with contextlib.AsyncExitStack():
        return helper(0)


def async_functions():
    return asyncio.run(later())


def a_chain():
    try:
        helper(0)
    except ZeroDivisionError:
        try:
            Model().fit([1])
        except AttributeError as error:
            error.add_note("a note\\n  File \\"not/a/frame.py\\", line 1, in it")
            raise RuntimeError("worse") from error


def in_a_handler():
    try:
        helper(0)
    except ZeroDivisionError:
        return a_lambda()


def a_group():
    errors = []
    for each in (call_a_helper, a_chain, decorated):
        try:
            each()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("three", [ExceptionGroup("inner", errors[:2]), errors[2]])


def recursion(depth=200):
    return recursion(depth - 1) if depth else helper(0)


def a_syntax_error():
    return compile("a = (1,\\n  b", "there.py", "exec")


def its_own_code():
    return eval(compile("1 / 0", "<its own>", "eval"))
"""
KINDS = [
    "call_a_helper", "a_method", "a_classmethod", "a_staticmethod", "a_lambda", "decorated",
    "a_generator", "a_genexp", "async_functions", "a_chain", "in_a_handler", "a_group", "recursion",
    "a_syntax_error", "its_own_code",
]  # fmt: skip
#: Calls that wait, so that something can happen to their file before they fail.
WAITING = """
import pathlib
import time


def wait(gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
    return 1 / 0  # as it was sent
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """modules(name, source) -> the module, of a file that containers do not import."""
    made = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source, "utf-8")
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        cloudpickle.register_pickle_by_value(module)
        made.append(module)
        return module

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for module in made:
        cloudpickle.unregister_pickle_by_value(module)
        sys.modules.pop(module.__name__, None)


@pytest.fixture(scope="module")
def executor(platform):
    with cf.ContainerPoolExecutor(1, platform=platform, idle_timeout=30) as executor:
        yield executor


def text_of(future):
    """The traceback from the container."""
    return future.exception(SECONDS).__cause__.text


def text_here(function, *args):
    """What the interpreter shows if it is called here, from its own frame on."""
    try:
        function(*args)
    except BaseException as error:
        trace = error.__traceback__.tb_next
        return "".join(traceback.format_exception(type(error), error, trace))
    raise AssertionError("it does not fail")


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_interpreter_shows_it_here(executor, modules, kind):
    function = getattr(modules("shop", SHOP), kind)
    here = text_here(function)
    assert "shop.py" in here
    assert text_of(executor.submit(function)) == here


@pytest.mark.parametrize("becomes", ["another file", "no file"])
def test_what_was_sent_is_what_is_shown(executor, modules, tmp_path, becomes):
    module = modules("waiting", WAITING)
    path, gate = tmp_path / "waiting.py", tmp_path / "gate"
    future = executor.submit(module.wait, str(gate))
    if becomes == "no file":
        path.unlink()
    else:  # for the container it is at the same place
        path.write_text(WAITING.replace("as it was sent", "another one"))
    linecache.checkcache()
    gate.touch()
    text = text_of(future)
    assert f'File "{path}", line 9, in wait\n    return 1 / 0  # as it was sent\n' in text


def test_a_file_that_was_changed_before_is_not_shown(executor, modules, tmp_path):
    module = modules("waiting", WAITING)
    path, gate = tmp_path / "waiting.py", tmp_path / "gate"
    gate.touch()
    path.write_text(WAITING.replace("import time", "import time, os").replace("1 / 0", "2 / 0"))
    text = text_of(executor.submit(module.wait, str(gate)))
    assert f'File "{path}", line 9, in wait\nZeroDivisionError' in text


def test_a_module_that_is_loaded_again(executor, modules, tmp_path):
    module = modules("waiting", WAITING)
    old, gate = module.wait, tmp_path / "gate"
    first = executor.submit(old, str(gate))
    (tmp_path / "waiting.py").write_text("# one more line\n" + WAITING.replace("1 / 0", "2 / 0"))
    importlib.reload(module)
    second, third = executor.submit(module.wait, str(gate)), executor.submit(old, str(gate))
    gate.touch()
    for future, line in ((first, "1 / 0"), (second, "2 / 0"), (third, "1 / 0")):
        assert f"    return {line}  # as it was sent\n" in text_of(future)


GIVING = "def give_back(function):\n    return function\n"


def test_what_came_by_value_is_not_of_the_file_that_is_here(
    executor, modules, tmp_path, monkeypatch
):
    """As in a container that has an executor itself: its own file may be another one."""
    module, gate = modules("waiting", WAITING), tmp_path / "gate"
    gate.touch()
    monkeypatch.delitem(sys.modules, "waiting")  # or it would come back as what it is here
    came = executor.submit(modules("giving", GIVING).give_back, module.wait).result(SECONDS)
    sources._known.clear()
    path = tmp_path / "waiting.py"
    path.write_text(WAITING.replace("1 / 0  # as it", "2 / 0  # so it"))
    os.utime(path, (1e9, 1e9))  # long before this process
    text = text_of(executor.submit(came, str(gate)))
    assert f'File "{path}", line 9, in wait\nZeroDivisionError' in text
    path.write_text(WAITING)
    os.utime(path, (1.1e9, 1.1e9))  # or linecache would not see that it changed
    again = executor.submit(modules("more", GIVING).give_back, came).result(SECONDS)
    assert "as it was sent" in text_of(executor.submit(again, str(gate)))


def test_only_so_much_is_remembered(executor, modules):
    shop = modules("shop", SHOP)
    for kind in KINDS[:6]:
        text_of(executor.submit(getattr(shop, kind)))
    for function in (shop.helper, shop.call_a_helper):
        code = function.__code__.replace()  # as if it was never seen
        sources.note(FunctionType(code, function.__globals__), most=5)
        assert len(sources._seen) <= 5
        assert len(sources._known) <= 10
    text = text_of(executor.submit(modules("others", OTHERS).raise_odd))
    assert "raise Odd()  # in raise_odd" in text


def test_code_of_no_file(executor, monkeypatch):
    source = "def made_up(x):\n    return 1 / x  # made up\n"
    monkeypatch.setitem(linecache.cache, "<made>", (1, None, source.splitlines(True), "<made>"))
    names = {"__name__": "made_up_module"}
    exec(compile(source, "<made>", "exec"), names)
    text = text_of(executor.submit(names["made_up"], 0))
    assert 'File "<made>", line 2, in made_up\n    return 1 / x  # made up\n' in text


def test_a_doctest(executor):
    example = """
    >>> def halved(x):
    ...     return 1 / x  # of a doctest
    >>> print(text_of(executor.submit(halved, 0)))
    """
    test = doctest.DocTestParser().get_doctest(
        textwrap.dedent(example), {"executor": executor, "text_of": text_of}, "it", "it.txt", 0
    )
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert "return 1 / x  # of a doctest" in "".join(said)


SCRIPT = """
from civis_futures import ContainerPoolExecutor
def helper(x):
    return 1 / x  # of a script

if __name__ == "__main__":
    with ContainerPoolExecutor(1, platform="local") as executor:
        print(executor.submit(lambda: helper(0)).exception().__cause__.text)
"""


@pytest.mark.parametrize("how", mostly_repeats(["script", "-c", "stdin"], "script"))
def test_main(tmp_path, how):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    arguments = {"script": [path], "-c": ["-c", SCRIPT], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=SCRIPT if how == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    name = {"script": path, "-c": "<string>", "stdin": "<stdin>"}[how]
    assert f'  File "{name}", line 4, in helper\n' in done.stdout, done.stderr
    if how == "script":
        assert "    return 1 / x  # of a script\n" in done.stdout
        assert "    print(executor.submit(lambda: helper(0)).exception()" in done.stdout


# --- what else has a traceback in it -------------------------------------------------------------

OTHERS = """
import threading


class Unloadable:
    def __reduce__(self):
        return load, ()


class Unpicklable:
    def __reduce__(self):
        raise ValueError("not this one")  # in reduce


class Odd(Exception):
    def __reduce__(self):
        raise ValueError("nor this")  # in reduce


def load():
    raise ValueError("not here")  # in load


def ignore(x):
    return Unpicklable()


def fail(x):
    if x == 5:
        raise ValueError(x)  # in fail


def raise_odd():
    raise Odd()  # in raise_odd


def raise_long():
    raise ValueError("x" * 100_000)  # in raise_long


def a_function():
    return lambda: 1 / 0
"""


def test_a_call_that_cannot_be_unpickled(executor, modules):
    others = modules("others", OTHERS)
    text = text_of(executor.submit(len, others.Unloadable()))
    assert 'raise ValueError("not here")  # in load\n' in text


def test_outcomes_that_cannot_be_pickled(executor, modules):
    others = modules("others", OTHERS)
    error = executor.submit(others.ignore, 1).exception(SECONDS)
    assert type(error) is cf.OutcomePicklingError
    assert 'raise ValueError("not this one")  # in reduce\n' in error.__cause__.text
    error = executor.submit(others.raise_odd).exception(SECONDS)
    assert type(error) is cf.OutcomePicklingError
    assert "raise Odd()  # in raise_odd\n" in error.__cause__.text


def test_an_item_of_a_chunk(executor, modules):
    others = modules("others", OTHERS)
    with pytest.raises(ValueError, match="5") as caught:
        list(executor.map(others.fail, range(8), chunksize=3))
    assert "raise ValueError(x)  # in fail\n" in caught.value.__cause__.text


def test_a_long_text(executor, modules):
    text = text_of(executor.submit(modules("others", OTHERS).raise_long))
    assert 'raise ValueError("x" * 100_000)  # in raise_long\n' in text
    assert len(text) < 21_000


def test_an_initializer(make_executor, modules):
    executor = make_executor(1, initializer=modules("others", OTHERS).load)
    error = executor.submit(pow, 2, 3).exception(SECONDS)
    assert type(error) is cf.BrokenContainerPool
    assert 'raise ValueError("not here")  # in load\n' in str(error)


def test_a_function_that_comes_back(executor, modules):
    others = modules("others", OTHERS)
    made = executor.submit(others.a_function).result(SECONDS)
    assert made.__code__.co_filename == others.__file__
    assert "return lambda: 1 / 0" in text_here(made)


def test_nothing_is_asked_of_the_disk_for_what_was_sent_before(executor, modules, monkeypatch):
    function = modules("shop", SHOP).helper
    executor.submit(function, 1).result(SECONDS)
    asked = []
    monkeypatch.setattr(linecache, "getlines", lambda *_: asked.append(_) or [])
    monkeypatch.setattr(linecache, "checkcache", asked.append)
    for x in range(1, 5):
        assert executor.submit(function, x).result(SECONDS) == 1 / x
    assert not asked
