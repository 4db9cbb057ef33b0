"""The API's manners: who comes in, what is refused and how, lists, and the documents' rules."""

from __future__ import annotations

import base64
import json

import pytest

from civis_futures.local._schema import tables

VALIDATION = "The given request was not as expected: Validation failed: "


def basic(key):
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


# --- who comes in


@pytest.mark.parametrize("form", [basic, "Bearer {}".format, "bearer {}".format])
def test_both_forms_of_the_key_open(platform, tools, form):
    reply = tools.call(
        platform.url + "/users/me", headers={"Authorization": form(platform.api_key)}
    )
    assert reply.status == 200


@pytest.mark.parametrize(
    "sent", [None, "", "Basic", "Basic !!", "Bearer wrong", basic("wrong"), "Digest x", "Bearer é"]
)
def test_a_wrong_key_is_401_with_the_header_that_clients_read(platform, tools, sent):
    headers = {} if sent is None else {"Authorization": sent.encode("latin-1")}
    reply = tools.call(platform.url + "/users/me", headers=headers)
    assert reply.status == 401
    assert "www-authenticate" in reply.headers
    assert reply["code"] == 401


def test_only_loopback_names_are_served(platform, api):
    assert api("GET", "/users/me", Host="evil.example").status == 403
    assert api("GET", "/users/me", Host="evil.example:80").status == 403
    assert api("GET", "/users/me", Host="localhost:1").status == 200


def test_the_key_is_in_no_repr_and_no_pickle(platform):
    import pickle

    assert platform.api_key not in repr(platform)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(platform)


# --- spelling


def test_paths_with_and_without_a_slash(api):
    job = api.create()
    for path in ("/scripts", "/scripts/", "/jobs/", f"/scripts/containers/{job}/", "/users/me/"):
        assert api("GET", path).status == 200, path


def test_bodies_in_snake_and_camel_case_and_unknown_keys(api):
    resources = {"cpu": 10, "memory": 20, "disk_space": 3, "gpu": 1}
    params = [{"name": "my_Param", "type": "string", "allowed_values": [], "nonsense": 1}]
    body = {
        "required_resources": resources,
        "docker_command": "x",
        "cancelTimeout": 7,
        "params": params,
        "arguments": {"my_Param": "v"},
        "nonsense": {"a": 1},
    }
    script = api.ok("POST", "/scripts/containers", body)
    assert script["requiredResources"] == {"cpu": 10, "memory": 20, "diskSpace": 3.0}
    assert script["dockerCommand"] == "x"
    assert script["cancelTimeout"] == 7
    assert script["arguments"] == {"my_Param": "v"}
    assert script["params"][0]["name"] == "my_Param"
    assert "nonsense" not in script


def test_get_with_an_empty_object_as_body(api):
    assert api("GET", "/users/me", {}).status == 200


def test_unknown_paths_ids_and_methods(api):
    job, run = api.run()
    other = api.create()
    for path in (
        "/nowhere",
        "/scripts/containers/999",
        "/scripts/containers/abc",
        f"/scripts/containers/{10**30}",
        f"/scripts/custom/{job}",
        f"/scripts/containers/{other}/runs/{run}",
        f"/jobs/{run}",
        "/files/1",
        "/json_values/1",
        "/templates/scripts/1",
        "/notifications/x",
        "/users/me%3Fx=1",
    ):
        reply = api("GET", path)
        assert (reply.status, reply["error"], reply["code"]) == (404, "not_found", 404), path
        assert reply["errorDescription"]
    assert [api(method, "/users/me").status for method in ("DELETE", "HEAD")] == [405, 405]
    assert api("GET", "/notifications").status == 501


