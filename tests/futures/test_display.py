"""What is shown of tasks: from made-up summaries, and of real ones."""

from __future__ import annotations

import re
import threading
import time
from html.parser import HTMLParser

import httpx
import pytest
from tasks import by_value

from civis_futures import ContainerFuture, TaskState, table
from civis_futures._display import panels as d
from civis_futures._display.markup import html
from civis_futures._futures.future import Timings, View
from civis_futures._futures.tables import PoolFutures

by_value(__name__)


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what is shown and where it leads."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.shown, self.tags = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.shown += data + " "


def summary(number=0, state=TaskState.SUCCEEDED, **fields):
    return d.TaskSummary(f"f (task {number})", number, state, submitted=100.0 + number, **fields)


MIXED = [
    summary(0, elapsed=3.0, queue=1.0, compute=1.5, peak_memory=120.0),
    summary(1, TaskState.RUNNING, elapsed=10.0, run_id=7, job_url="https://civis/jobs/1"),
    summary(
        2, TaskState.FAILED, elapsed=2, reason="ValueError: x", run_id=8, job_url="https://c/2"
    ),
    summary(3, TaskState.PENDING, elapsed=1.0, queue=1.0),
    summary(4, TaskState.CANCELLED),
]


class Pool:
    """As much of an executor as a future needs that is not sent."""

    def cancel(self, number):
        pass

    def why_waiting(self):
        return ""


def test_a_panel_counts_and_sums():
    panel = d.panel_of("mine", MIXED, 200.0)
    assert panel.totals.tasks == 5
    assert panel.totals.done == 3
    assert str(panel.totals) == "1 failed, 1 running, 1 pending, 1 cancelled, 1 succeeded"
    assert (panel.totals.queue, panel.totals.compute) == (2.0, 1.5)
    assert panel.totals.peak_memory == 120.0
    assert panel.elapsed == 11.0  # from 100 to the end of the running one, 111


def test_text_has_failures_first_with_reason_and_link():
    lines = d.text(d.panel_of("mine", MIXED, 200.0)).splitlines()
    assert lines[0] == "mine"
    assert lines[1] == "[####xxxx---->>>>........] 3 of 5 done"
    said = "elapsed 11 s, total queue 2 s, total compute 1.5 s, highest peak memory 120 MB"
    assert lines[3] == said
    assert lines[4].startswith("  failed    f (task 2)")
    assert lines[5:7] == ["    ValueError: x", "    https://c/2"]
    assert lines[7].startswith("  running   f (task 1)")


@pytest.mark.parametrize("width", [40, 20])
def test_text_fits_a_narrow_terminal_but_for_links(width):
    long = [summary(n, TaskState.FAILED, reason="why " * 50) for n in range(3)] + MIXED
    for line in d.text(d.panel_of("a long title " * 9, long, 200.0), width).splitlines():
        assert len(line) <= max(width, 34) or line.strip().startswith("https://"), line


def test_a_panel_of_many_lists_some_and_counts_the_rest():
    many = [summary(n) for n in range(10_000)] + [summary(10_001, TaskState.FAILED)]
    panel = d.panel_of("many", many, 200.0)
    assert d.text(panel).count("(task ") == d.MOST_ROWS
    assert d.text(panel).endswith("and 9,989 more")
    assert "and 9,989 more" in Page(html(panel)).shown
    assert len(html(panel)) < 20_000


@pytest.mark.parametrize("summaries", [[], MIXED], ids=["none", "mixed"])
def test_html_is_sound(summaries):
    page = Page(html(d.panel_of("mine", summaries, 200.0)))
    assert "mine" in page.shown
    bar = next(attrs for tag, attrs in page.tags if attrs.get("role") == "progressbar")
    assert bar["aria-valuemax"] == str(len(summaries))
    assert [tag for tag, _ in page.tags].count("tr") == (7 if summaries else 0)  # one is why
    assert page.links == (["https://c/2", "https://civis/jobs/1"] if summaries else [])
    assert "prefers-color-scheme" in html(d.panel_of("mine", summaries, 200.0))


