"""What an editor, a type checker and Tab learn of `options`."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from civis_futures import ContainerPoolExecutor, WithOptions
from civis_futures._executor.options import CallOptions

OPTIONS = [field.name for field in dataclasses.fields(CallOptions)]


@pytest.mark.parametrize("kind", [ContainerPoolExecutor, WithOptions])
def test_the_signature_has_all_options(kind):
    parameters = inspect.signature(kind.options).parameters.values()
    named = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert sorted(named) == sorted(OPTIONS)
    assert all(each.annotation is not each.empty for each in named.values())


def test_tab_completes_them(make_executor):
    completer = pytest.importorskip("IPython.core.completer")
    executor = make_executor(1)
    for names in ({"pool": executor}, {"pool": executor.options(label="a")}):
        tab = completer.IPCompleter(namespace=names)
        with completer.provisionalcompleter():
            found = {each.text for each in tab.completions("pool.options(", 13)}
        assert {f"{name}=" for name in OPTIONS} <= found


def test_what_is_not_given_stays(make_executor):
    view = make_executor(1, max_retries=3).options(timeout=2).options(label=None)
    assert "max_retries=3, retry_on=None, timeout=2, " in repr(view)
    with pytest.raises(TypeError, match="no option 'retries': did you mean 'max_retries'"):
        view.options(retries=3)
