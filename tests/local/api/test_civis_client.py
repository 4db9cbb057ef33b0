"""The real `civis` package, unchanged, against the local platform."""

from __future__ import annotations

import io
import os
import warnings

import pytest

SMALL = {"cpu": 64, "memory": 1000}


@pytest.fixture(scope="module", autouse=True)
def imports():
    """Not when tests are collected: it takes seconds, in each process of pytest-xdist."""
    global civis, CivisAPIError, CivisAPIKeyError, CivisFuture
    with warnings.catch_warnings():
        # civis.parallel is deprecated, which is what this project is about.
        warnings.simplefilter("ignore", FutureWarning)
        import civis
        import civis.io
        import civis.parallel
        from civis.base import CivisAPIError, CivisAPIKeyError
        from civis.futures import CivisFuture


@pytest.fixture
def client(platform, monkeypatch):
    monkeypatch.setenv("CIVIS_API_ENDPOINT", platform.url)
    monkeypatch.setenv("CIVIS_API_KEY", platform.api_key)
    return civis.APIClient()


def start(client, command, **fields):
    script = client.scripts.post_containers(
        required_resources=SMALL, docker_command=command, docker_image_name="python", **fields
    )
    run = client.scripts.post_containers_runs(script.id)
    arguments = (script.id, run.id)
    get = client.scripts.get_containers_runs
    return CivisFuture(get, arguments, polling_interval=0.1, client=client)


@pytest.mark.parametrize("size", [0, 1000, 60_000_000], ids=["0 B", "1 kB", "60 MB"])
def test_files_up_and_down(client, platform, tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    before = platform.stats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that a file is empty
        key = civis.io.file_to_civis(str(path), name="data.bin", client=client)
    found = io.BytesIO()
    civis.io.civis_to_file(key, found, client=client)
    assert found.getvalue() == data
    after = platform.stats()
    multipart = after.count("POST", "/files/multipart") - before.count("POST", "/files/multipart")
    assert multipart == (size > 50 * 2**20)
    assert after.upload_bytes - before.upload_bytes == size
    assert after.download_bytes - before.download_bytes == size


def test_a_run_with_logs_and_outputs(client, platform, tools):
    value = client.json_values.post('{"a": 1}', name="v")
    params = [{"name": "a", "type": "string"}]
    future = start(client, "echo $A; mkfifo x; read y < x", params=params, arguments={"a": "hello"})
    run = (future.job_id, future.run_id)
    client.scripts.post_containers_runs_outputs(*run, "JSONValue", value.id)
    client.scripts.post_containers_runs_logs(*run, message="posted", level="warn")
    tools.until(lambda: platform.stats().active)
    home = f"/proc/{platform.stats().active[future.run_id][0]}/cwd/x"
    tools.until(lambda: os.path.exists(home))
    with open(home, "w") as end:
        end.write("now\n")
    assert future.result(timeout=60).state == "succeeded"
    outputs = client.scripts.list_containers_runs_outputs(future.job_id, future.run_id)
    assert [output.json()["value"] for output in outputs] == [{"a": 1}]
    logs = civis.utils.job_logs(future.job_id, future.run_id, client=client)
    assert sorted(line["message"] for line in logs) == ["hello", "posted"]


def test_a_failure_and_a_cancel(client, monkeypatch):
    monkeypatch.setattr("civis.futures.time.sleep", lambda _: None)  # 15 s before it reads logs
    failed = start(client, "echo why; exit 5")
    error = failed.exception(timeout=30)
    assert "Process ended with an error, exiting: 5." in str(error)
    running = start(client, "sleep 60")
    assert client.scripts.post_cancel(running.job_id).is_cancel_requested
    get = client.scripts.get_containers_runs
    for _ in range(1000):
        if get(running.job_id, running.run_id).state == "cancelled":
            break
    assert get(running.job_id, running.run_id).state == "cancelled"


def test_out_of_memory_is_a_memory_error(client, monkeypatch):
    monkeypatch.setattr("civis.futures.time.sleep", lambda _: None)
    code = "x = []\nwhile True: x.append(bytearray(5_000_000))"
    script = client.scripts.post_containers(
        required_resources={"cpu": 64, "memory": 60}, docker_command=f"python -c '{code}'"
    )
    run = client.scripts.post_containers_runs(script.id)
    get = client.scripts.get_containers_runs
    future = CivisFuture(get, (script.id, run.id), polling_interval=0.1, client=client)
    assert isinstance(future.exception(timeout=30), MemoryError)


def test_iterating_over_pages(client):
    for _ in range(53):
        client.scripts.post_containers(required_resources=SMALL, hidden=True)
    rows = list(client.scripts.list(hidden=True, iterator=True, limit=50))
    assert len({row.id for row in rows}) == len(rows) >= 53


def test_a_wrong_key_and_a_wrong_body(client, monkeypatch):
    with pytest.raises(CivisAPIError, match=r"requiredResources\.cpu must be greater"):
        client.scripts.post_containers(required_resources={"cpu": 0, "memory": 4})
    monkeypatch.setitem(client.users._session_kwargs, "api_key", "wrong")
    with pytest.raises(CivisAPIKeyError):
        client.users.get_me()


def test_joblib_through_civis_parallel(client, platform):
    from joblib import Parallel, delayed, parallel_config, register_parallel_backend

    platform.reset()
    factory = civis.parallel.make_backend_factory(
        client=client, polling_interval=0.25, required_resources=SMALL
    )
    register_parallel_backend("civis", factory)
    # Each worker makes classes of the whole official spec, which is seconds of CPU: two are
    # enough for four tasks.
    with parallel_config("civis", n_jobs=2):
        found = Parallel(batch_size=2)(delayed(pow)(number, 2) for number in range(4))
    assert found == [number**2 for number in range(4)]
    stats = platform.stats()
    assert stats.runs_started == 2
    assert stats.count("GET", "/endpoints", "worker") == 2
    assert stats.count("POST", "/scripts/containers/{id}/runs/{run_id}/outputs", "worker") == 2
