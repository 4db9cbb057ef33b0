"""joblib's own tests of `Memory`, with our store in the place of its own: the yardstick."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import joblib.test
import pytest

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

CONFTEST = """
import joblib.memory
import pytest

from civis_futures.local import LocalPlatform
import civis_joblib
from civis_joblib._store import PlatformStore


@pytest.fixture(scope="session", autouse=True)
def platform():
    with LocalPlatform() as platform, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIVIS_API_ENDPOINT", platform.url)
        patch.setenv("CIVIS_API_KEY", platform.api_key)
        civis_joblib.register_store()
        patch.setitem(joblib.memory._STORE_BACKENDS, "local", PlatformStore)
        patch.setattr("test_with_ours.corrupt_single_cache_item", corrupt)
        yield


def corrupt(memory):
    store = memory.store_backend
    [item] = store.get_items()
    path = f"{item.path}/output.pkl"
    store._open_item(path, "wb").write(b"garbage")
    store._move_item(path, path)
"""
#: Tests of what a folder has: they look into it, or write there.
OF_FOLDERS = [
    "test_parallel_call_cached_function_defined_in_jupyter",
    "test_func_dir",
    "test_persistence",
    "test_call_and_shelve_lazily_load_stored_result",
    "test__get_items",
    "test_memory_clear",
    "test_cached_function_race_condition_when_persisting_output",
    "test_memory_pickle_dump_load",
    "test_memory_only_cache_long_run",
    "TestAutoGitignore",
]


def test_tests_of_joblib(tmp_path):
    source = Path(joblib.test.__file__).with_name("test_memory.py")
    if not source.exists():
        pytest.skip("this joblib comes without its tests")
    shutil.copy(source, tmp_path / "test_with_ours.py")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    others = " and ".join(f"not {name}" for name in OF_FOLDERS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-k", others],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
