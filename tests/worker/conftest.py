"""A stub of the endpoints that a worker uses, with faults to order, and the worker as a process.

The worker is driven from outside only: environment, HTTP, signals, exit code, log.
"""

import collections
import contextlib
import http.server
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import cloudpickle
import pytest

from civis_futures import _wire

KEY = "the key"
# The worker without the rest of its package, as in the bundle: it starts sooner, and it is an error
# to import more than `_wire`. Its name is the real one, so that coverage counts it.
COMMAND = (
    sys.executable,
    "-c",
    "import sys, types; package = types.ModuleType('civis_futures');"
    f"package.__path__ = [{os.path.dirname(_wire.__file__)!r}];"
    "sys.modules['civis_futures'] = package;"
    "from civis_futures.worker import main; main()",
)
RUN = "/scripts/containers/11/runs/22"


class Stub:
    """Values, files and outputs in memory; `log` has every request as (method, path, time)."""

    def __init__(self, folder):
        self.folder = folder
        self.values, self.files, self.outputs, self.log = {}, {}, [], []
        self.value_names = {}
        self.names = []  # that the script was given
        self.scripts = {}  # the names of other scripts
        self.lines = []  # of the run's log
        self.faults = collections.defaultdict(collections.deque)  # (method, path prefix) -> faults
        self.hold = 0.0  # seconds for which it offers to hold a read of a value
        self.held = []  # the seconds that such reads asked for
        self.waiting_for = set()  # by which names they waited
        # What becomes of them: None, a fault, or "early" or "swallowed": an answer without news.
        self.cut = None
        self.at_once = False  # whether it makes outputs of JSON values if it is asked to
        self.hang_up = False  # set: hang up one that is being held
        self.expired = set()  # links that answer 403
        self.problems = []  # what a worker must never do
        self.lock = threading.Lock()
        self.number = 100
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.stub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def new_id(self):
        with self.lock:
            self.number += 1
            return self.number

    def fault(self, method, prefix, *faults):
        """The next requests get these: status, (status, headers), bytes or "drop".

        Or a callable that returns one of these, or None for no fault but its own time.
        """
        self.faults[method, prefix].extend(faults)

    def next_fault(self, method, path):
        with self.lock:
            for (verb, prefix), faults in self.faults.items():
                if verb == method and path.startswith(prefix) and faults:
                    return faults.popleft()
        return None

    def put_file(self, data):
        number = self.new_id()
        self.path(number).write_bytes(data)
        self.files[number] = {"sha256": _wire.digest(data), "size": len(data)}
        return number

    def path(self, number):
        return self.folder / f"file-{number}"

    def put_value(self, value):
        number = self.new_id()
        self.values[number] = value
        return number

    def answers(self):
        """task -> answer, of all that was posted; each task once."""
        with self.lock:
            posted = [_wire.answers_from_json(self.values[number]) for number in self.outputs]
        found = {}
        for letter in posted:
            for answer in letter.answers:
                assert answer.task not in found, f"{answer} answered twice"
                found[answer.task] = answer
        return found

    def until(self, true, seconds=15):
        """Wait until `true()` is; return what it gave."""
        deadline = time.monotonic() + seconds
        while not (result := true()):
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.01)
        return result

    def until_answered(self, *tasks):
        return self.until(lambda: (got := self.answers()).keys() >= set(tasks) and got)

    def outcome(self, answer):
        """The result or exception that an answer carries."""
        blob = answer.data
        if blob.file_id is None:
            return pickle.loads(blob.inline_data())
        return pickle.loads(blob.check(self.path(blob.file_id).read_bytes()))

    def count(self, method, prefix):
        return sum(m == method and p.startswith(prefix) for m, p, _ in self.log)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def reply(self, status, content=b"", headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def serve(self):
        stub = self.server.stub
        path = urllib.parse.urlsplit(self.path).path
        stub.log.append((self.command, path, time.monotonic()))
        length = int(self.headers.get("Content-Length") or 0)
        fault = stub.next_fault(self.command, path)
        if callable(fault):
            fault = fault()
        if fault is not None:
            self.rfile.read(length)
            return self.fail(fault)
        if path.startswith("/store/"):
            if "Authorization" in self.headers:
                stub.problems.append(f"a key went to {path}")
            return self.store(int(path.split("/")[2]), length)
        if self.headers.get("Authorization") != "Basic dGhlIGtleTo=":
            return self.reply(401, {"error": "unauthorized"})
        body = json.loads(self.rfile.read(length) or b"null")
        return self.api(self.command, path.strip("/").split("/"), path, body)

    do_GET = do_POST = do_PUT = do_PATCH = serve

    def fail(self, fault):
        if fault == "drop":
            self.close_connection = True
            return None
        if isinstance(fault, bytes):
            return self.reply(200, fault, {"Content-Type": "text/html"})
        status, headers = fault if isinstance(fault, tuple) else (fault, {})
        return self.reply(status, {"error": "a fault"}, headers)

    def api(self, method, parts, path, body):
        stub = self.server.stub
        if (method, path) == ("POST", "/json_values"):
            if len(body["valueStr"]) > 1_000_000:
                return self.reply(400, {"error": "bad_request"})
            number = stub.put_value(json.loads(body["valueStr"]))
            stub.value_names[number] = body["name"]
            said = self.at_once(number) if stub.at_once else {}
            return self.reply(201, {"id": number, "name": body["name"], "value": None}, said)
        if method == "GET" and parts[0] == "json_values":
            return self.value(int(parts[1]))
        if (method, path) == ("POST", RUN + "/outputs"):
            with stub.lock:
                stub.outputs.append(body["objectId"])
            return self.reply(202, {**body, "name": "", "link": "", "value": None})
        if (method, path) == ("GET", RUN + "/outputs"):
            names = [{"name": stub.value_names[number]} for number in reversed(stub.outputs)]
            return self.reply(200, names[:5])
        if (method, path) == ("GET", RUN + "/logs") and stub.lines:
            return self.reply(200, [{"id": n, "message": x} for n, x in enumerate(stub.lines)])
        if (method, path) == ("PATCH", "/scripts/containers/11"):
            stub.names.append(body["name"])
            return self.reply(200, {"id": 11, **body})
        if method == "GET" and path.startswith("/scripts/") and int(parts[2]) in stub.scripts:
            return self.reply(200, {"id": int(parts[2]), "name": stub.scripts[int(parts[2])]})
        if method == "GET" and parts[0] == "files":
            return self.get_file(int(parts[1]))
        if method == "POST" and parts[0] == "files":
            return self.new_file(parts, body)
        return self.reply(404, {"error": "not_found"})

    def at_once(self, number):
        """Do what follows, too, as a platform of ours does if it is asked to."""
        stub, run = self.server.stub, self.headers.get("Civis-Local-Output")
        if run is None:
            return {}
        with stub.lock:
            stub.outputs.append(number)
        if (name := self.headers.get("Civis-Local-Name")) is not None:
            stub.names.append(urllib.parse.unquote(name))
        return {"Civis-Local-Output": run}

    def value(self, number):
        stub, known = self.server.stub, self.headers.get("If-None-Match")
        seconds = float(self.headers.get("Civis-Local-Hold", 0))
        if seconds:
            stub.held.append(seconds)
            stub.waiting_for.add(self.headers.get("Civis-Local-For"))
            if stub.cut not in (None, "early", "swallowed"):
                return self.fail(stub.cut)
            end = time.monotonic() + min(seconds, stub.hold)
            while stub.cut != "swallowed" and self.tag(number) == known:
                if stub.hang_up:
                    stub.hang_up = False
                    return self.fail("drop")
                if time.monotonic() > end or stub.cut == "early":
                    return self.reply(304)
                time.sleep(0.005)
        offer = {"ETag": self.tag(number), "Civis-Local-Hold": stub.hold} if stub.hold else {}
        body = {"id": number, "name": "", "value": stub.values[number]}
        return self.reply(200, body, offer)

    def tag(self, number):
        return _wire.digest(json.dumps(self.server.stub.values[number]).encode())

    def get_file(self, number):
        if number not in self.server.stub.files:
            return self.reply(404, {"error": "not_found", "errorDescription": "no such file"})
        link = f"{self.server.stub.url}/store/{number}/{self.server.stub.new_id()}?signature=x"
        return self.reply(200, {"id": number, "fileUrl": link})

    def new_file(self, parts, body):
        stub = self.server.stub
        if parts[1:2] == ["multipart"] and len(parts) == 4:
            return self.complete(int(parts[2]))
        number = stub.new_id()
        stub.files[number] = {"expiresAt": body["expiresAt"], "name": body["name"], "parts": {}}
        link = f"{stub.url}/store/{number}"
        if parts[1:2] == ["multipart"]:
            links = [f"{link}/part/{part}" for part in range(body["numParts"])]
            return self.reply(201, {"id": number, "uploadUrls": links})
        fields = {"policy": "p", "key": f"file-{number}", "x-amz-Date": "now"}
        return self.reply(201, {"id": number, "uploadUrl": link, "uploadFields": fields})

    def complete(self, number):
        stub = self.server.stub
        parts = stub.files[number]["parts"]
        with open(stub.path(number), "wb") as file:
            for part in sorted(parts):
                file.write(parts[part])
        parts.clear()
        return self.reply(204)

    def store(self, number, length):
        stub = self.server.stub
        if self.command == "GET":
            if self.path in stub.expired:
                return self.reply(403, b"<Error>expired</Error>")
            return self.reply(200, stub.path(number).read_bytes())
        data = self.rfile.read(length)
        if self.command == "PUT":
            part = int(self.path.rsplit("/", 1)[1])
            stub.files[number]["parts"][part] = data
            return self.reply(200)
        edge = b"--" + self.headers["Content-Type"].partition("boundary=")[2].encode()
        fields = data.removesuffix(edge + b"--\r\n").split(edge + b"\r\n", 4)[1:]
        names = [field.split(b'name="')[1].split(b'"')[0].decode() for field in fields]
        if names != ["key", "policy", "x-amz-Date", "file"]:
            stub.problems.append(f"a form with {names}")
        stub.path(number).write_bytes(fields[-1].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
        return self.reply(204)


@pytest.fixture
def stub(tmp_path):
    folder = tmp_path / "stub"
    folder.mkdir()
    stub = Stub(folder)
    yield stub
    stub.close()
    assert not stub.problems


class Started:
    """A worker that runs."""

    def __init__(self, process, folder):
        self.process = process
        self.folder = folder

    def end(self, code=0, seconds=20):
        """Wait for its end; check the exit code, and that it left no file."""
        assert self.process.wait(seconds) == code, self.log()
        left = [path.name for path in (self.folder / "tmp").iterdir()]
        assert left == [], left
        return self

    def out(self):
        return (self.folder / "out").read_bytes()

    def log(self):
        """What it printed on standard error, without the lines at which calls begin."""
        text = (self.folder / "err").read_text(errors="replace")
        # Each begins on a line of its own, after a newline of its own.
        text = re.sub(r"^\n(?=civis_futures: task \d+ begins)", "", text, flags=re.MULTILINE)
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if not _wire.BEGIN_LINE.search(line.rstrip()))

    def term(self):
        self.process.send_signal(signal.SIGTERM)

    def children(self):
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(path) as file:
            return [int(pid) for pid in file.read().split()]

    def alive(self):
        """Its children but for those that have ended, and that it has not looked at since."""
        return [pid for pid in self.children() if not gone(pid)]


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def launch(tmp_path):
    """launch(command, environment) -> Started; ended after the test, whatever happens."""
    started = []

    def launch(command, environment):
        folder = tmp_path / f"worker-{len(started)}"
        (folder / "tmp").mkdir(parents=True)
        environment = {**environment, "TMPDIR": str(folder / "tmp")}
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        started.append(Started(process, folder))
        return started[-1]

    yield launch
    for worker in started:
        with contextlib.suppress(ProcessLookupError):
            children = worker.children() if worker.process.poll() is None else []
            for pid in [worker.process.pid, *children]:
                if worker.process.poll() is None or pid in children:
                    os.kill(pid, signal.SIGKILL)
        worker.process.wait()


def pickled(function, *args):
    """A call as the client sends it: functions of test modules by value, for no one has those."""
    module = sys.modules.get(getattr(function, "__module__", None))
    if module is not None and module.__name__.partition(".")[0] == "tests":
        cloudpickle.register_pickle_by_value(module)
    return cloudpickle.dumps((function, args, {}))


@pytest.fixture
def calls():
    """calls(f, (g, 1, 2), b"raw") -> calls numbered from 1; raw bytes are a payload."""

    def calls(*specs, first=1):
        made = []
        for task, spec in enumerate(specs, first):
            if not isinstance(spec, bytes):
                spec = pickled(*(spec if isinstance(spec, tuple) else (spec,)))
            made.append(_wire.Call(task, _wire.Blob.of(spec)))
        return tuple(made)

    return calls


class InboxFile:
    """The client's end of an inbox."""

    def __init__(self, stub):
        self.stub = stub
        self.id = stub.put_value(None)
        self.write()

    def write(self, calls=(), stop=False, worker="w", revoked=(), ended=(), **fields):
        letters = {worker: _wire.Letter(tuple(calls), stop, tuple(revoked), tuple(ended))}
        self.put(json.loads(_wire.to_json(_wire.Inbox(letters, **fields))))

    def put(self, value):
        self.stub.values[self.id] = value

    def looks(self):
        return self.stub.count("GET", f"/json_values/{self.id}")


@pytest.fixture
def put_inbox(stub):
    """put_inbox() -> an inbox without news for worker "w"."""
    return lambda: InboxFile(stub)


@pytest.fixture
def environment(stub):
    """The environment of a worker, coverage's variables included."""
    wanted = {k: v for k, v in os.environ.items() if k.startswith("COV") or k == "PATH"}
    ids = {"CIVIS_API_KEY": KEY, "CIVIS_JOB_ID": "11", "CIVIS_RUN_ID": "22"}
    return {**wanted, **ids, "CIVIS_API_ENDPOINT": stub.url, "LANG": "C.UTF-8"}


@pytest.fixture
def order(stub):
    """order(calls, ...) -> Order; other fields of it as keywords."""

    def order(calls=(), stop=False, **fields):
        python = "{}.{}".format(*sys.version_info)
        fields = {"worker": "w", "url": stub.url, "python": python, **fields}
        return _wire.Order(letter=_wire.Letter(tuple(calls), stop), **fields)

    return order


@pytest.fixture
def start(stub, launch, environment, order):
    """start(calls, ...) -> a started worker with an order of these.

    `pacing` is how long it waits for what; `prelude` is code that runs before it begins.
    """

    def start(calls=(), pacing=None, prelude="", **fields):
        text = _wire.to_json(order(calls, **fields))
        command = [*COMMAND]
        if pacing or prelude:
            begin = "from civis_futures.worker._entry import run\n"
            begin += "from civis_futures.worker._pacing import WorkerPacing\n"
            begin += f"{prelude}\nsys.exit(run(pacing=WorkerPacing(**{pacing or {}!r})))"
            command[-1] = command[-1].replace(
                "from civis_futures.worker import main; main()", begin
            )
        if len(text) > 100_000:  # more than an environment variable can hold
            text = f"file:{stub.put_file(text.encode())}"
        return launch(command, {**environment, _wire.ORDER_VARIABLE: text})

    return start


@pytest.fixture
def run(stub, start):
    """run(f, (g, 1), ...) -> the answers of a worker to these calls, in order, after its end."""

    def run(calls, code=0, **fields):
        worker = start(calls, **fields).end(code)
        answers = stub.answers()
        assert set(answers) == {call.task for call in calls}, worker.log()
        return [answers[call.task] for call in calls]

    return run
