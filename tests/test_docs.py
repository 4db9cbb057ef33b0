"""Every example that people are shown is run, against a local platform.

A page is one script: its ```` ```python ```` blocks from top to bottom, each on its own lines, so
that a traceback names the line of the page. What must not run is a ```` ```{code-block} ````. The
```` ```text ```` block after ``<!-- output -->`` is what the block before it prints; in it, ``...``
is anything, and white space is all the same.

Hidden from the page, pauses after failures are short; and ``platform="local"`` is the platform of
the tests, but on the pages that people try first.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.report import COST_MARKS, cost_page

import civis_futures
import civis_futures.local
import civis_futures.testing
import civis_joblib

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\S*) *$")
SECONDS = 100
MARK = "--- end of the block at line"
#: Where ``platform="local"`` starts one.
EARNEST = {"README.md", "index.md", "tutorial.md", "local-platform.md"}
#: Stands on a page's first line, its heading, and leaves no name behind.
SETUP = """exec("import brisk; brisk.shorten()", {})"""
SHARING = """; exec("import brisk; brisk.share_platform()", {})"""


def blocks(text: str) -> list[tuple[int, str, list[str]]]:
    """The fenced blocks of a page: the line of the first fence, what it says, the lines within."""
    found, language, start = [], None, 0
    lines = text.splitlines()
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if language is None and (fence or line.startswith("```")):
            language, start = (fence[1] if fence else line), number
        elif language is not None and fence and not fence[1]:
            found.append((start, language, lines[start + 1 : number]))
            language = None
    assert language is None, f"the block at line {start + 1} has no end"
    return found


def script(text: str, setup: str = "") -> str:
    """The page as a script, with a mark in the output after each block."""
    lines = [setup, *[""] * (len(text.splitlines()) - 1)]
    for start, language, code in blocks(text):
        if language == "python":
            lines[start + 1 : start + 1 + len(code)] = code
            lines[start + 1 + len(code)] = f"print({f'{MARK} {start}'!r}, flush=True)"
    return "\n".join(lines) + "\n"


def expected(text: str) -> dict[int, str]:
    """What blocks print, by the line of the block."""
    wanted, last = {}, None
    lines = text.splitlines()
    for start, language, content in blocks(text):
        if start and lines[start - 1] == "<!-- output -->":
            assert language == "text", f"line {start + 1}"
            assert last is not None, f"line {start + 1}: output of what?"
            wanted[last] = "\n".join(content) + "\n"
        last = start if language == "python" else None
    return wanted


def run(arguments, folder, environment=()):
    """What a script prints. It must succeed, and have nothing to say on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **dict(environment)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def check(wanted: str, got: str, where: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    checker = doctest.OutputChecker()
    if not checker.check_output(wanted, got, options):
        example = doctest.Example("", wanted)
        pytest.fail(f"{where}:\n{checker.output_difference(example, got, options)}")


@pytest.fixture
def environment(platform):
    return {"CIVIS_API_ENDPOINT": platform.url, "CIVIS_API_KEY": platform.api_key}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "\n```python\n" in page.read_text("utf-8")],
    ids=lambda p: p.name,
)
def test_page(page, environment, tmp_path):
    text = page.read_text("utf-8")
    file = tmp_path / f"{page.stem.replace('-', '_').lower()}.py"
    setup = SETUP if page.name in EARNEST else SETUP + SHARING
    file.write_text(script(text, setup), "utf-8")
    output = run([file], tmp_path, environment | {"PYTHONPATH": str(ROOT / "tests")})
    pieces = re.split(rf"^{re.escape(MARK)} (\d+)\n", output, flags=re.MULTILINE)
    printed = dict(zip(map(int, pieces[1::2]), pieces[0::2], strict=False))
    wanted = expected(text)
    for line, got in printed.items():
        check(wanted.get(line, ""), got, f"{page.name}, line {line + 1}")
    assert wanted.keys() <= printed.keys()


def test_quickstart(tmp_path):
    # As `make demo` runs it: with no platform but its own.
    nobody = {"CIVIS_API_ENDPOINT": "http://127.0.0.1:9/", "CIVIS_API_KEY": ""}
    file = ROOT / "docs" / "examples" / "quickstart.py"
    check(
        """\
This is process ...; each container is a process of its own.

1. map: ...
   [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]

2. as_completed: ...
   slept 0.1 s in process ...
   slept 0.5 s in process ...
   slept 0.9 s in process ...

3. A task that fails: ...
... in divide
     return a / b
...
   ZeroDivisionError: division by zero
...
The above exception was the direct cause of the following exception:
...
   ZeroDivisionError: division by zero
   Raised by divide (task 13) in run ... of job ... (...).

4. A task that is cancelled while it runs: ...
   state: running in run ...
   cancel() returned True
   state: cancelled

The pool is shut down, and no container runs any more.
""",
        run([file], tmp_path, nobody),
        "quickstart.py",
    )


def test_docstring_of_the_package():
    failures, tests = doctest.testmod(civis_futures)
    assert tests
    assert not failures


def test_the_tree_of_errors_is_the_one_in_the_docstring():
    docstring = civis_futures._exceptions.__doc__
    tree = re.search(
        r"^    CivisFuturesError\n.*?^    RemoteTraceback[^\n]*", docstring, re.M | re.S
    )
    plain = "\n".join(line.removeprefix("    ") for line in tree[0].splitlines())
    assert plain in (ROOT / "docs" / "reading-a-failure.md").read_text("utf-8")


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    named = re.findall(r"auto(?:class|exception|function):: (\w+)", text)
    modules = (civis_futures, civis_futures.local, civis_futures.testing, civis_joblib)
    assert sorted(named) == sorted({name for module in modules for name in module.__all__})


def test_the_page_of_costs_has_the_figures_of_the_benchmarks():
    costs, benchmarks = (ROOT / "docs" / name for name in ("cost.md", "benchmarks.md"))
    text = costs.read_text("utf-8")
    assert cost_page(text, benchmarks.read_text("utf-8")) == text
    assert "{" not in COST_MARKS.search(text)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