# --- bodies that do not fit


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "requiredResources is missing"),
        ({"requiredResources": None}, "requiredResources is missing"),
        ({"requiredResources": 3}, "requiredResources is invalid"),
        ({"requiredResources": {}}, "requiredResources.cpu is missing"),
        ({"requiredResources": {"cpu": 1, "memory": 4}}, "requiredResources.cpu must be greater"),
        ({"requiredResources": {"cpu": 2, "memory": 3}}, "requiredResources.memory must be"),
        ({"requiredResources": {"cpu": "x", "memory": 4}}, "requiredResources.cpu is invalid"),
        ({"requiredResources": {"cpu": 2.5, "memory": 4}}, "requiredResources.cpu is invalid"),
        ({"requiredResources": {"cpu": 10**30, "memory": 4}}, "requiredResources.cpu is invalid"),
        ({"cancelTimeout": -1}, "cancelTimeout must be greater"),
        ({"userContext": "x"}, "userContext does not have a valid value"),
        ({"arguments": []}, "arguments is invalid"),
        ({"arguments": {"a": 1}}, "Arguments a is not a defined param"),
        ({"params": {}}, "params is invalid"),
        ({"params": [{"name": "a"}]}, "params[0].type is missing"),
        ({"params": [{"name": "a", "type": "x"}]}, "params[0].type does not have a valid value"),
        ({"params": [{"name": "_a", "type": "string"}]}, "_a is not a valid name"),
        ({"params": [{"name": "a-b", "type": "string"}]}, "a-b is not a valid name"),
        ({"params": [{"name": "path", "type": "string"}]}, "path is a reserved name"),
        ({"params": [{"name": "a", "type": "string"}] * 2}, "a is duplicated"),
        ({"parentId": 5}, "parentId does not name a job"),
        ({"hidden": "maybe"}, "hidden is invalid"),
        ({"dockerCommand": {"a": 1}}, "dockerCommand is invalid"),
    ],
)
def test_a_body_that_does_not_fit_is_400_in_the_platforms_form(api, tools, body, said):
    if "requiredResources" not in body and body:
        body = body | {"requiredResources": tools.small}
    reply = api("POST", "/scripts/containers", body)
    assert reply.status == 400
    assert reply["error"] == "bad_request"
    assert reply["code"] == 400
    assert reply["errorDescription"].startswith(VALIDATION)
    assert said in reply["errorDescription"]


