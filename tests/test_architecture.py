"""What may import what. The tables are also in docs/design.md, where the packages are explained."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import civis_futures
import civis_futures.local
import civis_futures.testing
import civis_joblib

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 600  # lines
THICKEST_ADAPTER = 600  # lines of code, that is, without docstrings, comments and empty lines
LONGEST_FUNCTION = 45  # lines of the body, without its docstring
MOST_MODULES = 8  # of a package, besides `__init__` and `__main__`
MOST_IMPORTS = 70  # modules, besides ours, that `import civis_futures` loads

# What a package, or a module beside the packages, may import; imports for types count.
ARROWS = """
civis_joblib -> __init__
__main__     -> cli
cli          -> _api _checking _container _display _exceptions _futures _pacing _public _sessions
             -> _types _wire local
__init__     -> _container _display _exceptions _executor _files _futures _public _sessions _types
             -> _warm
testing      -> _pacing _public local

_warm        -> _api _data _executor _files
_checking    -> _api _exceptions _kept _pacing _pool _types _wire

_executor    -> _api _container _data _display _exceptions _files _futures _pacing _pool _scheduling
             -> _sessions _types _wire local
_sessions    -> _api _container _data _exceptions _files _futures _pickles _pool _scheduling _types
             -> _wire
_pool        -> _api _container _data _display _exceptions _files _futures _pacing _scheduling
             -> _types _wire
_data        -> _exceptions _files _pickles _wire
_files       -> _api _container _exceptions _kept _types _wire
_futures     -> _display _pacing _types _wire
_display     -> _types
_scheduling  -> _exceptions _pacing _types _wire
_api         -> _exceptions _kept _pacing _public _types
_container   -> _types

worker       -> _pickles _wire

_pickles     -> _wire

_types _exceptions _wire _pacing _public _kept local ->
"""

# Each of these is imported in these packages and modules, and nowhere else.
ONLY_IN = """
httpx             in _api.client _api.discreet _api.routes _api.transport
tenacity          in _api.transport
cloudpickle       in _data.pickling _data.plain _data.unpickling _pickles.by_value
                  in _pickles.classes _sessions.identity _sessions.values worker
pickle            in _data.generators _data.pickling _data.plain _data.unpickling _exceptions
                  in _sessions.values worker
threading         in _api.budget _api.client _api.transport _display.live _display.usage
                  in _files.contents _futures.prints _futures.progress _futures.tables _pool.ledger
                  in _pool.manager _pool.neighbours _pool.threads _sessions.session cli local
queue             in _executor.map _futures.prints _futures.progress _pool.manager _pool.threads
                  in local
subprocess        in cli local
os.fork           in worker local
asyncio           in _futures.awaiting _pickles.rows local
sqlite3           in local
starlette         in local
uvicorn           in local
python_multipart  in local
psutil            in local
joblib            in civis_joblib
tqdm              in _futures.progress
"""

# What modules use of objects whose class is in another one, though its name begins with an
# underscore: of public classes, on which users should not find it. (joblib's lock is joblib's, and
# what httpx's transport has below it is httpx's.)
PRIVATE = """
_api.routes           uses _pool
_data.pickling        uses _of _modules _head _pieces
_executor.dependencies uses _pool _sent
_executor.submission  uses _number _options _sent
_warm                 uses _intake
_sessions.identity    uses _head _digests
civis_joblib._backend uses _lock
"""

# The same within the local platform.
LOCAL = """
__init__     -> _engines _owner
__main__     -> _server

_server      -> _api _elsewhere _engines _faults _limits _listening _places _record _runs _settings
             -> _state _store
_owner       -> _engines _faults _journal _listening _pages _schema _settings
_runs        -> _api _faults _places _schema _state _storage
_api         -> _elsewhere _faults _journal _pages _record _schema _settings _state _storage
             -> _store
_elsewhere   -> _places _schema _settings _state
_pages       -> _state _store
_storage     -> _schema _settings _state _store
_state       -> _faults _journal _limits _listening _places _schema _settings _store

_journal     -> _faults _schema
_faults      -> _schema
_engines     -> _places _settings
_places      -> _settings
_listening   -> _settings

