"""Who may know whom. The tables below are also in docs/design.md, where the rooms are explained."""

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
THICKEST_ADAPTER = 230  # lines of code, that is, without docstrings, comments and empty lines
LONGEST_FUNCTION = 45  # lines of the body, without its docstring
MOST_IMPORTS = 70  # modules, besides ours, that `import civis_futures` loads

# A room on the left knows the rooms on its right, and no others; imports for types count.
ARROWS = """
cli          -> _api _display _exceptions _images _log_source _logs _options _registry _types local
__init__     -> _completed _exceptions _executor _future _here _progress _public _registry _shared
             -> _table _types
testing      -> _public local

_executor    -> _arguments _display _events _exceptions _future _intake _manager _options _pool
             -> _serialize _shared _types
_intake      -> _batch_size _events _exceptions _future _manager _map _options _pool _progress
             -> _requirements _roll _serialize _shared _types _wire
_options     -> _future _types
_arguments   -> _options _state _types
_pool        -> _api _budget _content _events _exceptions _exit _log_source _logs _mailbox
             -> _manager _scheduler _script _serialize _session _state _types _wire local
_here        -> _api _exceptions _types
_manager     -> _api _content _crowd _deposit _events _exceptions _exit _failures _future _lane
             -> _ledger _mailbox _outlook _pacing _scheduler _serialize _settling _types _wire
_settling    -> _events _future _mailbox _serialize _wire
_ledger      -> _content _events _future _mailbox _serialize _types _wire
_scheduler   -> _adoption _balance _events _exceptions _fleet _limits _pacing _state _types _wire
_fleet       -> _events _pacing _shares _state _types _watch _wire
_watch       -> _events _pacing _state _types
_state       -> _events _pacing _types _wire
_mailbox     -> _api _bundle _events _exceptions _failures _script _sources _types _verdict _wire
_verdict     -> _events _types _wire
_script      -> _bundle _types _wire
_bundle      -> _wire
_serialize   -> _content _events _exceptions _images _shared _sources _types _wire
_api         -> _credentials _discreet _exceptions _replies _section _transport _types
_failures    -> _exceptions
_transport   -> _budget _discreet _exceptions _section
_credentials -> _exceptions
_replies     -> _types
_events      -> _types _wire
_exit        -> _events _exceptions
_future      -> _awaiting _display _logs _types _wire
_adoption    -> _events _fleet _state
_balance     -> _events _fleet _state _types
_anchor      -> _api _exceptions _head _script _types _wire
_completed   -> _awaiting
_content     -> _wire
_deposit     -> _api _content _exceptions _index
_display     -> _types
_head        -> _types _wire
_identity    -> _shared
_index       -> _wire
_limits      -> _events _fleet _state _types
_log_source  -> _api _exceptions _types
_logs        -> _types _wire
_outlook     -> _display _types
_progress    -> _display _future _table _types
_recovery    -> _events _head _ledger _mailbox _types _wire
_registry    -> _anchor _api _exceptions _mailbox _options _session _types
_roll        -> _display _future
_session     -> _anchor _api _events _exceptions _head _identity _mailbox _recovery _script _types
             -> _wire
_sources     -> _wire
_table       -> _display _future
_types       -> _images

_awaiting _batch_size _budget _crowd _discreet _exceptions _images _lane _map _pacing _public ->
_requirements _section _shared _shares _wire ->

worker       -> _wire
local        ->
civis_joblib -> __init__
"""

# Each of these is imported in these rooms, and nowhere else.
ONLY_IN = """
httpx             in _api _discreet _transport
tenacity          in _transport
cloudpickle       in _identity _serialize worker
pickle            in _exceptions _identity _serialize worker
threading         in _api _budget _content _crowd _exit _lane _manager _progress _roll
                  in _session _transport cli local
queue             in _lane _manager _progress
subprocess        in cli local
os.fork           in worker
asyncio           in _awaiting local
sqlite3           in local
starlette         in local
uvicorn           in local
python_multipart  in local
psutil            in local
joblib            in civis_joblib
tqdm              in _progress
"""

