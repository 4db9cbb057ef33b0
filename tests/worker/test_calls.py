"""Calls and outcomes: what comes back for what was sent."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import cloudpickle
import pytest
from tasks import by_value

from civis_futures import UnmetDependency, _wire


def pickle_of(function, *args, **kwargs):
    """A payload, with what is defined in this file by value."""
    by_value(__name__)
    return cloudpickle.dumps((function, args, kwargs))


class Local(Exception):
    """Known to nobody but this file."""


class BadAttribute(Exception):
    def __init__(self):
        super().__init__("with a lock inside")
        self.lock = threading.Lock()


def test_results_in_order_with_measures(run, calls, stub):
    before = time.time()

    def slow(a, *, b):
        time.sleep(0.05)
        return a + b

    specs = calls((lambda x: x + 1, 41), os.getpid, lambda: None, lambda: b"")
    specs += (_wire.Call(9, _wire.Blob.of(pickle_of(slow, 1, b=2))),)
    answers = run(specs)
    assert [answer.kind for answer in answers] == [_wire.RETURNED] * 5
    first, pid, none, empty, last = map(stub.outcome, answers)
    assert (first, none, empty, last) == (42, None, b"", 3)
    assert pid != os.getpid()
    assert 0.05 <= answers[4].seconds < 10
    assert before <= answers[4].started <= answers[4].finished <= time.time()
    assert answers[4].finished - answers[4].started >= 0.05
    assert 5 < answers[0].peak_mb < 500


def raise_it(error):
    raise error


def raise_local():
    raise Local("mine", 3)


def exit_4():
    os._exit(4)


def recurse():
    return recurse()


@pytest.mark.parametrize("_", ["all in one worker"])
def test_whatever_a_function_raises_is_its_answer(run, calls, stub, _):
    table = [
        (raise_local, Local, "Local: ('mine', 3)"),
        ((raise_it, ValueError("née 🎉 \udc80 \0")), ValueError, "née 🎉"),
        ((raise_it, SystemExit(3)), SystemExit, "SystemExit: 3"),
        ((raise_it, KeyboardInterrupt()), KeyboardInterrupt, "KeyboardInterrupt"),
        ((raise_it, MemoryError()), MemoryError, "MemoryError"),
        (recurse, RecursionError, "maximum recursion depth"),
        ((raise_it, ExceptionGroup("two", [OSError(2, "x"), TypeError()])), ExceptionGroup, "two"),
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
    ]
    specs = calls(os.getpid, *(row[0] for row in table), os.getpid)
    answers = run(specs)
    for (_, kind, text), answer in zip(table, answers[1:-1], strict=True):
        assert answer.kind == _wire.RAISED, answer
        assert type(stub.outcome(answer)).__name__ == kind.__name__
        assert text in answer.text
        assert "_child.py" not in answer.text
    assert stub.outcome(answers[0]) == stub.outcome(answers[-1])  # one process for all


class Odd(type):
    """Of what no one can see what it derives from."""

    @property
    def __mro__(cls):
        raise RuntimeError("none of your business")


class Unmet(UnmetDependency):
    def __init__(self):
        super().__init__("no room")
        self.lock = threading.Lock()  # it need not be pickled


def raise_unseen():
    raise Odd("Unseen", (Exception,), {})


def raise_unmet():
    raise Unmet


def test_a_call_that_wants_another_container(run, calls):
    """There, nothing has this exception: what stands for it is known by its name."""
    by_value(__name__)
    long = partial(raise_it, UnmetDependency("x" * 5000))
    answers = run(calls(long, raise_unmet, partial(raise_it, UnmetDependency()), raise_unseen))
    *refused, unseen = answers
    assert [each.kind for each in refused] == [_wire.REFUSED] * 3
    assert [each.data for each in refused] == [None] * 3
    assert [len(each.detail) < 2100 for each in refused] == [True] * 3
    assert [each.detail[:7] for each in refused] == ["xxxxxxx", "no room", ""]
    assert refused[1].text.endswith("Unmet: no room\n")
    assert unseen.kind != _wire.REFUSED


def raise_if(wish):
    if wish:
        raise UnmetDependency("not this one")


@pytest.mark.parametrize("catch", [False, True])
def test_a_batch_with_a_row_that_wants_another_container(run, catch):
    batch = 0, [(False,), (True,), (False,)], (catch, None)
    by_value(__name__)
    payload = cloudpickle.dumps((raise_if, batch))
    [answer] = run((_wire.Call(1, _wire.Blob.of(payload)),))
    assert (answer.kind, answer.detail) == (_wire.REFUSED, "not this one")
    assert "number 1 of the call" in answer.text


def test_a_long_traceback_is_cut_in_the_middle(run, calls, stub):
    [answer] = run(calls(lambda: raise_it(ValueError("é" * 3_000_000))))
    assert answer.kind == _wire.RAISED
    assert len(answer.text) < 21_000
    assert answer.text.startswith("Traceback")
    assert "characters ...]" in answer.text
    assert len(stub.outcome(answer).args[0]) == 3_000_000


def deep_list():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def raise_bad_attribute():
    raise BadAttribute


def test_outcomes_that_cannot_be_pickled(run, calls, stub):
    answers = run(calls(threading.Lock, raise_bad_attribute, deep_list, lambda: "alive"))
    lock, attribute, deep, alive = answers
    assert (lock.kind, lock.detail) == (_wire.OUTCOME_PICKLING, "result")
    assert "_thread.lock" in lock.text
    assert (attribute.kind, attribute.detail) == (_wire.OUTCOME_PICKLING, "exception")
    assert "with a lock inside" in attribute.text
    assert "raise_bad_attribute" in attribute.text
    assert "cannot pickle '_thread.lock' object" in attribute.text
    assert (deep.kind, deep.detail) == (_wire.OUTCOME_PICKLING, "result")
    assert "builtins.list" in deep.text
    assert {answer.data for answer in answers[:3]} == {None}
    assert stub.outcome(alive) == "alive"


class RaiseWhenPickled:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def test_pickling_that_raises_anything(run, calls):
    specs = [(lambda error: RaiseWhenPickled(error), e) for e in (SystemExit(1), ValueError("no"))]
    for answer, text in zip(run(calls(*specs)), ("SystemExit", "ValueError: no"), strict=True):
        assert answer.kind == _wire.OUTCOME_PICKLING
        assert text in answer.text


def test_payloads_that_cannot_be_unpickled(run, calls):
    here = pickle.dumps(len)
    specs = calls(
        b"cno_such_module\nname\n.",
        b"cxml.no_such_part\nname\n.",
        b"cos\nno_such_name\n.",
        b"garbage",
        here,  # not a triple
        b"(cbuiltins\nexit\n(I3\ntR.",  # raises SystemExit
    )
    module, part, *others = run(specs)
    assert (module.kind, module.detail) == (_wire.MISSING_MODULE, "no_such_module")
    assert (part.kind, part.detail) == (_wire.MISSING_MODULE, "xml.no_such_part")
    assert "ModuleNotFoundError" in part.text
    assert {answer.kind for answer in others} == {_wire.CALL_UNPICKLING}
    for answer, text in zip(others, ("no_such_name", "", "", "SystemExit"), strict=True):
        assert text in answer.text


def test_another_python(run, calls):
    ours = "{}.{}".format(*sys.version_info)
    answers = run(calls(os.getpid, b"garbage"), python="2.7")
    for answer in answers:
        assert (answer.kind, answer.detail) == (_wire.PYTHON_MISMATCH, ours)
        assert "2.7" in answer.text


def test_initializer_runs_once_per_process(run, calls, stub):
    def initialize(value):
        import builtins

        print("hello")
        builtins.count = getattr(builtins, "count", 0) + value

    def look():
        import builtins

        return builtins.count

    blob = _wire.Blob.of(pickle_of(initialize, 7))
    answers = run(calls(look, look, exit_4, look), initializer=blob)
    assert [stub.outcome(answers[i]) for i in (0, 1, 3)] == [7, 7, 7]
    assert answers[2].kind == _wire.CRASHED


@pytest.mark.parametrize(
    ("function", "text"),
    [((raise_local,), "mine"), ((exit_4,), "exit code 4"), ((exit, 5), "SystemExit: 5")],
)
def test_a_failed_initializer_answers_every_call(run, calls, stub, function, text):
    stub_file = stub.put_file(data := pickle_of(*function))
    blob = _wire.Blob.in_file(stub_file, _wire.digest(data), len(data))
    answers = run(calls(os.getpid, os.getpid), initializer=blob)
    for answer in answers:
        assert answer.kind == _wire.INITIALIZER
        assert text in answer.text


def test_an_initializer_that_cannot_be_had(run, calls, stub):
    [answer] = run(calls(os.getpid), initializer=_wire.Blob.in_file(5, "", 0))
    assert answer.kind == _wire.CALL_NOT_FETCHED  # it is this container's trouble, not its own
    assert "no such file" in answer.text


def test_results_of_all_sizes(run, calls, stub):
    sizes = [63_000, 65_000, 999_000, 1_001_000, 60 << 20]
    answers = run(calls(*((lambda n: b"\xff" * n, n) for n in sizes)))
    assert [answer.data.file_id is not None for answer in answers] == [False, *[True] * 4]
    for size, answer in zip(sizes, answers, strict=True):
        assert stub.outcome(answer) == b"\xff" * size
    assert stub.count("PUT", "/store") > 1  # the last went up in parts
    expiry = stub.files[answers[1].data.file_id]["expiresAt"]
    assert expiry.endswith("+00:00")
    assert expiry > time.strftime("%Y-%m-%d", time.gmtime(time.time() + 6.9 * 86400))


def test_a_result_that_is_refused_costs_only_its_call(run, calls, stub):
    stub.fault("POST", "/files", 403, 403, 403)
    refused, other = run(calls(lambda: b"x" * 100_000, os.getpid))
    assert (refused.kind, refused.detail) == (_wire.OUTCOME_PICKLING, "result")
    assert "POST /files: HTTP 403" in refused.text
    assert other.kind == _wire.RETURNED


def in_file(task, stub, data, announced=None):
    announced = data if announced is None else announced
    blob = _wire.Blob.in_file(stub.put_file(data), _wire.digest(announced), len(announced))
    return _wire.Call(task, blob)


def test_payloads_in_files(run, stub):
    big = b"\1" * 3_000_000
    good = [in_file(task, stub, pickle_of(len, big + b"." * task)) for task in (1, 2, 3)]
    bad = [
        in_file(4, stub, b"what is there", b"what was sent"),
        _wire.Call(5, _wire.Blob.in_file(1, "", 0)),
        _wire.Call(6, _wire.Blob("0" * 64, 3, inline="AAAA")),
        _wire.Call(7, _wire.Blob("0" * 64, 3, inline="no base64!")),
    ]
    stub.fault("GET", f"/store/{good[0].data.file_id}", 403, 500, "drop")
    answers = run([*good, *bad])
    assert [stub.outcome(answer) for answer in answers[:3]] == [len(big) + n for n in (1, 2, 3)]
    assert {answer.kind for answer in answers[3:]} == {_wire.CALL_NOT_FETCHED}
    texts = [answer.text for answer in answers[3:]]
    assert f"File {bad[0].data.file_id}" in texts[0]
    assert "HTTP 404" in texts[1]
    assert "inline" in texts[2]
    assert stub.count("GET", f"/store/{bad[0].data.file_id}") == 2  # tried twice


def test_many_answers_share_few_values(run, calls, stub):
    made = random.Random(0).randbytes(60_000)  # no smaller when it is compressed
    answers = run(calls(*[lambda: made] * 25))
    assert all(stub.outcome(answer) == made for answer in answers)
    assert 3 <= len(stub.outputs) <= 6
    assert stub.count("POST", "/files") == 0


def test_posting_and_computing_overlap(start, calls, stub, tmp_path):
    begun, gate, posted = tmp_path / "begun", tmp_path / "gate", threading.Event()

    def wait():
        begun.touch()
        while not gate.exists():
            time.sleep(0.01)

    stub.fault("POST", "/json_values", lambda: posted.wait(60) and None)
    worker = start(calls(os.getpid, wait, os.getpid))
    stub.until(lambda: stub.count("POST", "/json_values"))  # it does not wait for the second call
    stub.until(begun.exists)  # which does not wait for the post
    posted.set()
    gate.touch()
    worker.end()
    assert stub.answers().keys() == {1, 2, 3}


def test_a_call_of_many_rows(run, stub):
    def payload(function, rows):
        return _wire.Blob.of(cloudpickle.dumps((function, (7, rows))))  # numbered from 7 on

    made = [
        _wire.Call(1, payload(lambda a, b: a * b, [(1, 2), (3, 4)])),
        _wire.Call(2, payload(lambda a: 1 // a, [(1,), (0,)])),
    ]
    products, failure = run(made)
    assert stub.outcome(products) == [2, 12]
    assert failure.kind == _wire.RAISED
    assert "number 8 of the call, number 1 of a batch of 2" in stub.outcome(failure).__notes__[0]
    assert "_child.py" not in failure.text


def test_a_timeout_ends_the_call_and_nothing_else(stub, start, calls):
    def stubborn():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)

    specs = calls(os.getpid, lambda: time.sleep(3600), stubborn, os.getpid)
    limits = [30.0, 0.3, 0.3, None]
    specs = [replace(call, timeout=limit) for call, limit in zip(specs, limits, strict=True)]
    start(specs, pacing={"child_end": 0.3, "child_term": 0.3}).end()
    answers = stub.answers()
    kinds = [answers[task].kind for task in (1, 2, 3, 4)]
    assert kinds == [_wire.RETURNED, _wire.TIMED_OUT, _wire.TIMED_OUT, _wire.RETURNED]
    assert "longer than its timeout of 0.3 s" in answers[2].text
    assert answers[2].finished - answers[2].started > 0.2


def test_a_timeout_is_kept_while_a_request_waits(stub, start, calls, tmp_path):
    def beat(path):
        while True:
            with open(path, "a") as file:
                file.write(".")
            time.sleep(0.02)

    ended = threading.Event()
    stub.fault("GET", "/files", lambda: ended.wait(60) and None)  # it is fetched ahead
    path = tmp_path / "beats"
    [call] = calls((beat, str(path)))
    data = cloudpickle.dumps((os.getpid, (), {}))
    blob = _wire.Blob.in_file(stub.put_file(data), _wire.digest(data), len(data))
    worker = start([replace(call, timeout=0.3), _wire.Call(2, blob)])
    stub.until(lambda: path.exists() and not worker.alive())  # there is no answer yet
    ended.set()
    worker.end()
    assert [stub.answers()[task].kind for task in (1, 2)] == [_wire.TIMED_OUT, _wire.RETURNED]


def test_what_a_call_has_started_ends_with_it(stub, start, calls, tmp_path):
    def shell(path, then):
        loop = f"while true; do echo >> {path}; sleep 0.05; done"
        process = subprocess.Popen(["sh", "-c", loop])
        while not path.stat().st_size:
            time.sleep(0.01)
        process.wait() if then == "wait" else os._exit(3)

    paths = [tmp_path / "late", tmp_path / "crashed"]
    for path in paths:
        path.touch()  # on a busy machine its time may be over before the shell has begun
    specs = calls((shell, paths[0], "wait"), (shell, paths[1], "crash"), (time.sleep, 1.0))
    start([replace(specs[0], timeout=0.3), *specs[1:]])
    stub.until_answered(1, 2)
    sizes = [path.stat().st_size for path in paths]
    assert sizes[1]
    time.sleep(0.3)
    assert [path.stat().st_size for path in paths] == sizes


def test_an_answer_in_time_is_not_late_for_want_of_a_reader(stub, start, calls):
    stub.fault("POST", "/json_values", lambda: time.sleep(2.0))
    made = [replace(call, timeout=1.0) for call in calls(os.getpid, (time.sleep, 0.1), os.getpid)]
    start(made).end()
    assert {answer.kind for answer in stub.answers().values()} == {_wire.RETURNED}


def test_a_timeout_does_not_count_the_initializer(stub, start, calls):
    first = pickle.dumps((time.sleep, (1.2,), {}))
    [call] = calls(os.getpid)
    start([replace(call, timeout=1.0)], initializer=_wire.Blob.of(first)).end()
    assert stub.answers()[1].kind == _wire.RETURNED


def test_what_a_failed_call_printed_last_comes_along(stub, start, calls):
    def noisy(number):
        for line in range(20):
            print("line", line, file=sys.stderr if line % 2 else sys.stdout)
        print("x" * 10_000, end="")
        raise ValueError(number)

    start(calls((noisy, 1), (print, "fine"), (int, "none"))).end()
    answers = stub.answers()
    lines = answers[1].log
    assert lines[:-1] == tuple(f"line {n}" for n in range(6, 20))
    assert lines[-1] == "x" * 250 + "... (9,500 characters left out) ..." + "x" * 250
    assert answers[2].log == answers[3].log == ()


def test_what_c_has_printed_is_its_own_calls(start, calls):
    """Libraries print by C's stdio, which keeps it until its buffer is full."""

    def prints():
        import ctypes

        ctypes.CDLL(None).printf(b"from C")

    log = start(calls(prints, lambda: print("next"))).end().out().decode()
    first, _, second = log.partition("task 2 begins")
    assert "from C" in first
    assert "from C" not in second


