"""Arrays of objects leave the pickle of a call, too: each in a pickle of its own, and come back
equal; and what was one object in a call is one object where it arrives.
"""

from __future__ import annotations

import pickle
import zoneinfo
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from civis_futures._data import pickling
from civis_futures._data.pickling import LEAST_BUFFER, MOST_BUFFERS, Manner, Payload
from civis_futures._files.contents import ContentStore

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")

MANY = LEAST_BUFFER // 8  # objects, whose places alone take that much
FEW = 2_000
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Point:
    def __init__(self, x: Any) -> None:
        self.x = x


def filled(count: int, make: Callable[[int], Any]) -> Any:
    array = np.empty(count, dtype=object)
    for number in range(count):
        array[number] = make(number)
    return array


# Many that are small, and few that are large.
OBJECTS: dict[str, Callable[[], Any]] = {
    "many": lambda: filled(MANY, lambda n: f"text {n}"),
    "texts and gaps": lambda: filled(FEW, lambda n: None if n % 3 else f"{n:2000}"),
    "long texts": lambda: filled(64, lambda n: f"{n:30000}"),
    "dates": lambda: filled(60_000, lambda n: datetime(2020, 1, 1 + n % 28, tzinfo=BERLIN)),
    "numbers": lambda: filled(FEW, lambda n: 2 ** (5_000 + n)),
    "lists": lambda: filled(FEW, lambda n: [n, f"{n:600}"]),
    "ragged": lambda: filled(400, lambda n: np.arange(n % 7 + 1_000.0)),
    "large arrays": lambda: filled(3, lambda n: np.full(LEAST_BUFFER // 4, n, dtype="f4")),
    "instances": lambda: filled(FEW, lambda n: Point(f"{n:600}")),
    "StringDType": lambda: np.array([f"{n:600}" for n in range(FEW)], np.dtypes.StringDType()),
    "StringDType with gaps": lambda: np.array(
        [f"{n:1000}" if n % 3 else None for n in range(FEW)], np.dtypes.StringDType(na_object=None)
    ),
    "records": lambda: np.array(
        [(n, f"{n:600}") for n in range(FEW)], dtype=[("n", "i8"), ("text", "O")]
    ),
}
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda x: x,
    "backwards": lambda x: x[::-1],
    "two axes": lambda x: x[: len(x) // 2 * 2].reshape(2, -1),
    "Fortran's order": lambda x: np.asfortranarray(x[: len(x) // 2 * 2].reshape(2, -1)),
    "strided": lambda x: np.repeat(x, 2)[::2],
    "of no rights": lambda x: np.broadcast_to(x, (1, *x.shape)),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda x: x,
    "in a list": lambda x: [0, [x]],
    "twice": lambda x: {"a": x, "b": x},
    "in an instance": Point,
    "in a frame": lambda x: (
        pd.DataFrame({"a": x.ravel()}, dtype=object) if x.dtype == object else x
    ),
    "in a series": lambda x: pd.Series(x.ravel(), dtype=object) if x.dtype == object else x,
    "in an index": lambda x: pd.Index(x.ravel(), dtype=object) if x.dtype == object else x,
}


def payload(value: Any, store: ContentStore) -> Payload:
    return pickling.payload("it", value, store, tuple, Manner())


def arrived(made: Payload) -> Any:
    return pickle.loads(made.data, buffers=[content.data for content in made.buffers])


def plain(value: Any) -> Any:
    """The same in what can be compared with `==`, and types beside it."""
    if isinstance(value, Point):
        return plain(value.x)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return plain(list(value.items()))
    if isinstance(value, np.ndarray):
        objects = value.dtype.hasobject
        inner = value.ravel().tolist() if objects else value.tobytes()
        kinds = set(map(type, inner)) if objects else set()
        mixed = kinds & {list, tuple, Point, np.ndarray}
        return value.dtype, value.shape, kinds, plain(inner) if mixed else inner
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        return type(value), plain(value.to_numpy())
    return value


def alike(one: Any, other: Any) -> bool:
    return bool(plain(one) == plain(other))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(OBJECTS)), st.sampled_from(sorted(LAYOUTS)), st.sampled_from([*PLACES])
)
def test_what_calls_share_goes_up_once(objects: str, layout: str, place: str) -> None:
    value = PLACES[place](LAYOUTS[layout](OBJECTS[objects]()))
    store = ContentStore("here")
    made = [payload(value, store) for _ in range(2)]
    assert alike(arrived(made[0]), value)
    assert len(made[0].data) < 4_000
    assert made[0].data == made[1].data
    assert list(map(id, made[0].buffers)) == list(map(id, made[1].buffers))
    assert 1 <= len(made[0].buffers) <= MOST_BUFFERS


@pytest.mark.parametrize("dtype", ["string[python]", "category", object])
def test_columns_of_texts_go_up_once(dtype: Any) -> None:
    words = pd.Series([f"word {n}" for n in range(2 * MANY)] + [pd.NA]).astype(dtype)
    frame = pd.DataFrame({"n": range(len(words)), "word": words, "same": words})
    for value in (frame, frame[::1], frame["word"], frame.set_index("word")):
        store = ContentStore("here")
        first, second = payload(value, store), payload(value, store)
        assert len(first.data) < LEAST_BUFFER
        assert list(map(id, first.buffers)) == list(map(id, second.buffers))
        assert arrived(first).equals(value)


def test_it_is_the_calls_own() -> None:
    """It is unpickled anew, and can be written, though what it was in is mapped."""
    made = payload(OBJECTS["many"](), ContentStore("here"))
    there = arrived(made)
    there[0] = "mine"
    assert arrived(made)[0] == "text 0"


def test_what_was_one_object_is_one() -> None:
    lists = OBJECTS["lists"]()
    inner, outer = arrived(payload([lists, lists[7]], ContentStore("here")))
    assert inner[7] is outer
    first, second = arrived(payload([lists, lists[::-1]], ContentStore("here")))
    assert first[0] is second[-1]


@pytest.mark.parametrize("begin", ["with the array", "with its owner"])
def test_what_holds_itself(begin: str) -> None:
    array = OBJECTS["instances"]()
    array[0] = owner = Point(array)
    there = arrived(payload(array if begin == "with the array" else owner, ContentStore("here")))
    there = there if begin == "with the array" else there.x
    assert there[0].x is there


def test_arrays_within_arrays() -> None:
    inner, outer = OBJECTS["many"](), OBJECTS["lists"]()
    outer[0] = inner
    for value in ([inner, outer], [outer, inner]):
        there = arrived(payload(value, ContentStore("here")))
        assert any(there[place][0] is there[1 - place] for place in (0, 1))
    assert len(payload(outer, ContentStore("here")).buffers) == 1


def test_many_arrays_cost_a_bounded_number_of_requests() -> None:
    many = [filled(2, lambda n: f"{n:600000}") for _ in range(MOST_BUFFERS + 5)]
    made = payload(many, ContentStore("here"))
    assert len(made.buffers) == MOST_BUFFERS
    assert alike(arrived(made), many)


def test_small_ones_stay_where_they_are() -> None:
    for value in (
        filled(5, str),
        filled(140_000, lambda n: None),
        [filled(3, str), "x" * 2_000_000],
    ):
        made = payload(value, ContentStore("here"))
        assert alike(arrived(made), value)
        assert made.buffers == ()


def test_a_function_and_an_array_of_objects_in_it() -> None:
    words = OBJECTS["many"]()

    def count() -> int:
        return len(words)

    store = ContentStore("here")
    first, second = (pickling.call_payload("it", count, (words,), {}, store) for _ in range(2))
    assert len(first.data) < 4_000
    assert list(map(id, first.buffers)) == list(map(id, second.buffers))
    function, (there,), _ = arrived(first)
    assert (function(), there[1]) == (MANY, "text 1")