_store _limits _record _schema _settings ->
"""

# The modules of the worker, each of which knows only those further down.
WORKER = """
__main__ __init__ _entry _loop _slots _lines _outbox _inbox _buffers _process _child _tracebacks
_payload _script _surroundings _code _frames _groups _platform _http _pacing
"""


#: Tokens that are no code.
LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of ours, by its dotted name."""
    found = {}
    for package in ("civis_futures", "civis_joblib"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


@cache
def tree(module: str) -> ast.Module:
    """What a module consists of."""
    return ast.parse(MODULES[module].read_text("utf-8"))


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    """All of that, level by level."""
    return tuple(ast.walk(tree(module)))


def package_of(module: str, package: str = "civis_futures") -> str:
    """The package that a module is in, or itself if it is beside the packages."""
    if module == package:
        return "__init__"
    return module.removeprefix(f"{package}.").partition(".")[0]


def place(module: str) -> str:
    """The package of a module, or its own name if that is private."""
    inner = module.removeprefix("civis_futures.")
    return inner if inner.startswith("_") else package_of(module)


@cache
def imported(module: str) -> set[str]:
    """The dotted names of all modules that a module imports, for types alone or not."""
    is_package = MODULES[module].name == "__init__.py"
    found = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            inner = names & MODULES.keys()
            found |= inner
            if inner != names:
                found.add(base)
    return found


def own(module: str) -> set[str]:
    return {name for name in imported(module) if name in MODULES}


def table(text: str, arrow: str) -> dict[str, set[str]]:
    """What is on the right of each name on the left; a line without a name continues the last."""
    parsed: dict[str, set[str]] = {}
    names: list[str] = []
    for line in filter(None, text.splitlines()):
        left, found, right = line.partition(arrow)
        assert found, line
        names = left.split() or names
        for name in names:
            parsed.setdefault(name, set()).update(right.split())
    return parsed


def lines(parsed: dict[str, set[str]]) -> list[str]:
    """A table in a form whose differences can be read."""
    return [f"{name}: {' '.join(sorted(names))}" for name, names in sorted(parsed.items())]


@pytest.mark.parametrize(
    ("arrows", "package"), [(ARROWS, "civis_futures"), (LOCAL, "civis_futures.local")]
)
def test_every_package_knows_what_the_table_says(arrows, package):
    inside = [name for name in MODULES if package == "civis_futures" or name.startswith(package)]
    actual: dict[str, set[str]] = {package_of(module, package): set() for module in inside}
    for module in inside:
        known = {package_of(name, package) for name in own(module)}
        actual[package_of(module, package)] |= known - {package_of(module, package)}
    assert lines(table(arrows, "->")) == lines(actual)


@pytest.mark.parametrize("arrows", [ARROWS, LOCAL])
def test_arrows_go_down(arrows):
    """So there are no cycles between packages."""
    parsed = table(arrows, "->")
    rows = list(parsed)
    for number, name in enumerate(rows, 1):
        assert parsed[name] <= set(rows[number:]), name


def test_no_cycles():
    graph = {module: own(module) for module in MODULES}
    for module in graph:
        for name in list(graph):
            # A package names its modules for others; they do not need it.
            if name.startswith(f"{module}."):
                graph[name] -= {module}
    list(TopologicalSorter(graph).static_order())


def test_no_two_classes_have_the_same_name():
    """Whoever reads a name knows which it is, without looking at what the file imports."""
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for node in nodes(module):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_no_test_changes_a_constant():
    """Times, sizes and counts are given to what uses them: as arguments, or as `Pacing`."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
                texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
                names = [text.rpartition(".")[2] for text in texts if isinstance(text, str)]
                found += [f"{path.name}: {name}" for name in names if name.isupper()]
    assert set(found) == {"test_groups.py: ROOT"}  # a place, and no number


def private(module: str) -> set[str]:
    """Names with an underscore that belong to the objects of a module."""
    kinds = ast.FunctionDef | ast.ClassDef
    own = {node.name for node in nodes(module) if isinstance(node, kinds)}
    for node in nodes(module):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    own = {name for name in own if name.startswith("_") and not name.startswith("__")}
    return own - {"_replace"}  # which all named tuples have


def test_what_is_private_is_used_where_it_is_made():
    """In one module, that is, but for what is in the table."""
    made = {module: private(module) for module in MODULES}
    everything = set[str]().union(*made.values())
    found: dict[str, set[str]] = {}
    for module in MODULES:
        foreign = everything - made[module]
        for node in nodes(module):
            if isinstance(node, ast.Attribute) and node.attr in foreign:
                found.setdefault(module.removeprefix("civis_futures."), set()).add(node.attr)
    assert lines(table(PRIVATE, " uses ")) == lines(found)


def test_dangerous_imports_stay_in_their_modules():
    allowed = table(ONLY_IN, " in ")
    actual = {name: {place(m) for m in MODULES if uses(m, name)} for name in allowed}
    assert lines(allowed) == lines(actual)


def uses(module: str, name: str) -> bool:
    """Whether a module imports `name`, or something of it; a function counts where it is named."""
    if "." in name:
        return any(
            ast.unparse(node) == name for node in nodes(module) if isinstance(node, ast.Attribute)
        )
    return any(f"{used}.".startswith(f"{name}.") for used in imported(module))


def test_the_worker_needs_the_standard_library_and_cloudpickle_only():
    for module in MODULES:
        if package_of(module) in ("worker", "_pickles", "_wire"):
            foreign = {name.partition(".")[0] for name in imported(module) - MODULES.keys()}
            assert foreign <= sys.stdlib_module_names | {"cloudpickle"}, module


def test_the_modules_of_the_worker_know_only_those_below():
    order = [f"civis_futures.worker.{name}".removesuffix(".__init__") for name in WORKER.split()]
    assert set(order) == {module for module in MODULES if package_of(module) == "worker"}
    for place, module in enumerate(order):
        inside = {name for name in own(module) if package_of(name) not in ("_pickles", "_wire")}
        assert inside <= set(order[place + 1 :]), module


def test_joblib_uses_public_names_only():
    for module in MODULES:
        if package_of(module) == "civis_joblib":
            for node in nodes(module):
                if isinstance(node, ast.ImportFrom) and node.module == "civis_futures":
                    assert {alias.name for alias in node.names} <= set(civis_futures.__all__)
            used = {name for name in imported(module) if name.startswith("civis_futures")}
            assert used <= {"civis_futures", "civis_futures.local"}, module


def test_the_adapter_of_joblib_stays_thin():
    code = 0
    for module in MODULES:
        if package_of(module) == "civis_joblib":
            # Without comments, and each statement as it is written there.
            source = MODULES[module].read_text("utf-8")
            tokens = tokenize.generate_tokens(io.StringIO(source).readline)
            used = {
                n for t in tokens if t.type not in LAYOUT for n in range(t.start[0], t.end[0] + 1)
            }
            code += len(used - set(docstring_lines(module)))
    assert code <= THICKEST_ADAPTER, "what does not fit there is missing from civis_futures"


def docstring_lines(module: str) -> Iterator[int]:
    for node in nodes(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


@pytest.mark.parametrize(
    "package", [civis_futures, civis_futures.local, civis_futures.testing, civis_joblib]
)
def test_public_names_are_sorted_and_complete(package):
    assert package.__all__ == sorted(set(package.__all__))
    body = tree(package.__name__).body
    bound = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    bound |= {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(package.__all__) == {name for name in bound if not name.startswith("_")}
    for name in package.__all__:
        assert getattr(package, name).__doc__, f"{name} has no docstring"


def test_every_module_says_what_it_is_for():
    assert [module for module in MODULES if not ast.get_docstring(tree(module))] == []


def test_files_and_functions_fit_into_a_head():
    for module in MODULES:
        assert len(MODULES[module].read_text("utf-8").splitlines()) <= LONGEST_FILE, module
        for node in nodes(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= LONGEST_FUNCTION, (module, node.name)


def test_packages_fit_into_a_head():
    """But for the worker, which travels as it is."""
    doors = ("__init__.py", "__main__.py")
    inside = [name.rpartition(".")[0] for name, path in MODULES.items() if path.name not in doors]
    many = {package for package in inside if inside.count(package) > MOST_MODULES}
    assert many == {"civis_futures.worker"}


def test_names():
    banned = re.compile(r"(?<![a-z])(utils?|helpers?|core|engine)(?![a-z])")
    for module in MODULES:
        names = {module.rpartition(".")[2]}
        for node in nodes(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower())
        assert not {name for name in names if banned.search(name)}, module


def test_the_document_has_the_same_tables():
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    for block in (ARROWS, LOCAL, ONLY_IN, WORKER):
        assert block.strip() in text


def measured(code: str) -> str:
    """What a fresh interpreter prints, without the weight of coverage."""
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_import_is_light():
    """Compared with what a program has anyway; `make bench` measures the seconds."""
    names = [f"import {what}, sys; print(*sys.modules)" for what in ("logging", "civis_futures")]
    bare, loaded = (set(measured(code).split()) for code in names)
    heavy = {"asyncio", "cloudpickle", "concurrent.futures.process", "email", "http", "httpx"}
    heavy |= {"joblib", "multiprocessing", "ssl", "starlette", "subprocess", "tenacity", "uvicorn"}
    assert not loaded & heavy
    ours = {name for name in loaded if name.partition(".")[0] == "civis_futures"}
    assert len(loaded - bare - ours) <= MOST_IMPORTS
    # What a pool at work consists of: its many frozen values take a quarter of the time to make.
    assert not {name for name in ours if name.startswith("civis_futures._scheduling")}