def test_of_a_progress_bar_the_last_state_comes_along(stub, start, calls):
    def advance(end):
        print("begins")
        for step in range(1001):
            print(f"\r{step / 10:.1f}% {'#' * (step // 10)}", end="", file=sys.stderr)
        raise ValueError(sys.stderr.write(end))

    start(calls(*[(advance, end) for end in ("", "\r", "\n", "\n\n", "\rdone")])).end()
    full = "100.0% " + 100 * "#"
    assert [answer.log for answer in stub.answers().values()] == [
        ("begins", full), ("begins", full), ("begins", full), ("begins", full, ""),
        ("begins", "done"),
    ]  # fmt: skip


#: How long the slow part of a call takes, in seconds; the others do not take nearly as long.
LONG = 1.0


class Slow:
    """Takes its time to be unpickled."""

    def __reduce__(self):
        return time.sleep, (LONG,)


@pytest.mark.parametrize("by_value", [True, False])
def test_imports_are_told_apart_from_unpickling(
    start, stub, environment, tmp_path, monkeypatch, by_value
):
    (tmp_path / "heavy_module.py").write_text(
        f"import time\ntime.sleep({LONG})\ndef double(x): return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import heavy_module

    path = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = f"{tmp_path}:{path}".rstrip(":")
    function = (lambda x: heavy_module.double(x)) if by_value else heavy_module.double
    body = cloudpickle.dumps((function, (4,), {}))
    del sys.modules["heavy_module"]
    start([_wire.Call(n, _wire.Blob.of(body)) for n in (1, 2)]).end()
    first, second = stub.answers()[1], stub.answers()[2]
    assert stub.outcome(first) == 8
    assert first.importing >= LONG > first.unpickling
    assert second.importing < LONG


def test_the_parts_of_a_calls_time_are_told_apart(start, calls, stub):
    first, second = pickle.dumps((len, ([Slow()],), {})), pickle.dumps((bytes, (200_000,), {}))
    start([_wire.Call(1, _wire.Blob.of(first)), _wire.Call(2, _wire.Blob.of(second))]).end()
    slow, large = stub.answers()[1], stub.answers()[2]
    assert slow.unpickling >= LONG > slow.seconds
    assert slow.importing < LONG
    assert slow.finished - slow.started < LONG
    assert slow.upload == 0.0 < large.upload
    assert slow.busy >= LONG


# --- exceptions that refuse to be looked at -------------------------------------------------------


def refuse(*_):
    raise REFUSAL[0]


def odd(**attributes):
    """An exception whose attributes are these."""
    kind = type("OddError", (attributes.pop("base", Exception),), attributes)
    return lambda refusal: raise_odd(kind, refusal)


def raise_odd(kind, refusal):
    REFUSAL[:] = [refusal]
    raise kind("of its own kind")


REFUSAL = [None]
ODD = {
    "str": odd(__str__=refuse, __repr__=refuse),
    "notes": odd(__notes__=property(refuse)),
    "cause": odd(__cause__=property(refuse)),
    "context": odd(__context__=property(refuse)),
    "suppressing": odd(__suppress_context__=property(refuse)),
    "traceback": odd(__traceback__=property(refuse)),
    "any attribute": odd(__getattribute__=refuse),
    "name": odd(base=ModuleNotFoundError, name=property(refuse)),
    "pickle": odd(__reduce_ex__=refuse, __str__=refuse),
}


class Loading:
    """Calls a function where it is unpickled."""

    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("refusal", [SystemExit, KeyboardInterrupt, RecursionError, ValueError])
def test_exceptions_that_refuse_to_be_looked_at(run, calls, stub, refusal):
    specs = [(function, refusal("no")) for function in ODD.values()]
    specs += [(len, Loading(function, refusal("no"))) for function in ODD.values()]
    answers = run(calls(os.getpid, *specs, os.getpid))
    for answer in answers[1:-1]:
        assert answer.kind in (_wire.RAISED, _wire.OUTCOME_PICKLING, _wire.CALL_UNPICKLING), answer
        assert ", in raise_odd" in answer.text
        assert "OddError" in answer.text
    assert stub.outcome(answers[0]) == stub.outcome(answers[-1])  # one process for all


def raise_missing(name):
    raise ModuleNotFoundError("what is not there", name=name)


@pytest.mark.parametrize("name", ["no_such.module", "no>=1.0", "..", "", ["a.b"], 3, "\udc80.x"])
def test_modules_of_odd_names(run, calls, stub, name):
    specs = calls(os.getpid, (raise_missing, name), (len, Loading(raise_missing, name)), os.getpid)
    first, raised, unloadable, last = run(specs)
    assert raised.kind == _wire.RAISED
    assert "ModuleNotFoundError: what is not there" in raised.text
    assert ", in raise_missing" in raised.text
    if isinstance(name, str) and name:
        assert unloadable.kind == _wire.MISSING_MODULE
        assert unloadable.detail == name.replace("\udc80", "\\udc80")
    else:
        assert unloadable.kind == _wire.CALL_UNPICKLING
    assert stub.outcome(first) == stub.outcome(last)


def raise_with_nothing_left():
    sys.modules["civis_futures.worker._tracebacks"] = None  # as without descriptors: no import
    raise ValueError("still told")


def test_a_traceback_with_nothing_to_import(run, calls, stub):
    answer, after = run(calls(raise_with_nothing_left, lambda: 3))
    assert answer.kind == _wire.RAISED
    assert ", in raise_with_nothing_left\nValueError" in answer.text
    assert stub.outcome(after) == 3


class RefusingMeta(type):
    def __getattribute__(cls, name):
        if name in ("__module__", "__qualname__", "__name__"):
            raise SystemExit(3)
        return super().__getattribute__(name)


def a_result_of_a_refusing_class():
    return RefusingMeta("Refusing", (), {"__reduce__": lambda self: refuse()})()


def test_a_result_of_a_class_that_refuses(run, calls, stub):
    answer, after = run(calls(a_result_of_a_refusing_class, lambda: 3))
    assert answer.kind == _wire.OUTCOME_PICKLING
    assert "Refusing" in answer.text
    assert stub.outcome(after) == 3