def test_everything_of_the_user_is_escaped():
    evil = '<script>alert(1)</script>"&\x1b[2J'
    one = d.TaskSummary(
        evil, 0, TaskState.FAILED, reason=evil, run_id=1, job_url="javascript:alert(1)"
    )
    two = d.TaskSummary(evil, 1, TaskState.FAILED, run_id=2, job_url='https://x/"><script>')
    panel = d.panel_of(evil, [one, two], 1.0)
    page = Page(html(panel))
    assert "script" not in [tag for tag, _ in page.tags]
    assert "alert(1)" in page.shown
    assert page.links == ['https://x/"><script>']
    assert "\x1b" not in d.text(panel) + html(panel)


def test_the_bar_is_full_at_the_end_alone():
    for tasks in range(1, 60):
        some = [
            summary(n, TaskState.FAILED if n % 3 else TaskState.SUCCEEDED) for n in range(tasks)
        ]
        assert re.match(r"\[[#x]{24}\] ", d.text(d.panel_of("", some, 0.0)).splitlines()[1])
        some.append(summary(99, TaskState.PENDING))
        assert ".] " in d.text(d.panel_of("", some, 0.0)).splitlines()[1]


def test_it_says_how_long_a_task_runs_and_what_waiting_is():
    some = [
        summary(0, TaskState.RUNNING, elapsed=100.0, queue=60.0, running=40.0),
        summary(1, TaskState.QUEUED),
        summary(2, TaskState.PENDING),
    ]
    panel = d.panel_of("", some, 0.0)
    assert "running   f (task 0)  1:40, running for 40 s\n" in d.text(panel)
    shown = Page(html(panel)).shown
    assert "running for 40 s" in shown
    for said in (d.text(panel), shown):
        assert "pending: no container has it yet" in said
        assert "queued: a container has it, and has not begun it" in said
        assert "pending: " not in d.text(d.panel_of("", some[:2], 0.0))


def test_rows_after_the_first_can_be_opened():
    many = [summary(n) for n in range(250)]
    many += [summary(250, TaskState.FAILED, reason="<i>why</i>")]
    page = Page(html(d.panel_of("many", many, 0.0), 212))
    assert [tag for tag, _ in page.tags].count("details") == 2
    assert page.shown.count("(task ") == 212
    assert "13 to 112" in page.shown
    assert "113 to 212" in page.shown
    assert "and 39 more" in page.shown
    assert "<i>why</i>" in page.shown


def test_a_table_in_another_order():
    futures = [
        ContainerFuture(f"f{n}", n, View(Timings(100.0, compute=compute)), Pool(), None)
        for n, compute in enumerate([2.0, None, 3.0, 1.0])
    ]
    numbers = [future._number for future in table(futures).sort_by("compute")]
    assert numbers == [2, 0, 3, 1]
    sliced = table(futures).sort_by("compute", ascending=True)[1:]
    assert [future._number for future in sliced] == [0, 2, 1]
    assert re.findall(r"f\d", repr(sliced)) == ["f0", "f2", "f1"]
    with pytest.raises(ValueError, match="no column 'weight': task, number, "):
        table(futures).sort_by("weight")


def test_one_line_of_an_error():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert d.one_line(ValueError("a\nb")) == "ValueError: a"
    assert d.one_line(ValueError("\n\n  a")) == "ValueError:   a"
    assert d.one_line(ValueError()) == "ValueError"
    assert d.one_line(Mute()) == "Mute"
    place = "f (task 3) in run 7 of job 8 (http://x/8)"
    assert d.one_line(OSError(f"{place}: it ended")) == "OSError: it ended"
    assert d.one_line(OSError(f"{place} was not run: why")) == "OSError: was not run: why"
    assert len(d.one_line(ValueError("x" * 10**6))) == d.REASON_LENGTH


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (0, "0 s"), (0.001, "<0.01 s"), (0.416, "0.42 s"), (12.3, "12 s"),
     (185, "3:05"), (3723, "1:02:03")],
)  # fmt: skip
def test_durations(seconds, said):
    assert d.duration(seconds) == said


def test_the_roll_forgets_tasks_but_not_their_numbers():
    roll = PoolFutures()

    def make(number):
        view = View(Timings(time.time()))
        future = ContainerFuture(f"f{number}", number, view, Pool(), None, roll.count)
        roll.add(future)
        return future

    held = [make(0), make(1), make(2)]
    make(3).set_result(None)  # nobody holds it
    held[0].set_exception(ValueError("no"))
    held[1].cancel()
    panel = roll.panel("")
    assert str(panel.totals) == "1 failed, 1 pending, 1 cancelled, 1 succeeded"
    assert [summary.number for summary in panel.summaries] == [0, 1, 2]  # as they are listed
    assert panel.summaries[0].reason == "ValueError: no"
    del held
    assert str(roll.totals()) == "1 failed, 1 cancelled, 1 succeeded"


