"""The mailbox over a client that loses replies and shows stale lists.

The client is a stand-in, since the real platform cannot be made to fail in just these ways.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import pytest

from civis_futures import Container, PlatformError, _wire
from civis_futures._exceptions import Recalled
from civis_futures._kept.traits import UNKNOWN
from civis_futures._pool.mailbox import Mailbox, WorkerRun
from civis_futures._pool.verdict import part_of, reached
from civis_futures._scheduling import events as e
from civis_futures._types import Job, JobRow, LogLine, Output, Run, RunState, TaskId, WorkerId
from civis_futures.worker._lines import go_on_line

LOST = PlatformError("no answer", method="POST", sent=True)
REFUSED = PlatformError("no", method="POST", status=400)
CONFLICT = PlatformError("active already", method="POST", status=409)
RUNNING = RunState.RUNNING


class Stub:
    """Plays back what each method shall do, in order; the last thing again and again."""

    traits = UNKNOWN

    def __init__(self, **script):
        self.script = {name: list(steps) for name, steps in script.items()}
        self.asked: list[tuple] = []

    def __getattr__(self, name):
        def method(*args, **kwargs):
            self.asked.append((name, *args))
            steps = self.script.get(name, [None])
            step = steps.pop(0) if len(steps) > 1 else steps[0]
            if isinstance(step, Exception):
                raise step
            return step(*args, **kwargs) if callable(step) else step

        return method

    def count(self, name):
        return sum(asked[0] == name for asked in self.asked)


def launch(wanted=(1,), **script):
    stub = Stub(**script)
    mailbox = Mailbox(stub, Container())
    order = _wire.Order("token", "http://localhost/", "3.11", _wire.Letter())
    try:
        return stub, mailbox.launch("the pool", 1, order, PROGRAM, list(wanted))
    except (PlatformError, Recalled) as error:
        return stub, error


JOB, RUN = Job(7), Run(70, RunState.QUEUED)
PROGRAM = _wire.Blob.in_file(5, "0" * 64, 100)


def test_a_lost_reply_to_the_script_is_looked_up_by_its_name():
    stub, answer = launch(create_script=[LOST], find_job=[JOB], start_run=[RUN])
    assert answer == (JOB, RUN)
    assert stub.count("create_script") == 1
    [created] = [asked for asked in stub.asked if asked[0] == "create_script"]
    [sought] = [asked for asked in stub.asked if asked[0] == "find_job"]
    assert sought[2] == created[2]["name"]


def test_a_script_that_is_not_there_is_created_again():
    stub, answer = launch(create_script=[LOST, JOB], find_job=[None], start_run=[RUN])
    assert answer == (JOB, RUN)
    assert stub.count("create_script") == 2


def test_a_refused_script_is_not_tried_again():
    stub, answer = launch(create_script=[REFUSED])
    assert answer is REFUSED
    assert [asked[0] for asked in stub.asked] == ["create_script"]


def test_a_lost_reply_to_the_run_is_looked_up():
    stub, answer = launch(create_script=[JOB], start_run=[LOST], latest_run=[RUN])
    assert answer == (JOB, RUN)
    assert stub.count("start_run") == 1


def test_a_run_that_an_earlier_try_has_started_is_ours():
    _, answer = launch(create_script=[JOB], start_run=[CONFLICT], latest_run=[RUN])
    assert answer == (JOB, RUN)


def test_a_run_that_was_not_started_is_started_again():
    stub, answer = launch(create_script=[JOB], start_run=[LOST, RUN], latest_run=[None])
    assert answer == (JOB, RUN)
    assert stub.count("start_run") == 2


def test_what_a_list_does_not_show_yet_is_waited_for():
    script = {"create_script": [LOST], "start_run": [LOST]}
    stub, answer = launch(**script, find_job=[None, JOB], latest_run=[None, RUN])
    assert answer == (JOB, RUN)
    asked = [name for name, *_ in stub.asked]
    assert asked == [
        "create_script", "find_job", "wait_out_lag", "find_job",
        "start_run", "latest_run", "wait_out_lag", "latest_run",
    ]  # fmt: skip


def test_as_long_as_nobody_says_whether_a_run_was_started_none_is_started_again():
    away = PlatformError("no answer", method="GET", sent=True)
    stub, answer = launch(
        create_script=[JOB], start_run=[LOST], latest_run=[away, away, away, away, away, RUN]
    )
    assert answer == (JOB, RUN)
    assert stub.count("start_run") == 1


def test_a_list_that_may_not_be_read_is_no_reason_to_wait_for_ever():
    forbidden = PlatformError("no", method="GET", status=403)
    stub, answer = launch(create_script=[JOB], start_run=[LOST], latest_run=[forbidden])
    assert answer is forbidden
    assert stub.asked[-1] == ("archive", JOB)


def test_a_conflict_that_is_not_about_a_run_is_a_refusal():
    other = PlatformError("the script is archived", method="POST", status=409)
    stub, answer = launch(create_script=[JOB], start_run=[other], latest_run=[None])
    assert answer is other
    assert stub.count("start_run") == 1


def test_a_script_whose_run_is_refused_is_archived():
    stub, answer = launch(create_script=[JOB], start_run=[REFUSED])
    assert answer is REFUSED
    assert stub.asked[-1] == ("archive", JOB)


def test_an_order_too_large_for_the_environment_travels_as_a_file():
    order = _wire.Order(
        "token",
        "http://localhost/",
        "3.11",
        _wire.Letter((_wire.Call(1, _wire.Blob.of(os.urandom(100_000))),)),
    )
    stub = Stub(upload=[31], create_script=[JOB], start_run=[RUN])
    assert Mailbox(stub, Container()).launch("w", 1, order, PROGRAM, [1]) == (JOB, RUN)
    [created] = [asked for asked in stub.asked if asked[0] == "create_script"]
    assert created[2]["arguments"]["CIVIS_FUTURES_ORDER"] == "31"


def test_a_recalled_launch_creates_nothing():
    stub, answer = launch(wanted=())
    assert isinstance(answer, Recalled)
    assert stub.asked == []


def test_a_launch_recalled_half_way_starts_nothing():
    wanted = [1]

    def create(*_):
        wanted.clear()
        return JOB

    stub = Stub(create_script=[create])
    order = _wire.Order("token", "http://localhost/", "3.11", _wire.Letter())
    with pytest.raises(Recalled):
        Mailbox(stub, Container()).launch("pool", 1, order, PROGRAM, wanted)
    assert [asked[0] for asked in stub.asked] == ["create_script", "archive"]


# --- looks -------------------------------------------------------------------------------------


def worker_run(number, read=0):
    return WorkerRun(WorkerId(number), f"token{number}", Job(number), number * 10, read)


def row(number, state=RUNNING, run=None):
    return JobRow(number, f"worker {number}", Run(run or number * 10, state))


def letter(number, *tasks, token="token1", name=None, text=None):
    answers = tuple(_wire.Answer(task, _wire.RETURNED, _wire.Blob.of(b"x")) for task in tasks)
    value = text or _wire.to_json(_wire.Answers(token, answers))
    return Output("JSONValue", number, name or _wire.answers_name("token1", number), value)


def look(stub, *worker_runs, reading=e.Reading.RUNNING, mailbox=None):
    mailbox = mailbox or Mailbox(stub, Container())
    return mailbox.look([(worker_run, reading) for worker_run in worker_runs])


def test_one_request_shows_all_states():
    stub = Stub(list_jobs=[([row(n) for n in range(1, 40)], True)])
    reports, _, cost = look(stub, *(worker_run(n) for n in range(1, 40)), reading=e.Reading.AT_END)
    assert [report.run.state for report in reports] == [RUNNING] * 39
    assert cost == 1


def test_a_row_of_an_older_run_says_nothing():
    stub = Stub(
        list_jobs=[([row(n, RunState.FAILED, run=1) for n in (1, 2, 3)], False)],
        get_row=[lambda job, long_poll=None: row(job.id)],
    )
    reports, _, _ = look(stub, *(worker_run(n) for n in (1, 2, 3)), reading=e.Reading.NEVER)
    assert [report.run.state for report in reports] == [RUNNING] * 3


def test_what_the_list_does_not_show_is_asked_for_by_turns():
    stub = Stub(
        list_jobs=[([row(1)], False)],
        get_row=[lambda job, long_poll=None: row(job.id)],
    )
    mailbox = Mailbox(stub, Container())
    worker_runs = [worker_run(n) for n in range(1, 10)]
    for _ in range(5):
        reports, _, cost = look(stub, *worker_runs, reading=e.Reading.NEVER, mailbox=mailbox)
        assert cost == 3
        assert sum(report.run is None for report in reports) == 6  # unknown, not over
    asked = {asked[1].id for asked in stub.asked if asked[0] == "get_row"}
    assert asked == set(range(2, 10))


def test_paging_stops_where_there_is_no_news():
    pages = [
        ([row(n, RunState.SUCCEEDED) for n in range(1, 51)], True),
        ([row(n) for n in range(51, 101)], True),
        ([row(n) for n in range(101, 121)], False),
    ]
    stub = Stub(
        list_jobs=[lambda kind, hidden, page, **how: pages[page - 1]],
        get_row=[row(1)],
    )
    mailbox = Mailbox(stub, Container())
    worker_runs = [worker_run(n) for n in range(1, 121)]
    _, _, first = look(stub, *worker_runs, reading=e.Reading.NEVER, mailbox=mailbox)
    assert first == 3
    _, _, second = look(stub, *worker_runs, reading=e.Reading.NEVER, mailbox=mailbox)
    assert second == 1


def many(number=130, last_changed=120):
    """A client for so many workers that run; the last of them is behind the first page, unless the
    scripts are in the order of their own changes, where its answers bring it to the front.
    """
    rows = [row(n) for n in range(1, number + 1)]
    news = replace(row(last_changed), name=_wire.counted("w", 1))
    rows[last_changed - 1] = news

    def page(kind, hidden, page, by_script, long_poll):
        asked.append((by_script, page, long_poll is not None))
        order = [news, *(r for r in rows if r is not news)] if by_script else rows
        return order[50 * (page - 1) : 50 * page], 50 * page < number

    asked = []
    token = f"token{last_changed}"
    posted = letter(0, 7, token=token, name=_wire.answers_name(token, 0))
    stub = Stub(
        list_jobs=[page],
        get_row=[lambda job, long_poll=None: row(job.id)],
        list_outputs=[([posted], False)],
    )
    mailbox = Mailbox(stub, Container())
    mailbox._states = {WorkerId(n): RUNNING for n in range(1, number + 1)}
    return mailbox, [(worker_run(n), e.Reading.AT_END) for n in range(1, number + 1)], asked


@pytest.mark.parametrize("number", [130, 1000])
def test_answers_of_a_worker_that_the_first_page_does_not_show_are_read(number):
    mailbox, watches, asked = many(number, number - 10)
    for _ in range(2):
        reports, worker_runs, _ = mailbox.look(watches)
    answers = [answer.task for report in reports for answer in report.answers]
    assert answers == [7]
    assert (False, 1, True) in asked
    assert (True, 1, True) in asked
    # While there is no news any more, one request is enough; what lists do not show is rare.
    watches = [(each, e.Reading.AT_END) for each in worker_runs]
    costs = [mailbox.look(watches)[2] for _ in range(100)]
    assert costs.count(1) == 90
    assert sum(costs) == 100 + 10 * 2


def test_what_is_waited_for_is_a_change_of_any_script():
    mailbox, watches, asked = many()
    for _ in range(3):
        mailbox.look(watches, hold=5.0)
    assert [by_script for by_script, page, long_poll in asked if page == 1 and long_poll] == [
        True
    ] * 3
    assert (False, 1, False) in asked  # runs that end are seen as well


def test_a_row_that_moves_between_pages_counts_once():
    pages = [([row(1, RunState.SUCCEEDED), row(2)], True), ([row(1), row(3)], False)]
    stub = Stub(list_jobs=[lambda kind, hidden, page, **how: pages[page - 1]])
    reports, _, _ = look(stub, *(worker_run(n) for n in (1, 2, 3)), reading=e.Reading.NEVER)
    assert [report.run.state for report in reports] == [RunState.SUCCEEDED, RUNNING, RUNNING]


def read(outputs, read=0, pages=None):
    """What one look reads of worker 1, whose run is running."""
    pages = pages or [(outputs, False)]
    stub = Stub(
        get_row=[row(1)],
        list_outputs=[lambda job, run, page, limit: pages[page - 1]],
    )
    [report], [after], _ = look(stub, worker_run(1, read))
    pages = sum(asked[0] == "list_outputs" for asked in stub.asked)
    return [answer.task for answer in report.answers], after.read, pages


def test_only_new_answers_are_taken_oldest_first():
    outputs = [letter(2, 5, 6), letter(1, 4), letter(0, 3)]
    assert read(outputs) == ([3, 4, 5, 6], 3, 1)
    assert read(outputs, read=2) == ([5, 6], 3, 1)
    assert read(outputs, read=3) == ([], 3, 1)


def test_a_gap_is_read_again():
    outputs = [letter(2, 5), letter(0, 3)]
    assert read(outputs) == ([3, 5], 1, 1)
    assert read([letter(2, 5), letter(1, 4), letter(0, 3)], read=1) == ([4, 5], 3, 1)


def test_outputs_of_others_are_never_taken():
    forged = letter(0, 9, token="token2")
    users = Output("File", 1, "civis_futures.answers.token1.0", None)
    other = letter(0, 8, name="results")
    suffix = letter(1, 7, name="civis_futures.answers.token1.1x")
    assert read([forged, users, other, suffix]) == ([], 0, 1)


def test_answers_that_stay_unreadable_are_garbled():
    nonsense = letter(0, text='{"version": 1, "answers": 3}')
    stub = Stub(get_row=[row(1)], list_outputs=[([letter(1, 4), nonsense], False)])
    after, garbled = worker_run(1), []
    for _ in range(4):
        [report], [after], _ = look(stub, after)
        garbled.append(report.garbled)
        assert [answer.task for answer in report.answers] == [4]
    assert garbled == [False, False, True, True]


def test_a_worker_says_in_its_name_that_there_are_answers():
    named = replace(row(1), name=_wire.counted("worker 1 [token1-0]", 2))
    outputs = [letter(1, 4), letter(0, 3)]
    stub = Stub(get_row=[named], list_outputs=[(outputs, False)])
    mailbox = Mailbox(stub, Container())
    reports, worker_runs, _ = mailbox.look([(worker_run(1), e.Reading.AT_END)])
    assert [answer.task for answer in reports[0].answers] == [3, 4]
    assert (reports[0].letters_posted, reports[0].read) == (2, True)
    mailbox.look([(worker_runs[0], e.Reading.AT_END)])  # nothing new is told, so nothing is read
    assert stub.count("list_outputs") == 1


@pytest.mark.parametrize("listed", [[], [0], [1]])
def test_answers_that_are_told_of_and_not_listed_leave_the_look_incomplete(listed):
    named = replace(row(1), name=_wire.counted("worker 1 [token1-0]", 2))
    stub = Stub(get_row=[named], list_outputs=[([letter(n, n) for n in listed], False)])
    [report], [after], _ = look(stub, worker_run(1))
    assert [answer.task for answer in report.answers] == listed
    assert not report.complete
    assert after.read < 2


def test_answers_that_come_with_the_look_are_not_asked_for():
    told = replace(row(1), name=_wire.counted("w", 2), outputs=(letter(0, 4), letter(1, 5)))
    stub = Stub(get_row=[told])
    (report,), (after,), _ = look(stub, worker_run(1))
    assert [answer.task for answer in report.answers] == [4, 5]
    assert (after.read, report.complete, stub.count("list_outputs")) == (2, True, 0)


@pytest.mark.parametrize("state", [RUNNING, RunState.SUCCEEDED])
def test_those_that_may_not_be_all_are(state):
    """There is a gap, or the run is over and there may be more."""
    come = 1 if state is RUNNING else 0
    told = replace(row(1, state), name=_wire.counted("w", 2), outputs=(letter(come, 5),))
    stub = Stub(get_row=[told], list_outputs=[([letter(1, 5), letter(0, 4)], False)])
    (report,), (after,), _ = look(stub, worker_run(1))
    assert [answer.task for answer in report.answers] == [4, 5]
    assert (after.read, stub.count("list_outputs")) == (2, 1)


def test_answers_over_several_pages():
    pages = [([letter(n, n)], n > 0) for n in (3, 2, 1, 0)]
    assert read([], pages=pages) == ([0, 1, 2, 3], 4, 4)
    assert read([], read=2, pages=pages) == ([2, 3], 4, 2)


def test_bytes_that_were_changed_on_the_way_are_no_result():
    bad = replace(_wire.Blob.of(b"right"), inline=_wire.Blob.of(b"wrong").inline)
    answers = _wire.Answers("token1", (_wire.Answer(1, _wire.RETURNED, bad),))
    output = letter(0, text=_wire.to_json(answers))
    stub = Stub(get_row=[row(1)], list_outputs=[([output], False)])
    [report], _, _ = look(stub, worker_run(1))
    assert [(answer.kind, answer.data) for answer in report.answers] == [(e.CORRUPT, None)]


def test_answers_that_cannot_be_read_leave_the_look_incomplete():
    stub = Stub(get_row=[row(1, RunState.SUCCEEDED)], list_outputs=[LOST])
    [report], [after], _ = look(stub, worker_run(1))
    succeeded = Run(10, RunState.SUCCEEDED)
    assert report == e.Report(
        WorkerId(1), succeeded, (), complete=False, read=True, asked_directly=True, error=LOST
    )
    assert after == worker_run(1)


def test_a_queued_run_has_no_answers_to_read():
    stub = Stub(get_row=[row(1, RunState.QUEUED)])
    _, _, cost = look(stub, worker_run(1))
    assert cost == 1


def test_bytes_of_a_file_are_read_twice_before_they_count_as_wrong():
    blob = _wire.Blob.in_file(3, _wire.digest(b"right"), 5)
    stub = Stub(download=[lambda _: iter([b"wro", b"ng"]), lambda _: iter([b"right"])])
    assert Mailbox(stub, Container()).fetch(blob) == b"right"
    stub = Stub(download=[lambda _: iter([b"wrong"])])
    with pytest.raises(_wire.WireError, match="in File 3 are not those that were sent"):
        Mailbox(stub, Container()).fetch(blob)


# --- diagnoses ---------------------------------------------------------------------------------


def diagnose(run, *messages, answer=None):
    lines = [LogLine(n, "", "error", message) for n, message in enumerate(messages)]
    stub = Stub(get_run=[run], list_logs=[lines])
    asked = e.Diagnose(WorkerId(1), ((TaskId(1), 1),), answer)
    return Mailbox(stub, Container()).diagnose(worker_run(1), asked).verdicts[0][1]


def test_the_verdict_on_a_run():
    failed = Run(10, RunState.FAILED, started=1.0)
    gone = Run(10, RunState.CANCELLED)
    exited = "Error on job: Process ended with an error, exiting: 137."
    out_of_memory = "Process ran out of its allowed 3000 MiB of memory and was killed."
    verdict = diagnose(failed, "hello", out_of_memory, exited, "Failed")
    assert (verdict.memory, verdict.exit_code) == (True, 137)
    assert verdict.log_tail == ("hello", out_of_memory, exited, "Failed")
    verdict = diagnose(failed, exited)
    assert (verdict.memory, verdict.exit_code) == (False, 137)
    assert verdict.reason == "its container failed with exit code 137"
    assert diagnose(gone).reason == "its run was cancelled, and not by this pool"
    assert "no sign of life" in diagnose(Run(10, RunState.SUCCEEDED), "x", _wire.SILENCE).reason
    again = diagnose(failed, "x", _wire.STARTED_AGAIN, EXITED.format(1))
    assert "started it again within its run" in again.reason
    odd = Run(10, RunState.UNKNOWN, "exploded", error="disk on fire")
    assert "exploded" in diagnose(odd).reason
    assert "disk on fire" in diagnose(odd).reason


def test_a_verdict_without_a_platform():
    stub = Stub(get_run=[LOST])
    asked = e.Diagnose(WorkerId(1), ((TaskId(1), 1),))
    found = Mailbox(stub, Container()).diagnose(worker_run(1), asked)
    reason = f"its container ended (why, cannot be looked into: {LOST})"
    assert found == e.Diagnosis(((0, e.Verdict(None, reason)),))


EXITED = "Error on job: Process ended with an error, exiting: {}."
CALLS = [(TaskId(4), 1), (TaskId(5), 2), (TaskId(6), 1)]
LOG = [
    "civis_futures: task 4 begins (attempt 1)",
    "four",
    "unfinished line civis_futures: task 5 begins (attempt 2)",
    "five",
]


def test_the_log_tells_which_call_a_worker_was_at():
    assert reached(CALLS, LOG) == [1]
    assert reached(CALLS, LOG[:2]) == [0]
    assert reached(CALLS, []) == [0]
    assert reached(CALLS[1:], LOG[:2], gone=CALLS[:1]) == [-1], "it was at what nobody waits for"
    assert reached(CALLS[1:], LOG, gone=CALLS[:1]) == [0]
    assert reached(CALLS[1:], [], gone=CALLS[:1]) == [0], "nobody knows"
    assert reached(CALLS, ["civis_futures: task 5 begins (attempt 1)"]) == [0]  # an earlier attempt


def test_a_worker_that_ended_for_want_of_calls_was_at_none():
    """Those that it was given meanwhile have not begun, and may go anywhere."""
    assert reached(CALLS, [*LOG[:2], _wire.IDLE_SILENCE]) == [-1]
    found = diagnose(Run(10, RunState.SUCCEEDED), "x", _wire.IDLE_SILENCE)
    assert "no sign of life" in found.reason


def test_of_each_process_the_last_call_that_began_is_the_one_that_it_was_at():
    calls = [(TaskId(task), 1) for task in range(5)]
    said = [_wire.begin_line(task, 1, process) for task, process in [(0, 1), (1, 2), (2, 2)]]
    assert reached(calls, said, 2) == [0, 2]  # 1 had ended; 3 and 4 had not begun
    assert reached(calls, said, 3) == [0, 2, 3]  # whose line may have been lost at the end
    assert reached(calls, said[1:], 2) == [0, 2]  # the beginning of the log is not known
    assert reached(calls, [], 3) == [0, 1, 2]
    assert reached(calls[:1], [], 3) == [0]
    assert reached(calls[:3], [_wire.begin_line(2, 1, 1)], 2) == [0, 1, 2]  # two had begun before
    of_a_call = [_wire.begin_line(0, 1, process) for process in (1, 7)]
    assert reached(calls, [*of_a_call, _wire.begin_line(1, 1, 2)], 2) == [0, 0, 1]


def test_the_part_of_a_call_where_several_print():
    said = [_wire.begin_line(0, 1, 1), "a", "", _wire.begin_line(1, 1, 2), "b", ""]
    said += [go_on_line("0", 1), "c", "", "", go_on_line("", 3), "d"]
    assert part_of(said, (TaskId(0), 1)) == ["a", "c", ""]
    assert part_of(said, (TaskId(1), 1)) == ["b"]


def test_the_part_of_a_log_that_is_of_one_call():
    assert part_of(LOG, CALLS[0]) == ["four"]
    assert part_of(LOG, CALLS[1]) == ["five"]
    assert part_of(LOG, CALLS[2]) == LOG  # it does not tell
    newlines = [line for begin in LOG[::2] for line in ("", begin, "x", "")]
    assert part_of(newlines, CALLS[0]) == ["x", ""]


@pytest.mark.parametrize(
    ("run", "line", "words"),
    [
        (Run(10, RunState.FAILED, error="no such image"), "", "did not start: no such image"),
        (
            Run(10, RunState.FAILED, started=1.0),
            EXITED.format(127),
            "or what its template says): its image has none",
        ),
        (Run(10, RunState.FAILED, started=1.0), EXITED.format(78), "setup_cmd failed"),
        (Run(10, RunState.FAILED, started=1.0), EXITED.format(2), "its version of civis_futures"),
    ],
)
def test_a_container_that_never_ran_a_worker(run, line, words):
    verdict = diagnose(run, line)
    assert verdict.unstarted
    assert words in verdict.reason
    assert Container().image in verdict.reason


@pytest.mark.parametrize("number", [1, 3])
def test_only_what_all_workers_are_asked_for_by_is_held(number):
    """The first page of the list, or the only worker's script: never what is asked for besides."""

    def page(kind, hidden, page, by_script, long_poll):
        asked.append(long_poll is not None)
        return [row(1)], page == 1

    def one(job, long_poll):
        asked.append(long_poll is not None)
        return row(job.id)

    asked = []
    mailbox = Mailbox(Stub(list_jobs=[page], get_row=[one]), Container())
    runs = [(worker_run(n), e.Reading.AT_END) for n in range(1, number + 1)]
    mailbox.look(runs, hold=0.5)
    assert mailbox.long_poll.seconds == 0.5
    assert asked[0]
    assert not any(asked[1:])
    mailbox.look(runs)
    assert mailbox.long_poll.seconds == 0.0


