"""Which run meets which fault, and when. What happens to the run then is done by the runner.

It is used on the event loop's thread alone, and keeps the runs whose fault has not happened yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from .._faults.fault import Fault, Kind
from .._faults.rules import Rule
from .._places.place import Line
from .._state import Platform


class RunFaults:
    """The runs that are to meet a fault; `apply` lets it happen, and returns whether it could."""

    def __init__(self, platform: Platform, apply: Callable[[Fault, int], bool]) -> None:
        self._platform = platform
        self._apply = apply
        self._loop = asyncio.get_running_loop()
        self._chosen: dict[int, Rule] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def run_queued(self, run_id: int) -> None:
        """Choose the fault of a new run, if it is to meet one."""
        rule = self._platform.rules.of_run(self._script(run_id))
        if rule is not None:
            self._chosen[run_id] = rule

    def rules_added(
        self, rules: Iterable[Rule], waiting: Iterable[int], active: Iterable[int]
    ) -> None:
        """Choose among these new rules for runs that were there before."""
        runs = sorted([*((run, False) for run in waiting), *((run, True) for run in active)])
        for rule in rules:
            for run_id, started in runs:
                if run_id not in self._chosen and self._platform.rules.of_older_run(
                    rule, self._script(run_id), started=started
                ):
                    self._chosen[run_id] = rule
                    if started:
                        self.run_started(run_id)

    def instead_of_start(self, run_id: int) -> Kind | None:
        """Return the kind of the fault that keeps a run from starting, which is then counted."""
        rule = self._chosen.get(run_id)
        if rule is None or rule.removed or rule.fault.kind not in ("no_image", "stay_queued"):
            return None
        rule.hits += 1
        return rule.fault.kind

    def run_started(self, run_id: int) -> None:
        """Start the timer of the fault of a run that has a process now."""
        rule = self._chosen.get(run_id)
        if rule is not None:
            self._start_timer(run_id, rule)

    def run_printed(self, run_id: int, lines: list[Line]) -> None:
        """Choose the fault of a run by the lines that it has just printed."""
        if run_id in self._chosen or not self._platform.rules.reads_output:
            return
        texts = [text for _, _, text in lines]
        rule = self._platform.rules.of_output(self._script(run_id), texts)
        if rule is not None:
            self._chosen[run_id] = rule
            self._start_timer(run_id, rule)

    def run_ended(self, run_id: int) -> None:
        """Forget a run that has ended."""
        self._chosen.pop(run_id, None)
        timer = self._timers.pop(run_id, None)
        if timer is not None:
            timer.cancel()

    def _start_timer(self, run_id: int, rule: Rule) -> None:
        self._timers[run_id] = self._loop.call_later(rule.fault.seconds, self._due, run_id, rule)

    def _due(self, run_id: int, rule: Rule) -> None:
        del self._chosen[run_id], self._timers[run_id]
        if not rule.removed and self._apply(rule.fault, run_id):
            rule.hits += 1

    def _script(self, run_id: int) -> str:
        sql = "SELECT scripts.name FROM scripts JOIN runs ON script_id = scripts.id"
        row = self._platform.store.one(f"{sql} WHERE runs.id = ?", run_id)
        assert row is not None
        return str(row["name"])
