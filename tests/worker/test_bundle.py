"""The bundle and the command that runs it: on this Python, on older ones, on the local platform."""

import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile

import pytest

from civis_futures import _wire
from civis_futures._pool.launch import bundle, docker_command

KEY = "the key"


@pytest.fixture
def start_bundle(stub, launch, environment, order):
    """start_bundle(calls, ...) -> a worker, started as the platform would."""

    def start_bundle(calls=(), *, interpreter=None, setup=None, file_id=None, link=None, **fields):
        packed = bundle()
        if file_id is None:
            file_id = stub.put_file(packed.data)
        command = docker_command(stub.url, packed.sha256, file_id, setup)
        if interpreter is not None:
            command = command.replace("python3", interpreter, 1)
        changes = {_wire.ORDER_VARIABLE: _wire.to_json(order(calls, **fields))}
        if link is not None:
            changes[f"{_wire.BUNDLE_VARIABLE}_URL"] = stub.url + link
        # PATH: this Python first, as on the local platform.
        path = os.pathsep.join([os.path.dirname(sys.executable), environment["PATH"]])
        return launch(["sh", "-c", command], {**environment, **changes, "PATH": path})

    return start_bundle


def test_the_same_content_makes_the_same_bundle():
    program = "from civis_futures._pool.launch import bundle; print(bundle().sha256)"
    # What is imported has made texts already that are in the bundle, too.
    before = "import civis_futures.worker._child, civis_futures.worker._script, cloudpickle; "
    runs = [
        subprocess.run(
            [sys.executable, *flags, "-c", first + program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        for seed, flags, first in (("1", (), ""), ("2", ("-O", "-X", "dev"), ""), ("3", (), before))
    ]
    assert {run.stdout.strip() for run in runs} == {bundle().sha256}, runs
    assert bundle() is bundle()


def test_what_is_in_it():
    packed = bundle()
    assert packed.sha256 == _wire.digest(packed.data)
    with zipfile.ZipFile(io.BytesIO(packed.data)) as archive:
        names = archive.namelist()
        ours = [each for each in archive.infolist() if each.filename.startswith("civis_futures")]
        assert sum(each.compress_size for each in ours) < 610_000  # how large cloudpickle is varies
        assert names == sorted(names)
        assert {name.partition("/")[0] for name in names} == {"civis_futures_worker", "cloudpickle"}
        sources = {name for name in names if name.endswith(".py")}
        assert {f"{name}c" for name in sources} == set(names) - sources
        wire = archive.read("civis_futures_worker/_wire.py")
        assert os.getcwd().encode() not in packed.data
    with open(_wire.__file__, "rb") as file:
        assert wire == file.read()


def modules_from(data, folder, python=sys.executable):
    """The files from which a Python imports the worker's modules out of the bundle."""
    path = folder / "bundle.zip"
    path.write_bytes(data)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import civis_futures_worker.worker._loop, civis_futures_worker._wire;"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('civis_')])"
    )
    run = subprocess.run([python, "-c", program, path], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_compiled_modules_are_used_and_passed_over_by_another_python(tmp_path):
    data = bundle().data
    files = modules_from(data, tmp_path)
    assert len(files) > 8
    assert all(file.endswith(".pyc") for file in files)
    magic = importlib.util.MAGIC_NUMBER
    assert data.count(magic) >= len(files)
    # zipimport checks no sums of stored files
    files = modules_from(data.replace(magic, b"\1\2" + magic[2:]), tmp_path)
    assert all(file.endswith(".py") for file in files)


def test_a_worker_from_its_command(stub, start_bundle, calls):
    import cloudpickle

    def where():
        import cloudpickle

        return cloudpickle.__file__, cloudpickle.__version__, "civis_futures" in sys.modules

    worker = start_bundle(calls(where, lambda: 7)).end()
    answers = stub.answers()
    file, version, ours = stub.outcome(answers[1])
    assert ".zip" in file
    assert version == cloudpickle.__version__
    assert not ours
    assert stub.outcome(answers[2]) == 7
    assert worker.log() == ""


def test_the_link_of_the_platform_and_what_to_do_without(stub, start_bundle, calls):
    file_id = stub.put_file(bundle().data)
    start_bundle(calls(os.getpid), link=f"/store/{file_id}?signature=a%2Fb", file_id=file_id).end()
    assert stub.count("GET", "/files") == 0
    stub.fault("GET", "/store/666", 403)
    stub.fault("GET", "/store/667", b"<html>an error page</html>")
    stub.fault("GET", "/store/668", "drop")
    for number in (666, 667, 668):
        start_bundle(calls(os.getpid), link=f"/store/{number}", file_id=file_id).end()
    assert stub.count("GET", "/files") == 3


def test_a_platform_that_stumbles_at_the_start(stub, start_bundle, calls):
    stub.fault("GET", "/files", 503)
    worker = start_bundle(calls(os.getpid)).end()
    assert worker.log() == "civis_futures: OSError('HTTP 503'), trying again\n"
    assert len(stub.answers()) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"something else", "SHA-256"), (None, "HTTP 404")],
)
def test_a_bundle_that_cannot_be_had(stub, start_bundle, content, text):
    file_id = 999 if content is None else stub.put_file(content)
    worker = start_bundle(file_id=file_id).end(_wire.NO_PROGRAM)
    [line] = worker.log().splitlines()
    assert line.startswith(f"civis_futures: cannot fetch the worker, File {file_id}: ")
    assert text in line
    assert KEY not in line


