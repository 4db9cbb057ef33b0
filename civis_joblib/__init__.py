"""joblib and scikit-learn on Civis Platform: a joblib backend over `ContainerPoolExecutor`.

>>> import civis_joblib
>>> from joblib import Parallel, delayed, parallel_config
>>> civis_joblib.register(platform="local")
>>> with parallel_config("civis", n_jobs=2):
...     print(Parallel()(delayed(pow)(2, n) for n in range(5)))
[1, 2, 4, 8, 16]

The three factories are those of `civis.parallel`, with the same parameters. The rooms in here use
public names of `civis_futures` only: what they lack there is a gap in that API.
"""

# As `civis.parallel` calls it when the platform does not take its jobs.
from civis_futures import BrokenContainerPool as JobSubmissionError

from ._factories import (
    infer_backend_factory,
    make_backend_factory,
    make_backend_template_factory,
    register,
    using,
)
from ._pools import shutdown
from ._store import register_store

__all__ = [
    "JobSubmissionError",
    "infer_backend_factory",
    "make_backend_factory",
    "make_backend_template_factory",
    "register",
    "register_store",
    "shutdown",
    "using",
]

for _name in __all__:
    if _name != "JobSubmissionError":
        globals()[_name].__module__ = __name__
