"""The seam: what the runner makes of what a place tells that is elsewhere and takes its time."""

from __future__ import annotations

import asyncio
import time

import pytest

from civis_futures.local._api import documents, scripts
from civis_futures.local._api.runs import begin
from civis_futures.local._limits import Budget
from civis_futures.local._listening.addresses import Listening
from civis_futures.local._places.place import Capacity, Ending, LaunchPlan
from civis_futures.local._runs.runner import Runner
from civis_futures.local._schema import tables
from civis_futures.local._schema.exchange import ApiError
from civis_futures.local._schema.fields import read
from civis_futures.local._settings import Settings
from civis_futures.local._state import Keys, Platform
from civis_futures.local._store import Store

CONFLICT = ApiError(409, "conflict", "it is active")


class Elsewhere:
    """A place that does nothing by itself, and writes down what it is asked."""

    def __init__(self, adopts=True, left=()):
        self.asked, self.begun = [], set()
        self._adopts, self._left = adopts, left

    def attach(self, told):
        self.told = told

    def fits(self, plan):
        return True

    def start(self, plan, key):
        self.asked.append(("start", plan.run_id))
        self.key = key
        self.told.keep(plan.run_id, "job 7")

    def alive(self, run_id):
        return run_id in self.begun

    def terminate(self, run_id):
        self.asked.append(("terminate", run_id))

    def kill(self, run_id):
        self.asked.append(("kill", run_id))

    def freeze(self, run_id):
        return False

    def pids(self):
        return {run_id: [] for run_id in self.begun}

    def adopt(self, plan, key, note):
        self.asked.append(("adopt", plan.run_id, key, note))
        return self._adopts

    def close(self):
        return self._left


class Server:
    """A server without HTTP."""

    def __init__(self, folder, place):
        self.store = Store(folder, durable=True)
        self.keys = Keys("owner")
        nowhere = Listening([], ("127.0.0.1",), "127.0.0.1:9", "127.0.0.1:9")
        self.platform = Platform(Settings(), self.store, self.keys, Budget(None), nowhere)
        self.place = place
        self.runner = Runner(self.platform, place)
        self.platform.attach(self.runner)

    def start(self):
        resources = {"cpu": 64, "memory": 64}
        wanted = {"dockerCommand": "true", "dockerImageName": "x", "requiredResources": resources}
        given = read(tables.NEW_CONTAINER, wanted)
        script = scripts._add(self.platform, "container", tables.CONTAINER, given)
        return begin(self.platform, documents.job_row(self.platform, script["id"]), CONFLICT)["id"]

    def run(self, run_id):
        return self.store.one("SELECT * FROM runs WHERE id = ?", run_id)

    def logs(self, run_id):
        self.runner.flush(run_id)
        rows = self.store.all("SELECT message FROM logs WHERE run_id = ? ORDER BY id", run_id)
        return [row["message"] for row in rows]

    def close(self):
        self.runner.close()
        self.store.close()


def in_loop(test):
    def run(tmp_path):
        asyncio.run(test(tmp_path))

    return run


async def given(server, run_id):
    async with asyncio.timeout(20):
        while ("start", run_id) not in server.place.asked:
            await asyncio.sleep(0)


@in_loop
async def test_a_run_is_queued_until_it_has_begun(tmp_path):
    server = Server(tmp_path, Elsewhere())
    run = server.start()
    await given(server, run)
    told = server.place.told
    told.printed(run, [(time.time(), "info", "it waits for resources")])
    assert (server.run(run)["state"], server.runner.queued()) == ("queued", 1)
    told.begun(run, "node n2, job 7")
    assert (server.run(run)["state"], server.runner.queued()) == ("running", 0)
    assert server.keys.origin(server.place.key) == "worker"
    told.printed(run, [(time.time(), "info", "hello")])
    told.ended(run, Ending(exit_code=0, max_memory=12.345, max_cpu=0.5))
    done = server.run(run)
    assert (done["state"], done["max_memory"], done["max_cpu"]) == ("succeeded", 12.35, 500)
    assert server.logs(run) == [
        "it waits for resources", "The container runs at node n2, job 7.", "hello",
    ]  # fmt: skip
    assert server.keys.origin(server.place.key) is None
    server.close()


