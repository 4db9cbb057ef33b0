"""Requests that are held until there is news: offered, asked for, ended."""

from __future__ import annotations

import concurrent.futures
import time

import pytest

HOLD, OFFER = "Civis-Local-Hold", "civis-local-hold"
FOR = "Civis-Local-For"
OUTPUT, NAME, SINCE = "Civis-Local-Output", "Civis-Local-Name", "Civis-Local-Outputs"
#: Seconds; nobody waits as long: what ends such a request is news.
LONG = 3600


@pytest.fixture(scope="module")
def patient(record):
    from civis_futures.local import LocalPlatform

    with LocalPlatform(record=record, cores=4, hold=LONG) as running:
        yield running


@pytest.fixture
def patient_api(patient, tools):
    return tools.Api(patient.url, patient.api_key)


@pytest.fixture
def aside():
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        yield threads.submit


def held(platform, api, aside, path, tag, seconds=LONG, **more):
    """The future of a request that is being held by now."""
    template = "/scripts" if path.startswith("/scripts?") else "/json_values/{id}"
    before = platform.stats().count("GET", template, "client")
    future = aside(api, "GET", path, **{"If-None-Match": tag, HOLD: f"{seconds:g}", **more})
    end = time.monotonic() + 30
    while platform.stats().count("GET", template, "client") == before:
        assert time.monotonic() < end
        time.sleep(0.005)
    return future


def value(api, text="1"):
    made = api.ok("POST", "/json_values", {"valueStr": text})
    path = f"/json_values/{made['id']}"
    return path, api("GET", path).headers["etag"]


def test_it_is_offered_where_there_is_no_limit(make, platform, tools):
    for which, offered in (
        (platform, "20"),
        (make(hold=0.5), "0.5"),
        (make(hold=0), None),
        (make(rate_limit="civis"), None),
    ):
        api = tools.Api(which.url, which.api_key)
        path, tag = value(api)
        for asked in (path, "/scripts", "/scripts/custom"):
            assert api("GET", asked).headers.get(OFFER) == offered
        assert OFFER not in api("GET", "/users/me").headers
        if offered is None:  # then it is an API that knows nothing of it
            assert api("GET", path, **{"If-None-Match": tag, HOLD: "60"}).status == 200


def test_a_value_is_told_as_soon_as_it_changes(patient, patient_api, aside):
    api = patient_api
    path, tag = value(api)
    other, _ = value(api)
    future = held(patient, api, aside, path, tag)
    api.ok("PATCH", other, {"valueStr": "2"})  # somebody else's; and others are served meanwhile
    api.ok("PATCH", path, {"valueStr": "1"})  # no change
    assert not future.done()
    api.ok("PATCH", path, {"valueStr": "2"})
    reply = future.result(30)
    assert (reply.status, reply["value"]) == (200, 2)
    assert reply.headers["etag"] == api("GET", path).headers["etag"]


def test_a_change_for_some_wakes_those_and_who_has_no_name(patient, patient_api, aside):
    api = patient_api
    path, tag = value(api)
    wanted = {name: {FOR: name} for name in "abc"} | {"all": {}}
    futures = {name: held(patient, api, aside, path, tag, **more) for name, more in wanted.items()}
    assert api("PATCH", path, {"valueStr": "2"}, **{FOR: "b, c,d"}).status == 200
    assert [futures[name].result(30)["value"] for name in ("b", "c", "all")] == [2, 2, 2]
    assert not futures["a"].done()
    api.ok("PATCH", path, {"valueStr": "3"})  # for everybody
    assert futures["a"].result(30)["value"] == 3


def test_what_was_changed_for_others_is_told_in_the_end(patient, patient_api, aside):
    api = patient_api
    path, tag = value(api)
    future = held(patient, api, aside, path, tag, 0.5, **{FOR: "a"})
    assert api("PATCH", path, {"valueStr": "2"}, **{FOR: "b"}).status == 200
    assert future.result(30)["value"] == 2
    # And at once to who asks later.
    assert api("GET", path, **{"If-None-Match": tag, HOLD: f"{LONG}", FOR: "a"})["value"] == 2


def test_a_list_is_told_as_soon_as_it_changes(patient, patient_api, aside):
    api = patient_api
    job = api.create()
    tag = api("GET", "/scripts?order=created_at").headers["etag"]
    future = held(patient, api, aside, "/scripts?order=created_at", tag)
    value(api)
    assert not future.done()
    api.ok("PATCH", f"/scripts/containers/{job}", {"name": "new"})
    assert future.result(30)[0]["name"] == "new"


def test_a_run_that_ends_is_news_of_its_script(patient, patient_api, aside):
    api = patient_api
    job = api.create("sleep 0.2")
    path = f"/scripts/containers/{job}"
    api.ok("POST", f"{path}/runs")
    states = []
    reply = api("GET", path)
    while reply["lastRun"]["state"] != "succeeded":
        asked = {"If-None-Match": reply.headers["etag"], HOLD: "60"}
        reply = api("GET", path, **asked)
        states.append(reply["lastRun"]["state"])
    assert len(states) <= 4  # each change is told once


def test_what_is_not_known_any_more_is_told_at_once(patient, patient_api, aside):
    path, _ = value(patient_api)
    assert patient_api("GET", path, **{"If-None-Match": 'W/"x"', HOLD: "60"}).status == 200
    _, tag = value(patient_api)
    for nonsense in ("", "soon", "-1", "nan"):
        assert patient_api("GET", path, **{"If-None-Match": tag, HOLD: nonsense}).status == 200


def test_without_news_it_ends_in_time(patient, patient_api):
    path, tag = value(patient_api)
    reply = patient_api("GET", path, **{"If-None-Match": tag, HOLD: "0.05"})
    assert (reply.status, reply.data, reply.headers["etag"]) == (304, b"", tag)


