"""Large arrays leave the pickle of a call, whatever their layout and type, and come back equal."""

from __future__ import annotations

import array
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from civis_futures._data import pickling
from civis_futures._data.pickling import LEAST_BUFFER, Manner, Payload
from civis_futures._files.contents import ContentStore

np = pytest.importorskip("numpy")

DTYPES = (
    *("f8", "f2", "c16", "?", "i1", ">i4", "M8[ns]", "m8[s]", "S7", "U5", "V3"),
    [("when", "M8[D]"), ("much", "f4")],
)
LAYOUTS = {
    "as it is": lambda x: x,
    "every second row": lambda x: x[::2],
    "without a column": lambda x: x[:, 1:],
    "backwards": lambda x: x[::-1, ::-1],
    "transposed": lambda x: x.T,
    "in Fortran's order": np.asfortranarray,
    "of three axes": lambda x: x.reshape(-1, 2, 4).transpose(1, 0, 2),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "flat": lambda x: x.reshape(-1),
}


def payload(value: Any, store: ContentStore) -> Payload:
    return pickling.payload("it", value, store, tuple, Manner())


def sent(value: Any) -> tuple[Any, int, int]:
    """What arrives, the bytes that travel with each call, and those that go up once."""
    made = payload(value, ContentStore("here"))
    buffers = [content.data for content in made.buffers]
    arrived = pickle.loads(made.data, buffers=buffers)
    return arrived, len(made.data), sum(content.size for content in made.buffers)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_a_large_array_leaves_the_pickle(dtype: Any, layout: str, writable: bool) -> None:
    dtype = np.dtype(dtype)
    rows = 3 * LEAST_BUFFER // (8 * dtype.itemsize) + 8
    raw = np.random.default_rng(0).integers(0, 2, rows * 8 * dtype.itemsize, dtype="u1")
    value = LAYOUTS[layout](raw.view(dtype).reshape(rows, 8))
    if not writable:
        value.flags.writeable = False
    arrived, in_pickle, beside = sent(value)
    assert type(arrived) is np.ndarray
    assert (arrived.dtype, arrived.shape) == (value.dtype, value.shape)
    assert arrived.tobytes() == value.tobytes()
    own = pickle.loads(pickle.dumps(value, protocol=4))  # as a process pool sends it before 3.14
    assert arrived.flags.c_contiguous == own.flags.c_contiguous
    assert arrived.flags.f_contiguous == own.flags.f_contiguous
    assert beside == value.nbytes
    assert in_pickle < 2_000


class Marked(np.ndarray):
    """A subclass that has something of its own."""

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()
        return make, args, (state, getattr(self, "mark", None))

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.mark = state[1]


KINDS = {
    "marked": lambda x: x.view(Marked),
    "a matrix": lambda x: x.view(np.matrix),
    "masked": lambda x: np.ma.masked_array(x, x > 0.5),
    "records": lambda x: x.astype([("a", "f8")]).view(np.recarray),
}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)), st.sampled_from(["as it is", "every second row", "transposed"])
)
def test_a_subclass_leaves_the_pickle_as_what_it_is(kind: str, layout: str) -> None:
    store = ContentStore("here")
    raw = np.random.default_rng(0).random((3 * LEAST_BUFFER // 64, 8))
    value = LAYOUTS[layout](KINDS[kind](raw))
    if kind == "marked":
        value.mark = "mine"
    first, *others = [payload(value, store) for _ in range(5)]
    arrived = pickle.loads(first.data, buffers=[content.data for content in first.buffers])
    assert type(arrived) is type(value)
    assert arrived.dtype == value.dtype
    assert np.ma.getdata(arrived).tobytes() == np.ma.getdata(value).tobytes()
    assert np.array_equal(np.ma.getmaskarray(arrived), np.ma.getmaskarray(value))
    assert getattr(arrived, "mark", None) == getattr(value, "mark", None)
    arrived[:1] = arrived[1:2]  # it is the task's own
    for other in (first, *others):  # what goes up with each of five calls, and what does once
        assert len(other.data) < LEAST_BUFFER
        assert list(map(id, other.buffers)) == list(map(id, first.buffers))
    assert sum(content.size for content in first.buffers) >= value.nbytes


def test_a_memory_mapped_array_leaves_the_pickle(tmp_path: Path) -> None:
    value = np.memmap(tmp_path / "a", dtype="f8", mode="w+", shape=(200_000, 2))
    value[:] = 1.5
    arrived, in_pickle, beside = sent(value[:, 1])
    assert arrived.tolist() == [1.5] * 200_000
    assert (in_pickle < 2_000, beside) == (True, 1_600_000)


@pytest.mark.parametrize("value", [np.array(3.0), np.zeros((0, 5)), np.array([None, "a"])])
def test_other_arrays_travel_as_before(value: Any) -> None:
    arrived, _, beside = sent(value)
    assert (arrived.dtype, arrived.shape, beside) == (value.dtype, value.shape, 0)
    assert arrived.tolist() == value.tolist()


def test_frames_of_dates_leave_the_pickle() -> None:
    pd = pytest.importorskip("pandas")
    dates = pd.date_range("2020", periods=200_000, freq="s", tz="Europe/Berlin")
    frame = pd.DataFrame({"when": dates, "much": np.arange(200_000.0), "n": range(200_000)})
    frame["kind"] = pd.Categorical(["a", "b"] * 100_000)
    for value in (frame, frame[::1], frame["when"]):
        arrived, in_pickle, beside = sent(value)
        assert arrived.equals(value)
        assert in_pickle < 300_000
        assert beside >= 1_600_000


def test_arrow_tables_and_columns_go_up_once() -> None:
    pa = pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    words = [str(number) for number in range(300_000)]
    table = pa.table({"n": np.arange(300_000.0), "word": words})
    columns = [pd.Series(words, dtype="string[pyarrow]"), pd.Series(range(300_000), dtype="Int64")]
    for value in (table, table.select(["n"]), *columns, columns[0][::2]):
        store = ContentStore("here")
        payload(value, store)  # smaller parts, such as a mask, go up when a second call has them
        first, second = payload(value, store), payload(value, store)
        assert len(first.data) < LEAST_BUFFER
        assert list(map(id, first.buffers)) == list(map(id, second.buffers))
        buffers = [content.data for content in first.buffers]
        assert pickle.loads(first.data, buffers=buffers).equals(value)


@pytest.mark.parametrize(
    "value",
    [
        array.array("d", range(200_000)),
        array.array("b", bytes(2_000_000)),
        memoryview(bytearray(b"ab" * 1_000_000)),
        memoryview(b"ab" * 1_000_000)[::2],
        memoryview(np.arange(400_000.0)[::2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrays_of_the_standard_library_leave_the_pickle(value: Any) -> None:
    arrived, in_pickle, beside = sent(value)
    expected = value.tobytes() if isinstance(value, memoryview) else value
    assert type(arrived) is type(expected)
    assert arrived == expected
    assert in_pickle < 1000
    assert beside == memoryview(expected).nbytes
