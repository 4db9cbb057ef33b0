"""What an editor, a type checker and Tab know about `options` and `resubmit`."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from civis_futures import ContainerFuture, ContainerPoolExecutor, WithOptions
from civis_futures._executor.options import CallOptions

OPTIONS = [field.name for field in dataclasses.fields(CallOptions)]


@pytest.mark.parametrize(
    "method",
    [ContainerPoolExecutor.options, WithOptions.options, ContainerFuture.resubmit],
    ids=lambda method: method.__qualname__,
)
def test_the_signature_has_all_options(method):
    parameters = inspect.signature(method).parameters.values()
    named = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert sorted(named) == sorted(OPTIONS)
    assert all(each.annotation is not each.empty for each in named.values())


def test_tab_completes_them(make_executor):
    completer = pytest.importorskip("IPython.core.completer")
    executor = make_executor(1)
    future = executor.submit(abs, -1)
    for it, call in (
        (executor, "it.options("),
        (executor.options(label="a"), "it.options("),
        (future, "it.resubmit("),
    ):
        tab = completer.IPCompleter(namespace={"it": it})
        with completer.provisionalcompleter():
            found = {each.text for each in tab.completions(call, len(call))}
        assert {f"{name}=" for name in OPTIONS} <= found


def test_resubmit_names_the_nearest_option(make_executor):
    future = make_executor(1).submit(abs, -1)
    assert future.result() == 1
    with pytest.raises(TypeError, match="no option 'retries': did you mean 'max_retries'"):
        future.resubmit(retries=3)


def test_what_is_not_given_stays(make_executor):
    view = make_executor(1, max_retries=3).options(timeout=2).options(label=None)
    assert "max_retries=3, retry_on=None, timeout=2, " in repr(view)
    with pytest.raises(TypeError, match="no option 'retries': did you mean 'max_retries'"):
        view.options(retries=3)
