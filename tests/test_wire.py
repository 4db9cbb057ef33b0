"""The letters between client and worker: there and back, and what is no letter."""

import base64
import json
from dataclasses import replace

import pytest
import unhurried  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from civis_futures import _wire
from civis_futures._wire import Answer, Answers, Blob, Call, Inbox, Letter, Order, WireError

sizes = st.integers(0, 2**40)
files = st.builds(Blob.in_file, st.integers(1), st.text(max_size=5), sizes)
blobs = st.one_of(
    st.binary(max_size=50).map(Blob.of),
    files,
)
seconds = st.floats(0, 1e10)
buffers = st.lists(files, max_size=2).map(tuple)
calls = st.builds(
    Call,
    st.integers(),
    blobs,
    st.integers(1, 9),
    st.none() | seconds,
    buffers,
    code=st.integers(0, 2),
)
letters = st.builds(Letter, st.lists(calls, max_size=3).map(tuple), st.booleans())
answers = st.builds(
    Answer,
    st.integers(),
    st.sampled_from([_wire.RETURNED, _wire.RAISED, _wire.CRASHED]),
    st.none() | blobs,
    st.text(),
    st.text(),
    st.integers(1, 9),
    *[seconds] * 4,
)
orders = st.builds(
    Order,
    st.text(),
    st.text(),
    st.text(),
    letters,
    st.none() | st.integers(),
    st.none() | blobs,
    buffers,
    seconds,
    seconds,
)


@settings(max_examples=40)
@given(orders)
def test_orders_there_and_back(order):
    text = _wire.to_json(order)
    assert text.isascii()
    assert _wire.order_from_json(text) == order


def test_what_earlier_workers_do_not_know_is_said_only_where_it_says_something():
    def said(code):
        letter = Letter((Call(1, Blob.of(b"a"), code=code),))
        return _wire.to_json(Inbox({"w": letter}))

    assert "code" not in said(0)
    assert '"code":2' in said(2)


@given(st.builds(Inbox, st.dictionaries(st.text(), letters, max_size=3), seconds))
def test_inboxes_there_and_back(inbox):
    text = _wire.to_json(inbox)
    assert _wire.inbox_from_json(text) == _wire.inbox_from_json(json.loads(text)) == inbox


@given(st.builds(Answers, st.text(), st.lists(answers, max_size=3).map(tuple)))
def test_answers_there_and_back(letter):
    text = _wire.to_json(letter)
    assert _wire.answers_from_json(text) == _wire.answers_from_json(json.loads(text)) == letter
    assert _wire.answers_from_json(json.loads(_wire.answers_text(letter))) == letter


def test_many_answers_take_a_part_of_the_room():
    many = [
        Answer(n, _wire.RETURNED, Blob.of(b"%d" % n), seal=_wire.digest(b"%d" % n))
        for n in range(100)
    ]
    letter = Answers("w", tuple(many))
    assert 3 * len(_wire.answers_text(letter)) < len(_wire.to_json(letter))
    one = Answers("w", (replace(many[0], text="x" * 10_000),))
    assert _wire.answers_text(one) == _wire.to_json(one)  # it has nothing in common with others


RUBBISH = [
    None,
    3,
    "",
    "<html>",
    "null",
    [],
    {},
    {"version": 2},
    {"version": 1},
    {"version": 1, "letter": 3, "letters": 3, "answers": 3, "initializer": None},
    {"version": 1, "letter": {}, "letters": [], "answers": [{}], "initializer": None},
    {"version": 1, "letters": {"w": None}, "answers": [None]},
    {"version": 1, "letters": {"w": {"calls": [{"task": 1}], "stop": 0}}, "answers": None},
    {"version": 1, "letters": {"w": {"calls": 3, "stop": 0}}, "worker": "w"},
]


def test_what_a_later_version_adds_is_passed_over():
    assert _wire.inbox_from_json({"version": 1, "letters": {}, "surplus": 1}) == _wire.Inbox({})


@pytest.mark.parametrize("value", RUBBISH, ids=repr)
def test_rubbish_is_no_letter(value):
    with pytest.raises(WireError):
        _wire.inbox_from_json(value)
    with pytest.raises(WireError):
        _wire.answers_from_json(value)
    with pytest.raises(WireError):
        _wire.order_from_json(value if isinstance(value, str) else json.dumps(value))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_json_is_a_letter_or_a_wire_error(value):
    for read in (_wire.inbox_from_json, _wire.answers_from_json):
        with pytest.raises(WireError):
            read(value)
        with pytest.raises(WireError):
            read({"version": 1, "letters": value, "answers": value, "worker": value})


@given(st.binary(max_size=100))
def test_a_blob_gives_back_what_it_was_made_of(data):
    assert Blob.of(data).inline_data() == data
    assert Blob.in_file(3, _wire.digest(data), len(data)).check(data) == data


def test_a_blob_notices_other_bytes():
    blob = Blob.of(b"abc")
    for other in (b"", b"abd", b"abcd"):
        with pytest.raises(WireError, match="inline are not those"):
            blob.check(other)
        with pytest.raises(WireError, match="in File 7 are not those"):
            Blob.in_file(7, blob.sha256, blob.size).check(other)
    inline = base64.b64encode(b"abd").decode()
    with pytest.raises(WireError):
        Blob(blob.sha256, blob.size, inline=inline).inline_data()
    with pytest.raises(WireError):
        Blob(blob.sha256, blob.size).inline_data()


def test_the_largest_inline_outcome_fits_a_json_value():
    """With the longest text that a worker sends, in the most expensive characters."""
    blob = Blob.of(b"\xff" * _wire.INLINE_LIMIT)
    answer = Answer(1, _wire.RAISED, blob, "\N{PARTY POPPER}" * 21_000)
    assert len(_wire.to_json(Answers("worker", (answer,)))) < _wire.JSON_VALUE_LIMIT


def test_answers_names_differ():
    names = {_wire.answers_name(worker, n) for worker in ("a", "b") for n in (0, 1)}
    assert len(names) == 4
    assert all(name.startswith("civis_futures.answers.") for name in names)


def test_answers_of_another_version():
    """In a session, workers of an earlier process may be of another version."""
    frame = _wire.Frame(0, 9, 0, "f.py", "key", 3)
    letter = Answers("w", (Answer(1, _wire.RAISED, text="a text", frames=(frame,)),))
    value = json.loads(_wire.to_json(letter))
    assert _wire.answers_from_json(value) == letter
    value["more"] = value["answers"][0]["more"] = value["answers"][0]["frames"][0]["more"] = 1
    assert _wire.answers_from_json(value) == letter
    del value["answers"][0]["frames"]
    [answer] = _wire.answers_from_json(value).answers
    assert answer == Answer(1, _wire.RAISED, text="a text")


@pytest.mark.parametrize("name", ["started", "finished", "seconds", "peak_mb", "upload", "attempt"])
@pytest.mark.parametrize("value", ["now", None, float("nan"), float("inf"), 1e300, True, [], {}])
def test_numbers_of_an_answer_are_numbers(name, value):
    letter = json.loads(_wire.to_json(Answers("w", (_wire.Answer(1, _wire.RETURNED),))))
    letter["answers"][0][name] = value
    with pytest.raises(_wire.WireError):
        _wire.answers_from_json(letter)
