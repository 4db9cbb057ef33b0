"""What executors and futures are made of, and what is refused: no container runs in here."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import pickle

import cloudpickle
import pytest

from civis_futures import ContainerFuture, ContainerPoolExecutor, CredentialsError
from civis_futures.testing import LocalPlatform


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"max_workers": "3"}, TypeError),
        ({"max_workers": True}, TypeError),
        ({"max_workers": 2.5}, TypeError),
        ({"max_tasks_per_worker": 0}, ValueError),
        ({"max_tasks_per_worker": -1}, ValueError),
        ({"max_tasks_per_worker": "3"}, TypeError),
        ({"max_tasks_per_worker": True}, TypeError),
        ({"max_tasks_per_worker": 2.5}, TypeError),
        ({"max_retries": -1}, ValueError),
        ({"max_retries": None}, TypeError),
        ({"max_retries": "3"}, TypeError),
        ({"idle_timeout": -1}, ValueError),
        ({"idle_timeout": float("nan")}, ValueError),
        ({"idle_timeout": float("inf")}, ValueError),
        ({"idle_timeout": "3"}, TypeError),
        ({"idle_timeout": None}, TypeError),
        ({"initializer": 5}, TypeError),
        ({"initializer": print, "initargs": 5}, TypeError),
        ({"initializer": print, "initargs": [iter(x for x in "ab")]}, pickle.PicklingError),
        ({"container": "python:3.11"}, TypeError),
        ({"container": {"docker_image_name": "python"}}, TypeError),
        ({"platform": "somewhere"}, (TypeError, ValueError)),
        ({"platform": 5}, TypeError),
        ({"platform": object()}, TypeError),
        ({"name": 5}, TypeError),
        ({"max_workers": 1, "max_tasks_per_child": 1}, TypeError),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments_are_refused(platform, arguments, error):
    given = {"platform": platform, **arguments}
    with pytest.raises(error) as caught:
        ContainerPoolExecutor(**given)
    name = list(arguments)[-1]
    assert name.removesuffix("args") in str(caught.value), "the message does not name it"


def test_only_max_workers_goes_by_position(platform):
    with pytest.raises(TypeError):
        ContainerPoolExecutor(1, None)


def test_no_key_and_no_platform_is_refused(monkeypatch):
    monkeypatch.delenv("CIVIS_API_KEY", raising=False)
    with pytest.raises(CredentialsError, match=r"(?s)CIVIS_API_KEY.*local"):
        ContainerPoolExecutor()


def test_they_are_of_the_standard_library():
    assert issubclass(ContainerPoolExecutor, concurrent.futures.Executor)
    assert issubclass(ContainerFuture, concurrent.futures.Future)


@pytest.mark.parametrize("method", ["submit", "map", "shutdown"])
def test_signatures_take_all_that_the_standard_library_takes(method):
    ours = inspect.signature(getattr(ContainerPoolExecutor, method)).parameters
    theirs = inspect.signature(getattr(concurrent.futures.Executor, method)).parameters
    assert list(theirs) == list(ours)[: len(theirs)]
    for name in theirs:
        assert ours[name].kind is theirs[name].kind
        # By default many calls travel together, but each of them is a call of its own.
        assert (ours[name].default, theirs[name].default) == ("auto", 1) or (
            ours[name].default == theirs[name].default
        )


def test_nothing_is_asked_of_the_platform_before_the_first_call(make_executor):
    with LocalPlatform() as platform:  # on which no container of another test runs
        options = {"max_tasks_per_worker": 1, "initializer": print}
        make_executor(3, platform=platform, **options).shutdown()
        assert not platform.stats().requests


@pytest.mark.parametrize("copier", [pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy])
def test_an_executor_is_not_pickled(reused, copier):
    with pytest.raises(TypeError, match="cannot pickle"):
        copier(reused)


@pytest.mark.parametrize("copier", [pickle.dumps, cloudpickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("done", [False, True])
def test_a_future_is_not_pickled(reused, copier, done):
    future = reused.submit(pow, 2, 2)
    if done:
        future.result(30)
    with pytest.raises(TypeError, match="cannot pickle"):
        copier(future)


def test_an_executor_travels_with_no_call(reused):
    with pytest.raises(pickle.PicklingError):
        reused.submit(print, reused).result(30)


def test_a_future_travels_as_its_result(reused):
    assert reused.submit(pow, reused.submit(pow, 2, 2), 2).result(30) == 16
    assert reused.submit(str, reused.submit(pow, 2, 2)).result(30) == "4"


def test_its_text_says_which_it_is_without_the_key(make_executor, platform):
    executor = make_executor(3, name="the name")
    for text in (repr(executor), str(executor), f"{executor}"):
        assert "ContainerPoolExecutor" in text
        assert "the name" in text
        assert "3" in text
        assert platform.url in text
        assert platform.api_key not in text


def test_a_futures_text_has_no_key(reused, platform):
    future = reused.submit(divmod, 1, 0)
    error = future.exception(30)
    for text in (repr(future), str(future), repr(error), str(error.__cause__), *error.__notes__):
        assert platform.api_key not in text