def test_it_counts_once(patient, patient_api, aside):
    path, tag = value(patient_api)
    future = held(patient, patient_api, aside, path, tag)
    for number in range(3):
        patient_api.ok("PATCH", path, {"name": f"{number}"})
        if number == 0:
            assert future.result(30).status == 200
    entries = [(r.method, r.status) for r in patient.requests() if r.url == path]
    assert sorted(entries) == 2 * [("GET", 200)] + 3 * [("PATCH", 200)]


def test_a_platform_that_stops_answers_first(make, tools, aside):
    platform = make(hold=LONG)
    api = tools.Api(platform.url, platform.api_key)
    path, tag = value(api)
    futures = [held(platform, api, aside, path, tag) for _ in range(3)]
    platform.stop()
    assert [future.result(30).status for future in futures] == 3 * [304]


def test_a_request_that_meets_a_fault_is_not_held(make, tools):
    from civis_futures.testing import Fault

    platform = make(hold=LONG)
    api = tools.Api(platform.url, platform.api_key)
    path, tag = value(api)
    platform.faults.add(Fault.delay(0.01, "GET *", times=1))
    assert api("GET", path, **{"If-None-Match": tag, HOLD: "60"}).status == 200


# --- several requests in one -------------------------------------------------------------------


@pytest.fixture
def run(patient_api):
    """The path of a script's run, which goes on; and what names both in a header."""
    job = patient_api.create("sleep 60")
    made = patient_api.ok("POST", f"/scripts/containers/{job}/runs")
    path = f"/scripts/containers/{job}"
    yield path, f"{path}/runs/{made['id']}", f"{job}/{made['id']}"
    patient_api("DELETE", f"{path}/runs/{made['id']}")


def put_out(api, run, name, **more):
    return api("POST", "/json_values", {"name": name, "valueStr": "1"}, **{OUTPUT: run, **more})


def test_a_value_becomes_an_output_and_its_script_has_a_name_that_says_so(patient_api, run):
    api, (script, path, which) = patient_api, run
    reply = put_out(api, which, "x", **{NAME: "na%C3%AFve #1"})
    assert (reply.status, reply.headers[OUTPUT.lower()]) == (201, which)
    assert [one["name"] for one in api.ok("GET", f"{path}/outputs")] == ["x"]
    assert api.ok("GET", script)["name"] == "na\u00efve #1"
    assert put_out(api, which, "y").status == 201
    assert api.ok("GET", script)["name"] == "na\u00efve #1"


@pytest.mark.parametrize("which", ["1/2", "x/y", "7", "/", ""])
def test_what_cannot_be_put_out_is_a_value_all_the_same(patient_api, run, which):
    reply = put_out(patient_api, which, "x", **{NAME: "new"})
    assert reply.status == 201
    assert OUTPUT.lower() not in reply.headers
    assert patient_api.ok("GET", run[0])["name"] != "new"


def test_of_a_run_that_is_over_nothing_is_changed(patient_api, run):
    script, path, which = run
    patient_api("DELETE", path)
    while patient_api.ok("GET", path)["state"] == "running":
        time.sleep(0.01)
    assert OUTPUT.lower() not in put_out(patient_api, which, "x", **{NAME: "new"}).headers
    assert patient_api.ok("GET", script)["name"] != "new"


def test_it_wakes_who_waits_for_the_list_and_comes_along_with_it(patient, patient_api, run, aside):
    api, (script, _, which) = patient_api, run
    newest = "/scripts?order=updated_at&hidden=false"
    before = api("GET", newest)
    asked = {SINCE: before.headers[SINCE.lower()]}
    future = held(patient, api, aside, newest, before.headers["etag"], **asked)
    put_out(api, which, "x", **{NAME: "new"})
    reply = future.result(30)
    assert (reply[0]["name"], [each["name"] for each in reply[0]["outputs"]]) == ("new", ["x"])
    assert all("outputs" not in row for row in reply.body[1:])
    # What came along is no part of what is waited for; and it comes once.
    after = api("GET", newest, **{SINCE: reply.headers[SINCE.lower()]})
    assert after.headers["etag"] == reply.headers["etag"]
    assert "outputs" not in after[0]
    again = api("GET", script, **{SINCE: before.headers[SINCE.lower()]})
    assert [each["name"] for each in again["outputs"]] == ["x"]
    assert "outputs" not in api("GET", newest)[0]  # unasked
    for nonsense in ("", "x", "-1", "1.5"):
        assert "outputs" not in api("GET", newest, **{SINCE: nonsense})[0]


def test_where_requests_fail_or_are_limited_each_is_made_by_itself(make, tools):
    from civis_futures.testing import Fault

    for options in ({}, {"hold": 0}, {"rate_limit": "civis"}):
        platform = make(**options)
        if not options:
            platform.faults.add(Fault.delay(0.01, "PUT *"))
        api = tools.Api(platform.url, platform.api_key)
        job = api.create("sleep 60")
        run = api.ok("POST", f"/scripts/containers/{job}/runs")["id"]
        assert OUTPUT.lower() not in put_out(api, f"{job}/{run}", "x").headers
        assert SINCE.lower() not in api("GET", "/scripts").headers


@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000, "-1", "1.0", ""])
def test_numbers_that_the_platform_cannot_hold_are_none(patient_api, number):
    made = patient_api(
        "POST", "/json_values", {"valueStr": "1"}, **{OUTPUT: f"{number}/{number}", NAME: "x"}
    )
    assert (made.status, OUTPUT.lower() in made.headers) == (201, False)
    assert patient_api("GET", "/scripts?type=containers", **{SINCE: number}).status == 200
    assert patient_api("GET", f"/scripts?type=containers&page_num={number}").status < 500