ENDINGS = [
    (Ending(exit_code=3), "failed", ["Error on job: Process ended with an error, exiting: 3."]),
    (Ending(why="sbatch: no\nsbatch: way"), "failed", ["sbatch: no", "sbatch: way"]),
    (Ending(exit_code=0, out_of_memory=True), "failed",
     ["Process ran out of its allowed 64 MiB of memory and was killed.",
      "Error on job: Process ended with an error, exiting: 137."]),
    (Ending(exit_code=143, why="It was longer than 60 s."), "failed",
     ["It was longer than 60 s.", "Error on job: Process ended with an error, exiting: 143."]),
    (Ending(cancelled_outside=True), "cancelled", None),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "state", "lines"), ENDINGS)
def test_the_verdict_is_a_function_of_the_ending(tmp_path, ending, state, lines):
    @in_loop
    async def ends(folder):
        server = Server(folder, Elsewhere())
        run = server.start()
        await given(server, run)
        server.place.told.ended(run, ending)
        assert server.run(run)["state"] == state
        assert server.logs(run) == ([] if lines is None else [*lines, "Failed"])
        server.close()

    ends(tmp_path)


@in_loop
async def test_cancelled_before_it_begins_the_place_ends_it(tmp_path):
    server = Server(tmp_path, Elsewhere())
    run = server.start()
    await given(server, run)
    server.runner.cancel(run)
    server.runner.cancel(run)
    assert server.place.asked == [("start", run), ("terminate", run)]
    assert server.run(run)["state"] == "queued", "the place has not said that it is over"
    server.place.told.ended(run, Ending())
    assert (server.run(run)["state"], server.run(run)["started_at"]) == ("cancelled", None)
    server.close()


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("crashed", [False, True])
def test_after_a_restart_a_run_goes_on_under_its_key(tmp_path, begun, crashed):
    @in_loop
    async def go_on(folder):
        first = Server(folder, Elsewhere())
        run, other = first.start(), first.start()
        await given(first, run)
        key = first.place.key
        await given(first, other)
        if begun:
            first.place.told.begun(run, None)
        first.place._left = {run}
        if crashed:
            first.store.close()
        else:
            first.close()
        second = Server(folder, Elsewhere())
        assert ("adopt", run, key, "job 7") in second.place.asked
        assert second.run(run)["state"] == ("running" if begun else "queued")
        assert second.keys.origin(key) == "worker"
        second.place.told.begun(run, None)  # its agent says so again
        second.place.told.ended(run, Ending(exit_code=0))
        assert second.run(run)["state"] == "succeeded"
        second.close()
        third = Server(folder, Elsewhere())
        assert third.place.asked == [], "what has ended is not asked for"
        assert third.run(other)["state"] == "failed"
        third.close()

    go_on(tmp_path)


@in_loop
async def test_after_a_restart_what_cannot_go_on_has_failed(tmp_path):
    first = Server(tmp_path, Elsewhere())
    run = first.start()
    await given(first, run)
    first.store.close()
    second = Server(tmp_path, Elsewhere(adopts=False))
    assert second.run(run)["state"] == "failed"
    assert second.keys.origin(first.place.key) is None
    second.close()


def test_capacity():
    def plan(cpu, memory):
        return LaunchPlan(1, 1, "true", {}, cpu, memory, 0)

    one = Capacity(cores=1, memory=100)
    assert one.fits(plan(9999, 9999), []), "what asks for more than there is runs alone"
    assert one.fits(plan(512, 50), [plan(512, 50)])
    assert not one.fits(plan(513, 50), [plan(512, 50)])
    assert not one.fits(plan(1, 51), [plan(512, 50)])
    assert Capacity(None, None).fits(plan(9999, 9999), [plan(9999, 9999)])
