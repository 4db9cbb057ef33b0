"""Texts of any size that user code makes: the answer fits into a JSON value, the worker lives."""

import os

import cloudpickle
import pytest
from cases import mostly_repeats
from tasks import by_value

from civis_futures import _wire
from civis_futures.worker._http import RefusedError
from civis_futures.worker._outbox import Outbox

by_value(__name__)


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("🎉é\0x" * 1_500_000)


def raise_unpicklable():
    raise Unpicklable("🎉é\0x" * 1_500_000)


def result_unpicklable():
    return Unpicklable()


def of_a_type_with_a_long_name():
    def refuse(self):
        raise TypeError

    return type("🎉é" * 1_500_000, (), {"__reduce__": refuse, "__module__": "x" * 5_000_000})()


def raise_of_a_type_with_a_long_name():
    raise type("🎉é" * 1_500_000, (Unpicklable,), {"__module__": "🎉" * 5_000_000})


def raise_with_notes():
    error = ValueError("🎉" * 1_500_000)
    for _ in range(3):
        error.add_note("é" * 1_500_000)
    raise error from Unpicklable("x" * 3_000_000)


def raise_refusing_to_be_shown():
    class Refuses(Unpicklable):
        def __str__(self):
            raise ValueError("🎉" * 1_500_000)

        __repr__ = __str__

    raise Refuses


def in_a_file_with_a_long_name():
    scope = {}
    exec(compile("def f(n):\n return f(n - 1) if n else 1 / 0", "🎉" * 1_500_000, "exec"), scope)
    scope["f"](30)


def in_many_files():
    """Each frame has a name of its own, and none a module."""
    scope = {}
    for number in range(300):
        code = f"def f{number}(): return f{number - 1}() if {number} else 1 / 0"
        exec(compile(code, f"{number}" + "é" * 200, "exec"), scope)
    scope["f299"]()


def raise_missing():
    raise ModuleNotFoundError("é" * 5_000_000, name="🎉" * 5_000_000)


def prints():
    for _ in range(20):
        print("🎉" * 5_000_000)
    raise ValueError("🎉" * 5_000_000)


class FailsToLoad:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ()


MAKERS = [
    raise_unpicklable, result_unpicklable, of_a_type_with_a_long_name,
    raise_of_a_type_with_a_long_name, raise_with_notes, raise_refusing_to_be_shown,
    in_a_file_with_a_long_name, in_many_files, prints,
]  # fmt: skip


@pytest.mark.parametrize("function", MAKERS, ids=lambda function: function.__name__)
def test_every_text_of_an_answer_has_a_bound(run, calls, stub, function):
    answers = run(calls(os.getpid, function, os.getpid))
    assert stub.outcome(answers[0]) == stub.outcome(answers[2])
    assert answers[1].kind in (_wire.OUTCOME_PICKLING, _wire.RAISED)
    check(answers[1])


@pytest.mark.parametrize(
    "function", mostly_repeats([raise_missing, *MAKERS[3:]], raise_missing, raise_with_notes)
)
def test_so_have_those_of_what_cannot_be_loaded(run, calls, stub, function):
    answers = run(calls(os.getpid, (len, FailsToLoad(function)), os.getpid))
    assert stub.outcome(answers[0]) == stub.outcome(answers[2])
    assert answers[1].kind in (_wire.CALL_UNPICKLING, _wire.MISSING_MODULE)
    check(answers[1])


@pytest.mark.parametrize(
    "function", mostly_repeats([raise_missing, *MAKERS[3:]], raise_missing, prints)
)
def test_so_have_those_of_an_initializer(run, calls, function):
    blob = _wire.Blob.of(cloudpickle.dumps((function, (), {})))
    for answer in run(calls(os.getpid, os.getpid), initializer=blob):
        assert answer.kind == _wire.INITIALIZER
        check(answer)


def check(answer):
    assert len(_wire.to_json(answer)) < _wire.JSON_VALUE_LIMIT / 2
    assert "characters" in answer.text or "<exception str() failed>" in answer.text
    for frame in answer.frames:
        assert 0 <= frame.at <= frame.at + frame.length <= len(answer.text)


class Choosy:
    """A platform that does not take some values, for a reason of its own."""

    def __init__(self):
        self.letters = {}

    def post_output(self, name, text):
        if "poison" in text:
            raise RefusedError("POST /json_values: HTTP 400", 400)
        assert name not in self.letters
        self.letters[name] = _wire.answers_from_json(text)


def test_an_answer_that_the_platform_does_not_take_costs_its_call_alone():
    platform = Choosy()
    outbox = Outbox(platform, "w", "", greets=False)
    for task, text in enumerate(["good", "poison", "good", "poison"]):
        outbox.add(_wire.Answer(task, _wire.RAISED, text=text, attempt=2, key="key"))
    outbox.post()
    assert not outbox
    found = [answer for letter in platform.letters.values() for answer in letter.answers]
    assert list(platform.letters) == [_wire.answers_name("w", n) for n in range(len(found))]
    assert [answer.task for answer in found] == [0, 1, 2, 3]
    kinds = [_wire.RAISED, _wire.OUTCOME_PICKLING] * 2
    assert [answer.kind for answer in found] == kinds
    assert {(answer.attempt, answer.key) for answer in found} == {(2, "key")}
    assert "HTTP 400" in found[1].text


@pytest.mark.parametrize(("longest", "first"), [(12.0, 0.5), (30.0, 0.5), (120.0, 30.0)])
def test_the_first_answers_of_very_many_workers_wait_for_some_time(longest, first):
    """Where each posted its first calls one by one, that was more than the platform allows."""
    outbox = Outbox(Choosy(), "w", "", greets=False)
    outbox.longest = longest
    outbox.add(_wire.Answer(0, _wire.RAISED))
    due = outbox.due_in(queued=10)
    assert due is not None
    assert first - 0.25 <= due <= first
    outbox.post()
    outbox.add(_wire.Answer(1, _wire.RAISED))
    due = outbox.due_in(queued=10)
    assert due is not None
    assert longest - 0.25 <= due <= longest
