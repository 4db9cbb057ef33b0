"""What a type checker says of code that uses a pool: what it says of the standard library's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# An error that is not there is an error itself: an ignore that is not needed.
SNIPPET = """
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import assert_type

from civis_futures import ContainerFuture, ContainerPoolExecutor, Dependency, MapResult
from civis_futures import depend, dependent, require


def work(x: int, *, scale: float = 1.0) -> str:
    return str(x * scale)


async def fetch(url: str) -> bytes:
    return url.encode()


class Model:
    def fit(self, rows: list[int]) -> float:
        return float(sum(rows))


def use(executor: ContainerPoolExecutor, general: Executor) -> None:
    assert_type(executor.submit(work, 1), ContainerFuture[str])
    assert_type(executor.submit(work, 1, scale=2.0).result(), str)
    assert_type(executor.submit(lambda: 3), ContainerFuture[int])
    assert_type(executor.submit(Model().fit, [1]), ContainerFuture[float])
    assert_type(executor.submit(Model), ContainerFuture[Model])
    assert_type(executor.submit(fetch, "x"), ContainerFuture[bytes])
    assert_type(executor.options(timeout=3).submit(work, 1), ContainerFuture[str])
    assert_type(executor.options(timeout=3).submit(fetch, "x"), ContainerFuture[bytes])
    one = executor.submit(len, "x")
    assert_type(executor.submit(work, one, scale=2.0), ContainerFuture[str])
    assert_type(executor.options(after=[one]).submit(work, one), ContainerFuture[str])
    after = executor.options(after=Dependency(one, failure=True))
    assert_type(after.submit(len, ""), ContainerFuture[int])
    assert_type(executor.map(work, range(3)), MapResult[str])
    assert_type(executor.map(work, range(3), timeout=1, chunksize=3), MapResult[str])
    assert_type(executor.options().map(work, [1], buffersize=3, progress=True), MapResult[str])
    _: Iterator[str] = executor.map(work, range(3))
    given = executor.map(work, [1], return_exceptions=True, ordered=False)
    assert_type(given, MapResult[str | BaseException])
    assert_type(executor.map(work, [1], return_exceptions=False), MapResult[str])
    assert_type(
        executor.options().map(work, [1], return_exceptions=bool(given)),
        MapResult[str | BaseException],
    )
    assert_type(executor.parallel(work).map([1]), MapResult[str])
    assert_type(executor.parallel(timeout=3)(work).submit(1), ContainerFuture[str])
    assert_type(executor.parallel(work)(1), str)
    assert_type(require("numpy")(work)(1, scale=2.0), str)
    assert_type(depend(bool, 1)(work)(1, scale=2.0), str)
    assert_type(executor.submit(dependent(work, bool, 1), 1), ContainerFuture[str])
    assert_type(executor.submit_batch(work, [(1,)]).result(), list[str])
    use(executor, general=executor)
    assert_type(general.submit(work, 1), Future[str])

    executor.submit(work, "one")  # type: ignore
    executor.submit(work, 1, 2)  # type: ignore
    executor.submit(work)  # type: ignore
    executor.submit(work, 1, scales=2.0)  # type: ignore
    executor.submit(fetch, 1)  # type: ignore
    executor.submit(3)  # type: ignore
    executor.options().submit(work, "one")  # type: ignore
    executor.options(retries=3)  # type: ignore
    executor.options(timeout="soon")  # type: ignore
    executor.options().options(label=3)  # type: ignore
    executor.options(after=3)  # type: ignore
    executor.map(work, 3)  # type: ignore
    executor.map(work, [1], return_exceptions=1)  # type: ignore
    executor.parallel(work).submit("one")  # type: ignore
    require("numpy")(work)("one")  # type: ignore
    dependent(work, bool)("one")  # type: ignore
    depend(3)  # type: ignore
    executor.map(work, [1], chunk=3)  # type: ignore
    executor.options().map(work, [1], chunksize="many")  # type: ignore
"""


@pytest.mark.repeats  # what mypy says
def test_pyright(tmp_path):
    """Basedpyright is pyright with its own node. It reads no comments: so it must find an error on
    each line that has an ignore, and on no other.
    """
    pytest.importorskip("basedpyright", reason="the lowest versions are tested without it")
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "--level", "error", "--outputjson", path],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    told = json.loads(done.stdout)["generalDiagnostics"]
    found = {each["range"]["start"]["line"] for each in told}
    lines = enumerate(SNIPPET.splitlines())
    assert found == {number for number, line in lines if "# type: ignore" in line}, done.stdout


def test_mypy(tmp_path):
    pytest.importorskip("mypy", reason="the lowest versions are tested without it")
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    cache = Path(__file__).parents[1] / ".mypy_cache"  # that of `make types`, if it is there
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, path],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