# --- real ones -----------------------------------------------------------------------------------


def fail():
    raise ValueError("not <b>this</b>")


def test_an_executor_and_its_futures_display(make_executor, until):
    executor = make_executor(2, name="shown")
    good, bad = executor.submit(pow, 2, 3), executor.submit(fail)
    until(lambda: good.done() and bad.done())
    waiting = executor.submit(time.sleep, 60)
    until(waiting.running)
    records = executor.status()
    assert [record["state"] for record in records] == ["succeeded", "failed", "running"]
    assert [record["number"] for record in records] == [0, 1, 2]
    assert records[0]["elapsed"] >= records[0]["compute"] >= 0
    assert 0 <= records[0]["queue"] <= records[0]["elapsed"]
    assert records[1]["reason"] == "ValueError: not <b>this</b>"
    assert records[2]["run_id"] == waiting.run_id
    assert [r["run_id"] for r in table([bad, waiting]).status()] == [bad.run_id, waiting.run_id]
    assert "1 failed, 1 running, 1 succeeded" in repr(executor)

    page = Page(executor._repr_html_())
    assert "1 failed" in page.shown
    assert bad.job_url in page.links
    assert "not <b>this</b>" in page.shown
    assert "not <b>this</b>" in repr(bad)
    assert bad.job_url in Page(bad._repr_html_()).links
    printed = repr(table([good, bad, waiting])).partition("peak memory")[2]
    assert printed.index("failed    ") < printed.index("running   ") < printed.index("succeeded ")
    assert waiting.cancel()


def test_ipython_shows_several_lines(shared, monkeypatch):
    class Printer:
        text = shown = ""

    printer = Printer()
    printer.text = lambda text: setattr(printer, "shown", text)
    monkeypatch.setenv("COLUMNS", "40")
    shared._repr_pretty_(printer, False)
    assert printer.shown.splitlines()[0].startswith("front, up to 3 workers on http")
    assert max(map(len, printer.shown.splitlines()[:4])) <= 40


def test_what_cannot_be_pickled_is_shown_too(shared):
    future = shared.submit(print, threading.Lock())
    assert "CallPicklingError" in Page(future._repr_html_()).shown
    assert future.task in [record["task"] for record in shared.status()]


def test_looking_asks_nobody(make_executor, monkeypatch):
    executor = make_executor(1, name="looked at")
    futures = [executor.submit(pow, 1, 1), executor.submit(time.sleep, 0.5)]
    real, here = httpx.Client.send, threading.current_thread()

    def send(*args, **options):
        assert threading.current_thread() is not here
        return real(*args, **options)

    monkeypatch.setattr(httpx.Client, "send", send)
    while not all(future.done() for future in futures):
        executor.status(), executor._repr_html_(), repr(executor), repr(table(futures))
        futures[0]._repr_html_(), repr(futures[0])


def test_pandas_takes_the_status(shared):
    pandas = pytest.importorskip("pandas")
    future = shared.submit(pow, 2, 2)
    future.result(10)
    frame = pandas.DataFrame(shared.status())
    assert frame.loc[frame.number == future._number, "state"].tolist() == ["succeeded"]


def test_a_table_is_a_sequence_of_futures_of_ours(shared):
    futures = [shared.submit(pow, 2, n) for n in range(3)]
    shown = table(iter(futures))
    assert [future.result(10) for future in shown] == [1, 2, 4]
    assert shown[1] is futures[1]
    assert list(shown[1:]) == futures[1:]
    with pytest.raises(TypeError, match="not 1"):
        table([1])


def test_our_own_words_are_escaped_too():
    """ "<0.01 s" is text, and no tag that some browsers make of it."""
    short = summary(elapsed=0.001, queue=0.002, compute=0.003)
    page = html(d.panel_of("mine", [short], 100.001))
    text = re.sub(r"<(/?[a-z]+)( [a-z-]+=\"[^\"<>]*\")*>", "", page.partition("</style>")[2])
    assert "<" not in text
    assert text.count("&lt;0.01 s") >= 4