OUT = [_wire.Call(n, _wire.Blob.of(b"%d" % n)) for n in range(5)]


def told(*versions, offered=20.0, fails=()):
    """For whom each version of the inbox is news, as the platform is told."""
    outcomes = [PlatformError("no") if n in fails else None for n in range(len(versions))]
    stub = Stub(update_json_value=[*outcomes, None])
    mailbox = Mailbox(stub, Container())
    mailbox.long_poll._offered = offered
    for letters in versions:
        inbox = letters if isinstance(letters, _wire.Inbox) else _wire.Inbox(letters)
        with contextlib.suppress(PlatformError):
            mailbox.write_inbox(7, inbox)
    return [names for _, _, _, names in stub.asked]


def to_do(*numbers, **more):
    return _wire.Letter(tuple(OUT[n] for n in numbers), **more)


def test_the_inbox_is_news_for_who_has_something_to_do():
    assert told(
        {"a": to_do(0)},
        {"a": to_do(0), "b": to_do(1)},
        {"a": to_do(0, 2), "b": to_do(1), "c": to_do(3, 4)},
        {"b": to_do(1, stop=True), "c": to_do(4)},  # who has answered need not be told
        {"b": to_do(1, stop=True), "c": to_do(4, revoked=((4, 1),))},
        {"b": to_do(1, stop=True, ended=((1, 1),)), "c": to_do(4, revoked=((4, 1),))},
    ) == [(), ["b"], ["a", "c"], ["b"], ["c"], ["b"]]


