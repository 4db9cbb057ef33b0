"""Backends by name: for `joblib.register_parallel_backend`, as `civis.parallel` made them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import joblib

from civis_futures import Container, ContainerPoolExecutor, Template, this_container

from ._backend import CivisBackend
from ._pools import check_executor

Factory = Callable[..., CivisBackend]
#: What parameters of civis.parallel were for, where there is nothing left to set.
_NEEDLESS = {
    "polling_interval": "one request looks at all containers, as often as the rate limit allows",
    "max_submit_retries": "requests are repeated whenever that is safe",
}
#: How civis.parallel sets up a repository: what cannot be installed may be of use all the same.
_REPOSITORY_SETUP = "cd /app; pip install .; cd /"
#: Parameters of factories that are neither a field of a container nor an option of the executor.
_OWN = {"client", "max_job_retries", "remote_backend", *_NEEDLESS}


def register(**options: Any) -> None:
    """Make ``parallel_config("civis")`` and ``Parallel(backend="civis")`` run in containers.

    Args:
        **options: arguments of `ContainerPoolExecutor`. `max_workers` is what ``n_jobs=-1`` means;
            the default is 50, or the number of cores of a local platform. `remote_backend` is the
            backend of a `Parallel` within a task; the default is "sequential". Or `executor`: an
            executor of your own for all calls, which has its own options.

    Raises:
        TypeError, ValueError: there is no such option, its value is not allowed, or it cannot be
            combined with `executor`; or it is `session`, which is for the calls of one
            `parallel_config`.
    """
    CivisBackend(**options)  # names and values are wrong here, not at the first use
    if options.get("session"):
        raise ValueError(
            "a session is for a sequence of calls: give it to the parallel_config around them"
        )
    joblib.register_parallel_backend("civis", partial(CivisBackend, **options))


def using(executor: ContainerPoolExecutor, *, n_jobs: int = -1, **given: Any) -> Any:
    """A `with` block in which joblib's calls run in your own executor, its session included.

    >>> import civis_joblib
    >>> from civis_futures import ContainerPoolExecutor
    >>> from joblib import Parallel, delayed
    >>> with ContainerPoolExecutor(2, platform="local") as pool, civis_joblib.using(pool):
    ...     print(Parallel()(delayed(abs)(n) for n in (-1, -2)))
    [1, 2]

    Args:
        executor: your executor. It stays open after the block.
        n_jobs: how many of its containers a call may use at once; by default, all of them.
        **given: other arguments of joblib's `parallel_config`; and `remote_backend`, as in
            `register`.
    """
    remote = {name: given.pop(name) for name in ("remote_backend",) if name in given}
    check_executor(executor, {}, remote.get("remote_backend"), None)  # None would be no executor
    return joblib.parallel_config(CivisBackend(executor=executor, **remote), n_jobs=n_jobs, **given)


def make_backend_factory(
    docker_image_name: str = "civisanalytics/datascience-python", client: Any = None,
    polling_interval: float | None = None, setup_cmd: str | None = None,
    max_submit_retries: int = 0, max_job_retries: int = 0, hidden: bool = True,
    remote_backend: Any = "sequential", **options: Any,
) -> Factory:  # fmt: skip
    """A factory of backends whose workers are container scripts.

    Args:
        docker_image_name, setup_cmd, hidden: as in `Container`.
        client: a `civis.APIClient`, whose key is used. Or give a `platform`, or neither.
        polling_interval, max_submit_retries: not needed any more, and ignored.
        max_job_retries: how often a batch that has failed is run again, whatever the reason. (The
            executor's option `max_retries` is for lost containers only.)
        remote_backend: the backend of a `Parallel` within a task.
        **options: other fields of `Container`, or arguments of `ContainerPoolExecutor`.
    """
    return _factory(Container, **locals())


def infer_backend_factory(
    required_resources: Mapping[str, float] | None = None,
    params: Iterable[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None, client: Any = None,
    polling_interval: float | None = None, setup_cmd: str | None = None,
    max_submit_retries: int = 0, max_job_retries: int = 0, hidden: bool = True,
    remote_backend: Any = "sequential", **options: Any,
) -> Factory:  # fmt: skip
    """A factory of backends whose containers are like the one in which this code runs.

    Args:
        required_resources, params, arguments: are added to those of this container, and replace
            those of the same name.
        **options: as in `make_backend_factory`. They, and all other arguments, replace what is
            read from this container's script.

    Raises:
        RuntimeError: this process is not in a container of Civis Platform, or its script cannot
            be read.
    """
    return _factory(this_container, **locals())


def make_backend_template_factory(
    from_template_id: int, arguments: Mapping[str, Any] | None = None, client: Any = None,
    polling_interval: float | None = None, max_submit_retries: int = 0,
    max_job_retries: int = 0, hidden: bool = True, **options: Any,
) -> Factory:  # fmt: skip
    """A factory of backends whose workers are custom scripts of a template.

    Args:
        from_template_id: a template that was made for civis.parallel; or one that has the
            parameter ``JOBLIB_FUNC_FILE_ID``, and whose command is (or ends in)
            ``civis-futures-worker --file ${JOBLIB_FUNC_FILE_ID}``.
        arguments: values for its other parameters.
        **options: other fields of `Template`. All other arguments are those of
            `make_backend_factory`.
    """
    options.update(order_param="JOBLIB_FUNC_FILE_ID", order_in_file=True)
    return _factory(Template, **locals())


def _factory(make: Callable[..., Any], options: dict[str, Any], **parameters: Any) -> Factory:
    """The factory of backends for the container that `make` makes of its part of the options.

    The parameters are options as well: those that a public factory has by name.
    """
    options = {**parameters, **options}
    names = {field.name for field in fields(Template if make is Template else Container)}
    ContainerPoolExecutor.check_options(options, also=names | _OWN)
    for name, reason in _NEEDLESS.items():
        if options.pop(name):
            warnings.warn(f"{name} is not needed any more: {reason}", UserWarning, stacklevel=3)
    retries, client = options.pop("max_job_retries"), options.pop("client")
    options = {"max_retries": retries, "retry_on": Exception if retries else None, **options}
    options["platform"] = options.get("platform") or client
    given = {n: value for n in names & options.keys() if (value := options.pop(n)) is not None}
    if make is this_container:
        given["platform"] = options["platform"]
    container = make(**given)
    if isinstance(container, Container) and container.repo_http_uri and container.setup_cmd is None:
        container = replace(container, setup_cmd=_REPOSITORY_SETUP)
    backend = partial(CivisBackend, container=container, **options)
    backend()  # what is wrong is wrong here, not at the first use
    return backend