# The rooms of the worker, each of which knows only rooms further down.
WORKER = """
__main__ __init__ _entry _loop _outbox _inbox _buffers _process _child _tracebacks _payload
_globals _frames _platform _http
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
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def room(module: str) -> str:
    """The room of the tables that a module is, or is part of."""
    package, _, rest = module.partition(".")
    if package != "civis_futures":
        return package
    return rest.partition(".")[0] or "__init__"


@cache
def imported(module: str) -> set[str]:
    """The dotted names of all modules that a module imports, for types alone or not."""
    is_package = MODULES[module].name == "__init__.py"
    found = set()
    for node in ast.walk(TREES[module]):
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


def test_every_room_knows_what_the_table_says():
    actual: dict[str, set[str]] = {room(module): set() for module in MODULES}
    for module in MODULES:
        actual[room(module)] |= {room(name) for name in own(module)} - {room(module)}
    assert lines(table(ARROWS, "->")) == lines(actual)


def test_no_cycles():
    graph = {module: own(module) for module in MODULES}
    for module in graph:
        for name in list(graph):
            # A package names its modules for others; they do not need it.
            if name.startswith(f"{module}."):
                graph[name] -= {module}
    list(TopologicalSorter(graph).static_order())


def test_dangerous_imports_stay_in_their_rooms():
    allowed = table(ONLY_IN, " in ")
    actual = {name: {room(m) for m in MODULES if uses(m, name)} for name in allowed}
    assert lines(allowed) == lines(actual)


def uses(module: str, name: str) -> bool:
    """Whether a module imports `name`, or something of it; a function counts where it is named."""
    if "." in name:
        return any(
            ast.unparse(node) == name
            for node in ast.walk(TREES[module])
            if isinstance(node, ast.Attribute)
        )
    return any(f"{used}.".startswith(f"{name}.") for used in imported(module))


def test_the_worker_needs_the_standard_library_and_cloudpickle_only():
    for module in MODULES:
        if room(module) in ("worker", "_wire"):
            foreign = {name.partition(".")[0] for name in imported(module) - MODULES.keys()}
            assert foreign <= sys.stdlib_module_names | {"cloudpickle"}, module


def test_the_rooms_of_the_worker_know_only_those_below():
    order = [f"civis_futures.worker.{name}".removesuffix(".__init__") for name in WORKER.split()]
    assert set(order) == {module for module in MODULES if room(module) == "worker"}
    for place, module in enumerate(order):
        assert own(module) - {"civis_futures._wire"} <= set(order[place + 1 :]), module


def test_joblib_uses_public_names_only():
    for module in MODULES:
        if room(module) == "civis_joblib":
            for node in ast.walk(TREES[module]):
                if isinstance(node, ast.ImportFrom) and node.module == "civis_futures":
                    assert {alias.name for alias in node.names} <= set(civis_futures.__all__)
            used = {name for name in imported(module) if name.startswith("civis_futures")}
            assert used <= {"civis_futures", "civis_futures.local"}, module


def test_the_adapter_of_joblib_stays_thin():
    code = 0
    for module in MODULES:
        if room(module) == "civis_joblib":
            # Without comments, and each statement as it is written there.
            source = MODULES[module].read_text("utf-8")
            tokens = tokenize.generate_tokens(io.StringIO(source).readline)
            used = {
                n for t in tokens if t.type not in LAYOUT for n in range(t.start[0], t.end[0] + 1)
            }
            code += len(used - set(docstring_lines(TREES[module])))
    assert code <= THICKEST_ADAPTER, "what does not fit there is missing from civis_futures"


def docstring_lines(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


@pytest.mark.parametrize(
    "package", [civis_futures, civis_futures.local, civis_futures.testing, civis_joblib]
)
def test_public_names_are_sorted_and_complete(package):
    assert package.__all__ == sorted(set(package.__all__))
    tree = TREES[package.__name__]
    bound = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    bound |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(package.__all__) == {name for name in bound if not name.startswith("_")}
    for name in package.__all__:
        assert getattr(package, name).__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module):
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_fit_into_a_head(module):
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= LONGEST_FILE
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= LONGEST_FUNCTION, node.name


def test_names():
    banned = re.compile(r"(?<![a-z])(utils?|helpers?|core|engine)(?![a-z])")
    for module, tree in TREES.items():
        names = {module.rpartition(".")[2]}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower())
        assert not {name for name in names if banned.search(name)}, module


def test_the_document_has_the_same_tables():
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    for block in (ARROWS, ONLY_IN, WORKER):
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