def test_the_inbox_is_for_all_where_it_is_not_certain_who_knows_what():
    first, second = {"a": to_do(0)}, {"a": to_do(0), "b": to_do(1)}
    assert told(first, second, offered=0.0) == [(), ()]
    assert told(first, second, second, fails=[1]) == [(), ["b"], ()]
    assert told(first, first) == [(), []]  # a sign of life
    assert told(first, _wire.Inbox(second, lease=5.0)) == [(), ()]
    assert told(first, {f"{n}": to_do(1) for n in range(1000)}) == [(), ()]


def written(*versions):
    """Which of several inboxes are written: each version is (whole, the letters of each)."""
    stub = Stub(update_json_value=[None])
    mailbox = Mailbox(stub, Container())
    for whole, *letters in versions:
        before = len(stub.asked)
        inboxes = {n: _wire.Inbox(each, 2.0, beat=before) for n, each in enumerate(letters)}
        mailbox.write_inboxes(inboxes, whole)
        yield [number for _, number, _, _ in stub.asked[before:]]


def test_of_several_inboxes_those_are_written_that_say_something_new():
    a, b, c = {"a": to_do(0)}, {"b": to_do(1)}, {"b": to_do(1, 2)}
    versions = (True, a, b), (False, a, c), (False, {}, c), (False, {}, c), (True, {}, c)
    assert list(written(*versions)) == [[0, 1], [1], [0], [0, 1], [0, 1]]
