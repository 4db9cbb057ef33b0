"""Every recorded exchange of the real API, replayed: same status, same keys, same types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLES = json.loads(
    (Path(__file__).parents[2] / "contract" / "civis_api_examples.json").read_text()
)
CASES = [
    pytest.param(operation, example, id=f"{operation} {number}")
    for operation, examples in EXAMPLES.items()
    for number, example in enumerate(examples)
]
OPEN = {"arguments", "featureFlags", "uploadFields", "preferences", "value", "default"}
NEWER = {"lastRunUpdatedAt"}  # came with a later version of the API than was recorded


def differences(ours, theirs, path="$"):
    """Where two answers differ in shape; null may be anything."""
    if ours is None or theirs is None or path.rsplit(".", 1)[-1] in OPEN:
        return []
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() - NEWER != theirs.keys():
            return [f"{path}: {sorted(ours.keys() ^ theirs.keys())}"]
        return [d for key in theirs for d in differences(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list):
        return [d for item in ours[:1] for d in differences(item, theirs[0], f"{path}[]")] * bool(
            theirs
        )
    number = int | float
    same = type(ours) is type(theirs) or (isinstance(ours, number) and isinstance(theirs, number))
    return [] if same else [f"{path}: {ours!r} is not like {theirs!r}"]


class World:
    """Makes what a recorded request is about, as the recorded ids are not ours."""

    def __init__(self, api):
        self.api = api

    def params(self, names):
        return [{"name": name, "type": "string"} for name in names]

    def template(self, *names):
        script = self.api.create("sleep 30", params=self.params(names))
        body = {"scriptId": script, "name": f"template {script}"}
        return self.api.ok("POST", "/templates/scripts", body)["id"]

    def custom(self, *names):
        body = {"fromTemplateId": self.template(*names)}
        return self.api.ok("POST", "/scripts/custom", body)["id"]

    def active(self):
        job = self.api.create("sleep 30")
        run = self.api.start(job)
        self.api.wait(job, run, states=("running",))
        return job, run

    def family(self, with_grandchild=True):
        top = self.api.create()
        child = self.api.create(parentId=top)
        if with_grandchild:
            self.api.create(parentId=child)
        return top, child

    def file(self):
        return self.api.ok("POST", "/files", {"name": "my_file.csv.gzip"})["id"]

    def value(self):
        return self.api.ok("POST", "/json_values", {"valueStr": '{"foo": "bar"}'})["id"]


def prepare(world, operation, example):
    """Return the path and the body to send."""
    method, template = operation.split(" ")
    body = example["request_body"]
    names = list((body or {}).get("arguments", {}))
    description = example["description"]
    job = run = None
    if template.startswith("/scripts/custom/{id}"):
        job = world.custom(*names)
    elif "children" in template and "no children" not in description:
        job = world.family("grandchild" in description)[0]
    elif "parents" in template and "no parent" not in description:
        job = world.family()[1]
    elif "{run_id}" in template or "already" in description or "running job" in description:
        job, run = world.active()
    elif template.startswith(("/files", "/json_values")):
        job = world.value() if "json" in template else world.file()
        if "complete" in template:
            job = multipart(world)
    elif "{id}" in template:
        job = world.api.create("sleep 30")
    if template == "/scripts/custom" and method == "POST":
        body = body | {"fromTemplateId": world.template(*names)}
    if template == "/templates/scripts/" and method == "POST":
        body = body | {"script_id": world.api.create()}
    if "outputs" in template and method == "POST":
        new = world.value() if body["objectType"] == "JSONValue" else world.file()
        body = body | {"objectId": new}
    path = template.format(id=job, run_id=run) + query(example["request_query_parameters"])
    return method, path, body


def multipart(world):
    made = world.api.ok("POST", "/files/multipart", {"name": "x", "numParts": 1})
    world.call(made["uploadUrls"][0], "PUT", b"data")
    return made["id"]


def query(parameters):
    given = {name: value for name, value in parameters.items() if name != "id"}
    given |= {"author": "77"} if "author" in given else {}
    return "?" + "&".join(f"{k}={v}".replace(" ", "%20") for k, v in given.items())


@pytest.mark.parametrize(("operation", "example"), CASES)
def test_recorded_exchange(api, tools, operation, example):
    world = World(api)
    world.call = tools.call
    method, path, body = prepare(world, operation, example)
    reply = api(method, path, body)
    assert reply.status == example["response_status"], reply.body
    assert differences(reply.body, example["response_body"]) == []
    if reply.status >= 400:
        assert reply.body == example["response_body"]
    for name, value in example["response_headers"].items():
        if name.lower() in ("location", "civis-cache-control") or name.startswith("X-Pagination"):
            assert name.lower() in reply.headers, name
            if value == "":
                assert reply.headers[name.lower()] == ""
        if name == "Content-Type":
            assert reply.headers["content-type"] == value


def test_list_bodies_have_rows_where_the_recording_has(api):
    # Guards the comparison above, which passes an empty list.
    world = World(api)
    world.custom("a")
    for path in ("/scripts", "/scripts/custom", "/jobs", "/templates/scripts"):
        assert api.ok("GET", path), path


def test_the_validator_sees_what_is_wrong(validator, tmp_path, api, platform):
    def line(body, path="/json_values/7000001", status=200, method="GET"):
        frame = {"kind": "api", "method": method, "path": path, "status": status}
        return json.dumps(frame | {"response_body": body})

    good = {"id": 1, "name": None, "value": [8]}
    wrong = {
        "unknown key": line(good | {"extra": 1}),
        "missing key": line({"id": 1, "name": None}),
        "wrong type": line(good | {"id": "1"}),
        "unknown path": line(good, "/json_values/x"),
        "unknown status": line(good, status=201),
        "no body": line(None),
        "deep": line([{"id": 1, "name": "x"}], "/jobs"),
    }
    for name, text in wrong.items():
        path = tmp_path / "record"
        path.write_text(text + "\n" + line(good) + "\n")
        problems = validator.validate_record(path)
        assert problems, name
        assert all(problem.startswith("line 1: ") for problem in problems), name
