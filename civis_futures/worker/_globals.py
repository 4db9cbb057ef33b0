"""What an initializer assigns to global variables, for the functions that are called after it.

A function that travels by value (of ``__main__``, or a notebook) brings copies of the globals that
it uses, and each call has copies of its own. So ``global model; model = ...`` in an initializer
would be seen by nobody, while in the standard library's pools it is what initializers are for.
Here the variables that the initializer has assigned are put into the globals of every function of
the same module, over the copies that the function brought.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What a payload contains if anything in it travels by value.
_BY_VALUE = b"cloudpickle.cloudpickle"


class Globals:
    """Watches functions being unpickled. Create it before the initializer is loaded."""

    def __init__(self, initializer: bytes) -> None:
        self._before: list[tuple[dict[str, Any], dict[str, Any]]] | None = []
        self._kept: dict[str, dict[str, Any]] = {}  # module -> variable -> value
        if _BY_VALUE in initializer:
            self._watch()

    def keep(self) -> None:
        """The initializer has run: keep what it has assigned."""
        for variables, before in self._before or ():
            assigned = {
                name: value
                for name, value in variables.items()
                if name not in before or before[name] is not value
            }
            self._kept.setdefault(variables.get("__name__", ""), {}).update(assigned)
        self._before = None

    def _watch(self) -> None:
        from cloudpickle import cloudpickle  # it comes in our bundle: we know what is in it

        restore = cloudpickle._function_setstate

        def restore_and_meet(function: Any, state: Any) -> Any:
            answer = restore(function, state)
            self._meet(function.__globals__)
            return answer

        cloudpickle._function_setstate = restore_and_meet

    def _meet(self, variables: dict[str, Any]) -> None:
        if self._before is None:
            variables.update(self._kept.get(variables.get("__name__", ""), {}))
        elif not any(known is variables for known, _ in self._before):
            self._before.append((variables, dict(variables)))
        else:  # another function of the same module brought more of its variables
            for known, before in self._before:
                if known is variables:
                    before.update(variables)
