"""`concurrent.futures` on Civis Platform: a pool of containers, used as the standard pools are.

>>> from civis_futures import ContainerPoolExecutor
>>> with ContainerPoolExecutor(platform="local") as executor:
...     print(list(executor.map(pow, [2, 3], [5, 2])))
[32, 9]
"""

from ._container.container import Container, Template
from ._display.forecast import Forecast, Status
from ._display.report import FunctionReport, PoolReport
from ._exceptions import (
    BrokenContainerPool,
    CallLostError,
    CallPicklingError,
    CallUnpicklingError,
    CivisFuturesError,
    ContainerHoursError,
    CredentialsError,
    DependencyError,
    EnvironmentMismatchError,
    OutcomePicklingError,
    OutcomeUnpicklingError,
    PlatformError,
    RemoteTraceback,
    SerializationError,
    SessionInUseError,
    SessionMismatchError,
    TaskError,
    TaskTimeoutError,
    UnmetDependency,
    WorkerCrashedError,
    WorkerMemoryError,
)
from ._executor.executor import ContainerPoolExecutor, PlatformAddress
from ._executor.here import this_container
from ._executor.map import MapResult
from ._executor.views import ParallelFunction, WithOptions, depend, dependent, require
from ._files.contents import SharedData
from ._files.named import NamedFile, NamedFiles
from ._futures.future import ContainerFuture, Timings
from ._futures.progress import ProgressBar, progress
from ._futures.tables import Table, table
from ._futures.waiting import Dependency, as_completed, as_completed_async
from ._public import publish as _publish
from ._public import version as _version
from ._sessions.registry import SessionInfo, purge, results, sessions
from ._types import Attempt, LogLine, TaskState
from ._warm import WarmPool

__all__ = [
    "Attempt",
    "BrokenContainerPool",
    "CallLostError",
    "CallPicklingError",
    "CallUnpicklingError",
    "CivisFuturesError",
    "Container",
    "ContainerFuture",
    "ContainerHoursError",
    "ContainerPoolExecutor",
    "CredentialsError",
    "Dependency",
    "DependencyError",
    "EnvironmentMismatchError",
    "Forecast",
    "FunctionReport",
    "LogLine",
    "MapResult",
    "NamedFile",
    "NamedFiles",
    "OutcomePicklingError",
    "OutcomeUnpicklingError",
    "ParallelFunction",
    "PlatformAddress",
    "PlatformError",
    "PoolReport",
    "ProgressBar",
    "RemoteTraceback",
    "SerializationError",
    "SessionInUseError",
    "SessionInfo",
    "SessionMismatchError",
    "SharedData",
    "Status",
    "Table",
    "TaskError",
    "TaskState",
    "TaskTimeoutError",
    "Template",
    "Timings",
    "UnmetDependency",
    "WarmPool",
    "WithOptions",
    "WorkerCrashedError",
    "WorkerMemoryError",
    "as_completed",
    "as_completed_async",
    "depend",
    "dependent",
    "progress",
    "purge",
    "require",
    "results",
    "sessions",
    "table",
    "this_container",
]

_publish(__name__, __all__)


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
