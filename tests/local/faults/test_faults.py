"""Every fault is seen to happen, by plain HTTP: to requests and links, of client and worker."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest

from civis_futures.testing import Fault, LocalPlatform

ME = "GET /users/me"
VALUE = "POST /json_values"


def value(text="1", name="v"):
    return {"name": name, "valueStr": text}


def made(api):
    """How many JSON values there are: their ids count up."""
    return api.ok("POST", "/json_values", value())["id"]


# --- answers


def test_a_status_with_and_without_retry_after(faulty, api):
    with faulty.fault(Fault.answer(503, ME, times=2)) as fault:
        replies = [api("GET", "/users/me") for _ in range(3)]
    assert [reply.status for reply in replies] == [503, 503, 200]
    assert "retry-after" not in replies[0].headers
    assert replies[0]["code"] == 503
    assert faulty.faults.hits(fault) == 2
    with faulty.fault(Fault.answer(429, ME, retry_after=1.5)):
        reply = api("GET", "/users/me")
    assert (reply.status, reply.headers["retry-after"]) == (429, "2")
    assert api("GET", "/users/me").status == 200


@pytest.mark.parametrize("done", [False, True])
def test_before_and_after_the_request_took_effect(faulty, api, done):
    before = made(api)
    faults = [Fault.answer(504, VALUE, done=done), Fault.garbage(VALUE, done=done)]
    for fault in faults:
        with faulty.fault(fault):
            reply = api("POST", "/json_values", value())
        assert (reply.status, reply.data[:1]) == (
            (504, b"{") if "answer" in repr(fault) else (200, b"<")
        )
    with faulty.fault(Fault.drop(VALUE, done=done)), pytest.raises(ConnectionError):
        api("POST", "/json_values", value())
    assert made(api) - before - 1 == (3 if done else 0)
    assert [r.status for r in faulty.requests(VALUE)] == [201, 504, 200, None, 201]


def test_garbage_is_html(faulty, api):
    with faulty.fault(Fault.garbage(ME)):
        reply = api("GET", "/users/me")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.data.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("done", [False, True])
def test_a_delay(faulty, api, done):
    with faulty.fault(Fault.delay(0.3, ME, done=done, times=1)):
        begin = time.monotonic()
        assert api("GET", "/users/me").status == 200
        assert time.monotonic() - begin >= 0.3


STRANGE = ["1e300", "inf", "-inf", "nan", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "\u0665\u0665"]


@pytest.mark.parametrize("text", [*STRANGE, float("inf")])
def test_a_strange_retry_after(faulty, api, text):
    with faulty.fault(Fault.answer(429, ME, retry_after=text, times=1)) as fault:
        reply = api("GET", "/users/me")
    assert reply.status == 429
    # http.client takes the bytes of a header for Latin-1.
    assert reply.headers["retry-after"].encode("latin-1").decode() == str(text)
    assert faulty.faults.hits(fault) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 422, 500])
def test_an_endpoint_is_refused_for_ever(faulty, api, status):
    with faulty.fault(Fault.answer(status, ME)):
        assert {api("GET", "/users/me").status for _ in range(5)} == {status}
        assert ("www-authenticate" in api("GET", "/users/me").headers) == (status == 401)
        made(api)


@pytest.mark.parametrize("kind", ["late", "delay"])
def test_who_has_gone_has_asked_all_the_same(faulty, api, kind, until):
    """The older request takes effect after the newer one, and undoes it."""
    key = made(api)
    path = f"/json_values/{key}"
    fault = getattr(Fault, kind)(0.5, "PATCH *", times=1)
    with faulty.fault(fault):
        if kind == "late":
            with pytest.raises(ConnectionError):
                api("PATCH", path, {"valueStr": '"older"'})
        else:
            send_and_go(faulty, "PATCH", path, {"valueStr": '"older"'}, until)
        assert api.ok("PATCH", path, {"valueStr": '"newer"'})["value"] == "newer"
        assert api.ok("GET", path)["value"] == "newer"
        until(lambda: api.ok("GET", path)["value"] == "older")
    assert faulty.faults.hits(fault) == 1


def send_and_go(platform, method, path, body, until):
    connection = http.client.HTTPConnection(urlsplit(platform.url).netloc)
    with closing(connection):
        headers = {"Authorization": f"Bearer {platform.api_key}"}
        connection.request(method, path, json.dumps(body), headers)
        until(lambda: platform.faults.seen(Fault.delay(0.5, "PATCH *", times=1)))


def test_what_is_late_may_be_answered_and_is_never_a_look(faulty, api, until):
    key = made(api)
    path = f"/json_values/{key}"
    with faulty.fault(Fault.late(0.2, status=504)):
        assert api("PATCH", path, {"valueStr": "2"}).status == 504
        assert (
            api("PATCH", "/json_values/1", {"valueStr": "2"}).status == 504
        )  # it is refused later
        assert api.ok("GET", path)["value"] == 1
        until(lambda: api.ok("GET", path)["value"] == 2)
    with pytest.raises(ValueError, match="on must be of the API"):
        Fault.late(1, "PUT link")


def test_a_body_that_drips(faulty, api):
    path = f"/json_values/{made(api)}"  # a short answer, which is there soon
    whole = api("GET", path).data
    with faulty.fault(Fault.drip("GET /json_values/{id}", seconds=0.01)):
        begin = time.monotonic()
        assert api("GET", path).data == whole
        assert time.monotonic() - begin >= 0.01 * len(whole)
    connection = http.client.HTTPConnection(urlsplit(faulty.url).netloc, timeout=0.3)
    with closing(connection), faulty.fault(Fault.drip(ME, times=1)):
        connection.request("GET", "/users/me", headers={"Authorization": f"Bearer {api.key}"})
        response = connection.getresponse()
        with pytest.raises(TimeoutError):
            response.read()
    assert api("GET", path).data == whole


def now(reply):
    return parsedate_to_datetime(reply.headers["date"]).timestamp()


def test_a_clock_that_is_wrong(faulty, api, tools):
    assert abs(now(api("GET", "/users/me")) - time.time()) < 30
    for ahead in (3600, -30 * 86400):
        with faulty.fault(Fault.clock(ahead)) as fault:
            then = time.time() + ahead
            assert abs(now(api("GET", "/users/me")) - then) < 30
            job, run = api.run("echo hello")
            over = api.wait(job, run)
            moments = [over[name] for name in ("createdAt", "startedAt", "finishedAt")]
            moments.append(api.ok("GET", f"/scripts/containers/{job}")["createdAt"])
            logs = api.ok("GET", f"/scripts/containers/{job}/runs/{run}/logs")
            moments += [line["createdAt"] for line in logs]
            for moment in moments:
                assert abs(datetime.fromisoformat(moment).timestamp() - then) < 30
            assert moments == sorted(moments[:3]) + moments[3:]
            key, _ = upload(api, tools)
            link = api.ok("GET", f"/files/{key}")["downloadUrl"]
            assert tools.call(link).status == 200
            listed = "/scripts?hidden=false&limit=50"
            with faulty.fault(Fault.stale(0.0)):
                assert job in [row["id"] for row in api.ok("GET", listed)]
            with faulty.fault(Fault.stale(60)):
                assert job not in [row["id"] for row in api.ok("GET", listed)]
            assert faulty.faults.hits(fault) > 3
        assert (tools.call(link).status == 200) == (ahead > 0)  # its time is over, or is not
    assert abs(now(api("GET", "/users/me")) - time.time()) < 30


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_body_that_is_cut_short(faulty, api, keep):
    whole = api("GET", "/users/me").data
    with faulty.fault(Fault.cut(ME, keep=keep)), pytest.raises(http.client.IncompleteRead) as info:
        api("GET", "/users/me")
    assert info.value.partial == whole[: int(len(whole) * keep)]


def test_a_body_that_is_corrupt(faulty, api):
    whole = api("GET", "/users/me").data
    with faulty.fault(Fault.corrupt(ME)), pytest.raises(ValueError):
        api("GET", "/users/me")
    with faulty.fault(Fault.corrupt(ME)):
        connection = http.client.HTTPConnection(urlsplit(faulty.url).netloc)
        with closing(connection):
            connection.request("GET", "/users/me", headers={"Authorization": f"Bearer {api.key}"})
            other = connection.getresponse().read()
    assert len(other) == len(whole)
    assert other[0] == whole[0] ^ 0x80


def test_the_connection_is_usable_after_a_refusal_and_new_after_a_reset(faulty, api):
    connection = http.client.HTTPConnection(urlsplit(faulty.url).netloc)
    headers = {"Authorization": f"Bearer {api.key}"}
    with closing(connection), faulty.fault(Fault.answer(500, ME, times=1)):
        for status in (500, 200):
            connection.request("GET", "/users/me", headers=headers)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == status


# --- down


@pytest.mark.parametrize("status", [None, 503])
def test_the_whole_platform_is_down_for_a_while(faulty, api, tools, status):
    file = api.ok("POST", "/files", {"name": "a"})

    def is_down(call):
        try:
            return call().status == 503
        except ConnectionError:
            return status is None

    def link():
        return tools.call(file["uploadUrl"], "POST", b"")

    def me():
        return api("GET", "/users/me")

    with faulty.fault(Fault.down(600, status=status)) as long:
        assert is_down(me)
        assert is_down(link)
        assert is_down(me)
    assert not is_down(link)  # it ends when its fault is removed
    assert [request.path for request in faulty.requests(fault=long)] == [
        "/users/me", "link", "/users/me"
    ]  # fmt: skip
    short = Fault.down(0.3, ME, status=status)
    faulty.faults.add(short)
    assert not is_down(link)  # it begins with a request that fits
    begin = time.monotonic()
    assert is_down(me)
    tools.until(lambda: not is_down(me))
    assert time.monotonic() - begin >= 0.3
    assert not is_down(link)
    assert (faulty.faults.hits(long), faulty.faults.hits(short)) == (1, 1)


# --- lists


def test_a_stale_list(faulty, api):
    job = api.create("sleep 30", hidden=True)
    names = "/scripts?hidden=true&limit=50"
    assert job in [row["id"] for row in api.ok("GET", names)]
    with faulty.fault(Fault.stale(600)):
        reply = api("GET", names)
        assert reply.body == []
        assert reply.headers["x-pagination-total-entries"] == "0"
        assert api.ok("GET", f"/scripts/containers/{job}/runs") == []
        assert api("GET", f"/scripts/containers/{job}").status == 200  # it is no list
    assert job in [row["id"] for row in api.ok("GET", names)]


def test_a_stale_list_has_older_states(faulty, api, tools):
    job = api.create("sleep 0.4", hidden=True)
    rows = f"/jobs?q={job}&hidden=true"
    time.sleep(0.2)
    run = api.start(job)
    assert api.wait(job, run)["state"] == "succeeded"
    seen = []
    for behind in (0.0, 0.3, 600.0):
        with faulty.fault(Fault.stale(behind, "GET /jobs")):
            found = api.ok("GET", rows)
        seen.append(found and found[0]["state"])
        if found and seen[-1] == "running":
            assert found[0]["lastRun"]["finishedAt"] is None
            assert found[0]["lastRun"]["startedAt"]
    # A slow machine may be past the middle one.
    assert seen in (["succeeded", "running", []], ["succeeded", "succeeded", []])
    with faulty.fault(Fault.stale(0.0, "GET */runs")):
        assert api.ok("GET", f"/jobs/{job}/runs")[0]["state"] == "succeeded"
        assert api.ok("GET", f"/scripts/containers/{job}/runs")[0]["id"] == run


def test_outputs_that_arrive_late(faulty, api, tools):
    job, run = api.run("sleep 30")
    key = made(api)
    body = {"objectType": "JSONValue", "objectId": key}
    outputs = f"/scripts/containers/{job}/runs/{run}/outputs"
    with faulty.fault(Fault.late_outputs(600)):
        begin = time.monotonic()
        assert api("POST", outputs, body).status == 202
        assert api.ok("GET", outputs) == []
    with faulty.fault(Fault.late_outputs(0.3)):
        found = tools.until(lambda: api.ok("GET", outputs))
        assert time.monotonic() - begin >= 0.25
    assert [row["objectId"] for row in found] == [key]
    api("POST", f"/scripts/{job}/cancel")


@pytest.mark.parametrize("rows", [1, -1])
def test_rows_that_move_between_pages(faulty, api, rows):
    for _ in range(6):
        api.create(hidden=True)
    path = "/scripts?hidden=true&limit=2&order=created_at&page_num="
    whole = [row["id"] for row in api.ok("GET", "/scripts?hidden=true&order=created_at&limit=50")]
    with faulty.fault(Fault.shift(rows, "GET /scripts")) as fault:
        pages = [[row["id"] for row in api.ok("GET", f"{path}{page}")] for page in (1, 2, 3)]
    assert pages == [whole[0:2], whole[2 + rows : 4 + rows], whole[4 + rows : 6 + rows]]
    assert faulty.faults.hits(fault) == 2  # the first page of a list cannot have moved


# --- links


def upload(api, tools, data=b"0123456789" * 1000):
    file = api.ok("POST", "/files", {"name": "a.bin"})
    form = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{field}\r\n'
        for name, field in file["uploadFields"].items()
    ).encode()
    form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = tools.call(file["uploadUrl"], "POST", form + data + b"\r\n--b--\r\n", headers)
    return file["id"], reply.status


def test_faults_of_links(faulty, api, tools):
    data = b"0123456789" * 1000
    with faulty.fault(Fault.answer(503, "POST link", times=1, done=True)):
        key, status = upload(api, tools)
        assert status == 503
    link = api.ok("GET", f"/files/{key}")["downloadUrl"]
    assert tools.call(link).data == data
    with faulty.fault(Fault.answer(500, "GET link", retry_after=3)):
        reply = tools.call(link)
        assert (reply.status, reply.headers["retry-after"]) == (500, "3")
        assert api("GET", "/users/me").status == 200
    with faulty.fault(Fault.cut("GET link", keep=0.3)):
        with pytest.raises(http.client.IncompleteRead) as info:
            tools.call(link)
        assert info.value.partial == data[:3000]
    with faulty.fault(Fault.corrupt("GET link")):
        other = tools.call(link).data
        assert len(other) == len(data)
        assert sum(one != two for one, two in zip(other, data, strict=True)) == 10
    with faulty.fault(Fault.drop("* link")):
        with pytest.raises(ConnectionError):
            tools.call(link)
        with pytest.raises(ConnectionError):
            upload(api, tools)
    with faulty.fault(Fault.garbage("GET link")):
        assert tools.call(link).data.startswith(b"<!DOCTYPE")
    with faulty.fault(Fault.delay(0.2, "GET link")):
        begin = time.monotonic()
        assert tools.call(link).data == data
        assert time.monotonic() - begin >= 0.2
    assert tools.call(link).data == data
    assert {request.origin for request in faulty.requests("* link")} == {"client"}


FROM_WITHIN = """
import json, os, sys, urllib.error, urllib.request

