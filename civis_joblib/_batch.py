"""What a batch takes along to its container. It runs there, where nothing of ours is installed.

Functions within functions are pickled by value, so these need joblib only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import joblib


class CheckJoblib:
    """Unpickled before the batch is: an ImportError there, unless joblib is fit for it."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        """The check, as a call."""

        def check_joblib(ours: str) -> None:
            import re

            import joblib

            theirs = joblib.__version__
            if [int(part) for part in re.findall(r"\d+", theirs)[:2]] < [1, 5]:
                raise ImportError(
                    f"the image has joblib {theirs}; this is joblib {ours}, and 1.5 is the least: "
                    "choose another image, or install it with setup_cmd='pip install joblib>=1.5'"
                )

        return check_joblib, (joblib.__version__,)


def runner(batch: Any) -> Callable[[object, Any, int], Any]:
    """What runs this batch; it is called as the function in there, for messages."""

    def run_batch(_: object, batch: Any, before: int) -> Any:
        position, size = 0, len(batch)

        def watched(items: Any) -> Any:
            nonlocal position
            for position, item in enumerate(items):  # noqa: B007
                yield item

        batch.items = watched(batch.items)
        try:
            return batch()
        except BaseException as error:
            error.add_note(  # `before`: so many items were in the batches before this one
                f"The item that failed is number {before + position} of the call, number "
                f"{position} of a batch of {size}; the first is number 0."
            )
            raise

    function = batch.items[0][0]
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    more = len(batch) - 1
    run_batch.__qualname__ = f"{name} and {more} more" if more else name
    return run_batch