def test_setup_command_first_and_in_the_same_shell(stub, start_bundle, calls, tmp_path):
    setup = f"cd {tmp_path}; export MARK='it is'  # a comment"
    start_bundle(calls(lambda: (os.getcwd(), os.environ["MARK"])), setup=setup).end()
    assert stub.outcome(stub.answers()[1]) == (str(tmp_path), "it is")
    worker = start_bundle(setup="echo no >&2\n false").end(78)
    assert worker.log().splitlines() == ["no", "civis_futures: setup_cmd failed with exit code 1"]
    assert "exit code 3" in start_bundle(setup="exit 3").end(78).log()
    assert stub.count("GET", "/files") == 1


def test_the_command_is_for_people_too():
    command = docker_command("https://api.example.com/v'1", "ab" * 32, 17, " ")
    assert command.startswith("exec python3 -c '# A worker of civis_futures")
    assert "API, FILE, SHA256" in command
    assert len(command) < 3_500
    syntax = subprocess.run(["sh", "-n", "-c", command])
    assert syntax.returncode == 0
    lines = command.splitlines()
    assert max(map(len, lines)) < 140


OLD = ["2.7", "3.6", "3.7"]
OTHER = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]


def find(version):
    path = shutil.which(f"python{version}")
    ask = [path or "false", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    found = subprocess.run(ask, capture_output=True, text=True) if path else None
    if found is None or found.stdout.strip() != version:
        pytest.skip(f"no Python {version} here")
    return path


@pytest.mark.parametrize("version", OLD)
def test_a_python_that_is_too_old_says_so(start_bundle, version):
    worker = start_bundle(interpreter=find(version)).end(1)
    [line] = worker.log().splitlines()
    assert f"Python {version} is too old" in line


@pytest.mark.parametrize("version", OTHER)
def test_another_python_answers_that_it_is_another(stub, start_bundle, calls, version):
    interpreter = find(version)
    ours = "{}.{}".format(*sys.version_info)
    worker = start_bundle(calls(os.getpid, b"rubbish"), interpreter=interpreter)
    worker.end()
    assert worker.log() == ""
    answers = stub.answers().values()
    if version == ours:
        assert [answer.kind for answer in answers] == [_wire.RETURNED, _wire.CALL_UNPICKLING]
        return
    for answer in answers:
        assert (answer.kind, answer.detail) == (_wire.PYTHON_MISMATCH, version)
        assert ours in answer.text


def test_another_python_can_do_the_work_too(stub, start_bundle):
    """It is not asked to by our client; but all of the worker's code runs there."""
    payloads = [(len, ("abc",), {}), (int, ("x",), {}), (os.abort, (), {}), (pow, [(2, 3)])]
    blobs = [_wire.Blob.of(pickle.dumps(payload, 4)) for payload in payloads]
    made = [_wire.Call(task, blob) for task, blob in enumerate(blobs)]
    interpreter = find("3.8")
    start_bundle(made, interpreter=interpreter, python="3.8").end()
    kinds = [stub.answers()[task].kind for task in range(4)]
    assert kinds == [_wire.RETURNED, _wire.RAISED, _wire.CRASHED, _wire.RETURNED]


def test_a_start_imports_little(start_bundle, environment, calls, stub):
    """What there is before the first call, beyond what any program has that speaks HTTP.

    The function comes by value, so cloudpickle is in it. `make bench` measures the seconds.
    """
    for name in [name for name in environment if name.startswith("COV")]:
        del environment[name]
    start_bundle(calls(lambda: sorted(sys.modules))).end()
    there = set(stub.outcome(stub.answers()[1]))
    program = "import json, http.client, sys; print(*sys.modules)"
    bare = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    more = there - set(bare.stdout.split())
    assert not more & {"asyncio", "concurrent", "multiprocessing", "subprocess", "tempfile"}
    assert not more & {"civis_futures", "numpy", "pdb", "shutil", "socketserver", "urllib.request"}
    ours = {name for name in more if name.startswith(("civis_futures_worker", "cloudpickle"))}
    assert len(more - ours) <= 60, sorted(more - ours)


@pytest.fixture(scope="module")
def local():
    platform = pytest.importorskip("civis_futures.local")
    with platform.LocalPlatform() as running:
        yield running


def test_on_the_local_platform(local, order):
    import httpx

    packed = bundle()
    python = "{}.{}".format(*sys.version_info)
    payload = pickle.dumps((pow, (2, 10), {}))
    letter = _wire.Letter((_wire.Call(1, _wire.Blob.of(payload)),))
    with httpx.Client(base_url=local.url, auth=(local.api_key, ""), timeout=30) as client:
        file = client.post("/files", json={"name": "bundle"}).json()
        form = {"data": file["uploadFields"], "files": {"file": packed.data}}
        httpx.post(file["uploadUrl"], **form).raise_for_status()
        text = _wire.to_json(_wire.Order("w", local.url, python, letter))
        names = {_wire.ORDER_VARIABLE: "multi_line_string", _wire.BUNDLE_VARIABLE: "file"}
        body = {
            "requiredResources": {"cpu": 100, "memory": 500},
            "dockerImageName": "any",
            "dockerCommand": docker_command(local.url, packed.sha256, file["id"]),
            "params": [{"name": name, "type": kind} for name, kind in names.items()],
            "arguments": dict(zip(names, (text, file["id"]), strict=True)),
        }
        script = client.post("/scripts/containers", json=body).json()
        runs = f"/scripts/containers/{script['id']}/runs"
        run = client.post(runs).json()
        deadline = time.monotonic() + 20
        while run["state"] in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(0.05)
            run = client.get(f"{runs}/{run['id']}").json()
        log = client.get(f"{runs}/{run['id']}/logs").json()
        assert run["state"] == "succeeded", log
        [output] = client.get(f"{runs}/{run['id']}/outputs").json()
    assert output["name"] == _wire.answers_name("w", 0)
    [answer] = _wire.answers_from_json(output["value"]).answers
    assert pickle.loads(answer.data.inline_data()) == 1024
    assert local.api_key not in json.dumps(body)