@pytest.mark.parametrize("data", [b"{", b"[]", b"3", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_400(platform, tools, data):
    headers = {"Authorization": f"Bearer {platform.api_key}"}
    reply = tools.call(platform.url + "/scripts/containers", "POST", data, headers)
    assert (reply.status, reply["error"]) == (400, "bad_request")


def test_text_that_is_no_text_is_400_not_500(api, tools):
    body = {"name": "\ud800", "requiredResources": tools.small}
    assert api("POST", "/scripts/containers", body).status == 400


# --- scripts


def test_defaults_of_a_new_script(api, tools):
    body = {"requiredResources": {"cpu": 2, "memory": 4}, "dockerImageName": "python"}
    script = api.ok("POST", "/scripts/containers", body)
    assert script["name"] == f"Script #{script['id']}"
    assert script["dockerImageTag"] == "latest"
    assert script["requiredResources"]["diskSpace"] == 1.0
    assert (script["state"], script["lastRun"], script["hidden"]) == ("idle", None, False)
    assert script["notifications"]["successOn"] is True


def test_patch_keeps_and_put_resets(api, tools):
    job = api.create("one", name="n", repoRef="main", params=[{"name": "a", "type": "string"}])
    path = f"/scripts/containers/{job}"
    changed = api.ok("PATCH", path, {"arguments": {"a": "1"}, "required_resources": {"cpu": 99}})
    assert changed["requiredResources"] == {"cpu": 99, "memory": 256, "diskSpace": 1.0}
    assert (changed["dockerCommand"], changed["repoRef"], changed["name"]) == ("one", "main", "n")
    reset = api.ok("PUT", path, {"requiredResources": tools.small})
    assert (reset["dockerCommand"], reset["repoRef"], reset["params"]) == (None, None, [])
    assert reset["arguments"] == {}
    assert api("PUT", path, {}).status == 400


def test_hidden_is_settable_at_creation_only(api):
    job = api.create(hidden=True)
    assert api.ok("PATCH", f"/scripts/containers/{job}", {"hidden": False})["hidden"] is True


def test_archive_delete_and_clone(api):
    job = api.create("x", name="n", notifications={"successOn": False})
    path = f"/scripts/containers/{job}"
    assert api.ok("PUT", f"{path}/archive", {"status": True})["archived"] is True
    assert api.ok("PUT", f"{path}/archive", {"status": False})["archived"] is False
    assert api("PUT", f"{path}/archive", {}).status == 400
    assert api("DELETE", path).status == 204
    assert api.ok("GET", path)["archived"] is True
    clone = api.ok("POST", f"{path}/clone")
    assert (clone["name"], clone["dockerCommand"]) == (f"Clone of Script {job} n", "x")
    assert clone["notifications"]["successOn"] is True
    kept = api.ok("POST", f"{path}/clone", {"clone_notifications": True})
    assert kept["notifications"]["successOn"] is False


def test_custom_scripts_take_their_code_from_the_template(api, tools):
    params = [{"name": "WORD", "type": "string", "required": True}]
    backing = api.create("echo one $WORD", params=params)
    made = api.ok("POST", "/templates/scripts", {"scriptId": backing, "name": "T"})
    assert made["params"][0]["name"] == "WORD"
    assert api.ok("GET", f"/scripts/containers/{backing}")["publishedAsTemplateId"] == made["id"]
    body = {"fromTemplateId": made["id"], "requiredResources": {"cpu": 33}}
    custom = api.ok("POST", "/scripts/custom", body)
    job = custom["id"]
    assert (custom["type"], custom["backingScriptType"]) == ("Custom", "Container")
    assert custom["name"] == f"T #{job}"
    # A required param without a value: refused when a run is to start, on either path.
    refused = api("POST", f"/scripts/custom/{job}/runs")
    assert refused.status == 400
    assert "Arguments WORD is missing" in refused["errorDescription"]
    assert api("POST", f"/jobs/{job}/runs").status == 400
    assert api("PATCH", f"/scripts/custom/{job}", {"arguments": {"OTHER": 1}}).status == 400
    api.ok("PATCH", f"/scripts/custom/{job}", {"arguments": {"WORD": "hi"}})
    # A later edit of the backing script is inherited.
    api.ok("PATCH", f"/scripts/containers/{backing}", {"dockerCommand": "echo two $WORD"})
    run = api.ok("POST", f"/scripts/custom/{job}/runs")
    assert run["customId"] == job
    # A custom script's id is valid below /scripts/containers too.
    assert api.wait(job, run["id"])["containerId"] == job
    assert api.logs(job, run["id"]) == ["two hi"]
    container = api.ok("GET", f"/scripts/containers/{job}")
    assert container["fromTemplateId"] == made["id"]
    assert container["dockerCommand"] == "echo two $WORD"
    assert container["requiredResources"]["cpu"] == 33
    assert api.ok("GET", f"/scripts/custom/{job}")["lastSuccessfulRun"]["id"] == run["id"]
    assert api.ok("PUT", f"/scripts/custom/{job}/archive", {"status": True})["archived"] is True
    assert api.ok("GET", f"/templates/scripts/{made['id']}")["useCount"] == 1
    assert api("POST", "/scripts/custom", {"fromTemplateId": 1}).status == 400
    assert api("POST", "/templates/scripts", {"scriptId": job, "name": "x"}).status == 400


# --- lists


@pytest.fixture(scope="module")
def crowd(record, tools):
    """A platform of its own with sixty scripts."""
    from civis_futures.local import LocalPlatform

    with LocalPlatform(record=record) as platform:
        api = tools.Api(platform.url, platform.api_key)
        api.jobs = [api.create(name=f"job {i:02d}", hidden=i >= 55) for i in range(60)]
        api.ok("PUT", f"/scripts/containers/{api.jobs[0]}/archive", {"status": True})
        yield api


def test_paging(crowd):
    reply = crowd("GET", "/scripts?order=name&order_dir=asc&limit=25&page_num=2")
    assert [row["name"] for row in reply.body] == [f"job {i:02d}" for i in range(26, 51)]
    assert reply.headers["x-pagination-per-page"] == "25"
    assert reply.headers["x-pagination-current-page"] == "2"
    assert reply.headers["x-pagination-total-pages"] == "3"
    assert reply.headers["x-pagination-total-entries"] == "54"
    beyond = crowd("GET", "/scripts?page_num=9")
    assert (beyond.status, beyond.body) == (200, [])


@pytest.mark.parametrize(
    ("path", "default", "most"),
    [("/scripts", 20, 50), ("/jobs", 50, 50), ("/templates/scripts", 50, 1000)],
)
def test_page_sizes(crowd, path, default, most):
    assert crowd("GET", path).headers["x-pagination-per-page"] == str(default)
    reply = crowd("GET", f"{path}?limit=5000")
    assert reply.headers["x-pagination-per-page"] == str(most)
    assert len(reply.body) <= most


def test_filters(crowd):
    def names(query, path="/scripts"):
        return [row["name"] for row in crowd.ok("GET", f"{path}?limit=50&{query}")]

    hidden = [f"job {i}" for i in range(59, 54, -1)]
    assert names("order=created_at")[0] == "job 54"  # newest first, hidden left out
    assert names("hidden=True&order=created_at") == hidden
    assert names("archived=true") == ["job 00"]
    assert len(names("archived=all&order=name&order_dir=asc")) == 50
    assert names("author=1,2") == []
    assert len(names("author=1,77")) == 50
    assert len(names("author[]=1&author[]=77")) == 50
    assert names("type=sql") == []
    assert len(names("type=sql,containers")) == 50
    assert names("status=running") == []
    assert len(names("status=idle")) == 50
    assert names("q=JOB%2007", "/jobs") == ["job 07"]
    assert names(f"q={crowd.jobs[7]}", "/jobs") == ["job 07"]
    assert names("type=JobTypes%3A%3ATest", "/jobs") == []
    assert names("scheduled=True", "/jobs") == []
    assert names("state=failed", "/jobs") == []
    assert names("from_template_id=1,2", "/scripts/custom") == []


@pytest.mark.parametrize(
    "query",
    [
        "order=nonsense",
        "order=id;drop",
        "order_dir=up",
        "limit=0",
        "limit=x",
        "page_num=0",
        "page_num=-1",
        "hidden=perhaps",
        "archived=perhaps",
        "status=queued",
        "category=x",
    ],
)
def test_a_query_that_does_not_fit_is_400(crowd, query):
    assert crowd("GET", f"/scripts?{query}").status == 400


def test_the_change_feed_is_ordered_by_run_changes(api):
    first, second = api.create(hidden=True), api.create(hidden=True)
    for job in (second, first):
        api.wait(job, api.start(job))
    feed = "/scripts?type=containers&hidden=true&order=last_run.updated_at&limit=2"
    assert [row["id"] for row in api.ok("GET", feed)] == [first, second]
    assert api.ok("GET", feed)[0]["lastRun"]["state"] == "succeeded"
    states = {row["id"]: row["state"] for row in api.ok("GET", "/jobs?hidden=true")}
    assert states[first] == states[second] == "succeeded"


def test_hidden_lists_can_be_read_both_ways(make, tools):
    platform = make(hidden_lists="also")
    api = tools.Api(platform.url, platform.api_key)
    job, secret = api.create(), api.create(hidden=True)
    ids = {row["id"] for row in api.ok("GET", "/scripts?hidden=true")}
    assert ids == {job, secret}
    assert [row["id"] for row in api.ok("GET", "/jobs")] == [job]
    assert api.ok("GET", f"/scripts/containers/{secret}")["hidden"] is True


@pytest.mark.parametrize("follows", [False, True])
def test_updated_at_can_follow_runs(make, tools, follows):
    platform = make(updated_at_follows_runs=follows, whole_seconds=follows)
    api = tools.Api(platform.url, platform.api_key)
    job = api.create()
    before = api.ok("GET", f"/jobs/{job}")["updatedAt"]
    tools.until(lambda: _later(before))
    api.wait(job, api.start(job))
    after = api.ok("GET", f"/jobs/{job}")["updatedAt"]
    assert (after > before) is follows
    if follows:
        assert after.endswith(".000Z")


def _later(stamp):
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) > datetime.fromisoformat(stamp) + timedelta(seconds=1)


# --- JSON values, users, endpoints


def test_json_values(api):
    made = api.ok("POST", "/json_values", {"value_str": '{"a": [1, null, "é"]}'})
    assert made["value"] == {"a": [1, None, "é"]}
    path = f"/json_values/{made['id']}"
    assert api.ok("PATCH", path, {"name": "n"})["value"] == made["value"]
    assert api.ok("PATCH", path, {"valueStr": "8"}) == {"id": made["id"], "name": "n", "value": 8}
    assert api("GET", path).headers["etag"].startswith('W/"')


def test_json_values_have_a_size(api):
    fits = json.dumps("é" * 499_998 + "xx", ensure_ascii=False)
    assert len(fits.encode()) == 1_000_000
    made = api.ok("POST", "/json_values", {"valueStr": fits})
    assert len(api.ok("GET", f"/json_values/{made['id']}")["value"]) == 500_000
    reply = api("POST", "/json_values", {"valueStr": fits.replace("xx", "xxx")})
    assert (reply.status, reply["error"]) == (400, "bad_request")
    assert api("PATCH", f"/json_values/{made['id']}", {"valueStr": fits + " "}).status == 400


@pytest.mark.parametrize("text", ["", "{", "NaN", "Infinity", "[1,]", "[" * 100_000])
def test_json_values_are_json(api, text):
    assert api("POST", "/json_values", {"valueStr": text}).status == 400


def test_me_and_the_spec(api):
    me = api.ok("GET", "/users/me")
    assert me["id"] == api.ok("GET", f"/scripts/containers/{api.create()}")["author"]["id"]
    spec = api.ok("GET", "/endpoints")
    assert "/scripts/containers" in spec["paths"]


def test_the_packaged_spec_is_a_cut_of_the_official_one(api):
    cut, official = json.loads(tables.SPEC), api.ok("GET", "/endpoints")
    assert len(cut["paths"]) == 35
    assert cut["paths"].keys() <= official["paths"].keys()
    assert cut["definitions"].keys() <= official["definitions"].keys()


def test_what_is_added_to_the_spec_is_of_fields_that_it_has():
    """A misspelled name would add nothing, and say nothing."""
    fields = {
        name
        for definition, schema in json.loads(tables.SPEC)["definitions"].items()
        for field in schema.get("properties", ())
        for name in (field, f"{definition}.{field}")
    }
    assert tables.UNSAID.keys() <= fields


def test_children_and_parents(api):
    top = api.create()
    child, other = api.create(parentId=top), api.create(parentId=top, hidden=True)
    grandchild = api.create(parentId=child)
    tree = api.ok("GET", f"/jobs/{top}/children")
    assert [row["id"] for row in tree] == [child, other]
    assert [row["id"] for row in tree[0]["children"]] == [grandchild]
    assert [row["id"] for row in api.ok("GET", f"/jobs/{child}/parents")] == [top]
    # A circle has an end.
    api.ok("PATCH", f"/scripts/containers/{top}", {"parentId": grandchild})
    assert api.ok("GET", f"/jobs/{top}/children")[0]["id"] == child


def test_success_triggers_the_children(api, tools):
    top = api.create("true")
    child = api.create("true", parentId=top)
    archived = api.create("true", parentId=top)
    api.ok("PUT", f"/scripts/containers/{archived}/archive", {"status": True})
    api.wait(top, api.start(top))
    tools.until(lambda: api.ok("GET", f"/jobs/{child}")["state"] == "succeeded")
    assert api.ok("GET", f"/jobs/{archived}")["state"] == "idle"


# --- what the platform says of itself


def test_stats_tell_client_from_worker(make, tools):
    platform = make()
    api = tools.Api(platform.url, platform.api_key)
    script = (
        "import os, urllib.request as u; e = os.environ; "
        "r = u.Request(e['CIVIS_API_ENDPOINT'] + '/users/me'); "
        "r.add_header('Authorization', 'Bearer ' + e['CIVIS_API_KEY']); u.urlopen(r)"
    )
    job, run = api.run(f'python -c "{script}"; echo $CIVIS_API_KEY')
    assert api.wait(job, run)["state"] == "succeeded"
    stats = platform.stats()
    assert stats.count("GET", "/users/me", "worker") == 1
    assert stats.count(origin="worker") == 1
    assert stats.count("POST", "/scripts/containers/{id}/runs") == 1
    assert stats.runs_started == 1
    assert stats.active == {}
    assert platform.stats().requests == stats.requests  # asking is not counted
    # The run's key was its own, and ended with it.
    key = api.logs(job, run)[-1]
    assert key != platform.api_key
    assert tools.Api(platform.url, key)("GET", "/users/me").status == 401
    platform.reset()
    assert platform.stats().requests == {}


def test_the_record_has_all_exchanges_and_no_key(make, tools, tmp_path):
    path = tmp_path / "mine.jsonl"
    platform = make(record=path)
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("echo $CIVIS_API_KEY >&2")
    api.wait(job, run)
    made = api.ok("POST", "/files", {"name": "x"})
    tools.call(made["uploadUrl"], "POST", b"no form")
    platform.stop()
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert (lines[0]["method"], lines[0]["path"]) == ("POST", "/scripts/containers")
    assert lines[0]["request_body"]["dockerCommand"]
    assert lines[0]["response_body"]["id"] == job
    assert lines[-1]["kind"] == "link"
    assert platform_key_absent(text, api.key)


def platform_key_absent(text, key):
    return key not in text and "local-run-" not in text and "Authorization" not in text