def ask(method, url, body=None, key=True):
    headers = {"Authorization": "Bearer " + os.environ["CIVIS_API_KEY"]} if key else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        return urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as error:
        with error:
            return str(error.code).encode()

api = os.environ["CIVIS_API_ENDPOINT"]
print("me", ask("GET", api + "/users/me").decode())
link = json.loads(ask("GET", api + "/files/" + os.environ["FILE"]))["downloadUrl"]
print("link", ask("GET", link, key=False).decode())
print("variable", ask("GET", os.environ["FILE_URL"], key=False).decode())
"""


def test_faults_of_one_side_only(faulty, api, tools):
    key, _ = upload(api, tools, b"bytes")
    faults = [
        Fault.answer(418, ME, origin="worker"),
        Fault.answer(500, "GET link", origin="worker"),
        Fault.answer(501, ME, origin="client", skip=1),
    ]
    faulty.faults.add(*faults)
    assert list(faulty.faults) == faults
    link = api.ok("GET", f"/files/{key}")["downloadUrl"]
    assert tools.call(link).data == b"bytes"
    assert api("GET", "/users/me").status == 200
    job, run = api.run(
        f"python3 -c '{FROM_WITHIN}'",
        params=[{"name": "FILE", "type": "file"}],
        arguments={"FILE": key},
    )
    api.wait(job, run)
    assert api.logs(job, run) == ["me 418", "link 500", "variable 500"]
    assert api("GET", "/users/me").status == 501
    assert [faulty.faults.hits(fault) for fault in faults] == [1, 2, 1]
    worker = faulty.requests(origin="worker")
    assert [(r.method, r.path, r.status) for r in worker] == [
        ("GET", "/users/me", 418),
        ("GET", "/files/{id}", 200),
        ("GET", "link", 500),
        ("GET", "link", 500),
    ]
    assert worker[0].fault == faults[0]
    assert worker[1].fault is None
    assert worker[1].url == f"/files/{key}"


# --- which, and how often


def statuses(api, count):
    return "".join("x" if api("GET", "/users/me").status == 503 else "." for _ in range(count))


@pytest.mark.parametrize(
    ("which", "pattern"),
    [
        ({}, "xxxxxxxx"),
        ({"times": 2}, "xx......"),
        ({"skip": 3}, "...xxxxx"),
        ({"every": 3}, "..x..x.."),
        ({"skip": 1, "every": 2, "times": 2}, "..x.x..."),
        ({"chance": 0.0}, "........"),
        ({"times": 0}, "........"),
        ({"origin": "worker"}, "........"),
    ],
)
def test_how_often(faulty, api, which, pattern):
    with faulty.fault(Fault.answer(503, ME, **which)) as fault:
        assert statuses(api, 8) == pattern
    assert faulty.faults.hits(fault) == pattern.count("x")
    assert faulty.faults.seen(fault) == (0 if "origin" in which else 8)
    assert len(faulty.requests(ME, fault=fault)) == pattern.count("x")
    assert len(faulty.requests(ME)) == 8


def test_chance_comes_from_the_seed():
    patterns = []
    for seed in (7, 7, 8):
        faults = [Fault.answer(503, ME, chance=0.4), Fault.answer(503, ME, chance=0.1)]
        with LocalPlatform(faults=faults, seed=seed) as platform:
            from_outside = _statuses(platform, 40)
            platform.reset()
            assert _statuses(platform, 40) == from_outside
            patterns.append(from_outside)
    assert patterns[0] == patterns[1] != patterns[2]
    assert 8 < patterns[0].count("x") < 32


def _statuses(platform, count):
    connection = http.client.HTTPConnection(urlsplit(platform.url).netloc)
    found = ""
    with closing(connection):
        for _ in range(count):
            headers = {"Authorization": f"Bearer {platform.api_key}"}
            connection.request("GET", "/users/me", headers=headers)
            reply = connection.getresponse()
            reply.read()
            found += "x" if reply.status == 503 else "."
    return found


def test_the_first_that_was_added_has_the_request(faulty, api):
    first, second = Fault.answer(500, ME, every=2), Fault.answer(502, ME)
    faulty.faults.add(first, second)
    assert [api("GET", "/users/me").status for _ in range(4)] == [502, 500, 502, 500]
    assert (faulty.faults.seen(first), faulty.faults.seen(second)) == (4, 2)
    faulty.faults.remove(second)
    assert [api("GET", "/users/me").status for _ in range(2)] == [200, 500]
    faulty.faults.clear()
    assert list(faulty.faults) == []
    assert faulty.faults.hits(first) == 3


def test_what_is_selected_by_on(faulty, api):
    job = api.create()
    runs = f"/scripts/containers/{job}/runs"
    for on, hit, missed in (
        ("GET /scripts/containers/{id}", f"/scripts/containers/{job}", runs),
        ("get /scripts/*/{id}/runs", runs, f"/scripts/containers/{job}"),
        ("/scripts/containers/{id}", f"/scripts/containers/{job}", "/scripts"),
        ("* /scripts*", runs, "/users/me"),
    ):
        with faulty.fault(Fault.answer(500, on)):
            assert api("GET", hit).status == 500, on
            assert api("GET", missed).status == 200, on


def test_what_can_never_happen_is_refused(faulty):
    with pytest.raises(ValueError, match="no request that fits 'POST /scripts/container'"):
        faulty.faults.add(Fault.drop("POST /scripts/container"))
    with pytest.raises(ValueError, match="no request that fits 'GET /nowhere'"):
        LocalPlatform(faults=[Fault.drop("GET /nowhere")]).start()
    for wrong in (
        {"on": "FETCH /scripts"},
        {"on": "GET scripts"},
        {"chance": 2},
        {"every": 0},
        {"times": -1},
        {"skip": -1},
        {"origin": "me"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Fault.drop(**wrong)
    with pytest.raises(ValueError, match="keep"):
        Fault.cut(keep=1.5)
    with pytest.raises(ValueError, match="status"):
        Fault.answer(99)
    with pytest.raises(ValueError, match="lasting"):
        Fault.freeze(lasting=-1)
    with pytest.raises(ValueError, match="seconds"):
        Fault.clock(float("nan"))
    with pytest.raises(ValueError, match="seconds"):
        Fault.stale(-1)


def test_a_fault_reads_as_it_was_made():
    fault = Fault.answer(429, "POST /files", retry_after=2, origin="client", times=3)
    text = "answer on='POST /files' origin='client' times=3 status=429 retry_after=2"
    assert repr(fault) == f"<Fault {text}>"
    assert Fault.from_json(json.loads(json.dumps(fault.to_json()))) == fault
    assert hash(fault) == hash(Fault.from_json(fault.to_json()))


def test_what_fails_is_counted_but_not_recorded(tmp_path):
    record = tmp_path / "record"
    with LocalPlatform(record=record, faults=[Fault.garbage(ME, every=2)]) as platform:
        assert _statuses(platform, 4) == "...."
        assert platform.stats().count("GET", "/users/me", "client") == 4
    assert len(record.read_text().splitlines()) == 2


def test_the_log_of_who_has_no_key(faulty, api, tools):
    faulty.reset()
    assert tools.call(faulty.url + "/users/me").status == 401
    assert api("GET", "/nowhere").status == 404
    first, second = faulty.requests()
    assert (first.path, first.origin, first.status) == ("/users/me", None, 401)
    assert (second.path, second.origin, second.status) == ("/nowhere", "client", 404)
