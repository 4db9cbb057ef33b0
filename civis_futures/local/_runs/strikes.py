"""Which run meets which fault, and when it is struck. What happens to it then, the runner does.

It lives on the event loop's thread and keeps books of runs that have not been struck yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from .._faults.rules import Rule
from .._faults.words import Fault, Kind
from .._site import Site
from .process import Line


class Strikes:
    """The runs that are to meet a fault. `strike` does it, and tells whether it could."""

    def __init__(self, site: Site, strike: Callable[[Fault, int], bool]) -> None:
        self._site = site
        self._strike = strike
        self._loop = asyncio.get_running_loop()
        self._met: dict[int, Rule] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def queued(self, run_id: int) -> None:
        """Choose for a new run."""
        rule = self._site.rules.of_run(self._script(run_id))
        if rule is not None:
            self._met[run_id] = rule

    def added(self, rules: Iterable[Rule], waiting: Iterable[int], active: Iterable[int]) -> None:
        """Choose anew for runs that were there before these rules."""
        runs = sorted([*((run, False) for run in waiting), *((run, True) for run in active)])
        for rule in rules:
            for run_id, started in runs:
                if run_id not in self._met and self._site.rules.of_older_run(
                    rule, self._script(run_id), started=started
                ):
                    self._met[run_id] = rule
                    if started:
                        self.started(run_id)

    def before_start(self, run_id: int) -> Kind | None:
        """Return what befalls a run that is about to start, if that keeps it from starting."""
        rule = self._met.get(run_id)
        if rule is None or rule.removed or rule.fault.kind not in ("no_image", "stay_queued"):
            return None
        rule.hits += 1
        return rule.fault.kind

    def started(self, run_id: int) -> None:
        """Begin to count the seconds of a run that has a process now."""
        rule = self._met.get(run_id)
        if rule is not None:
            self._arm(run_id, rule)

    def said(self, run_id: int, lines: list[Line]) -> None:
        """Choose for a run that has just printed what a fault may be waiting for."""
        if run_id in self._met or not self._site.rules.listening:
            return
        texts = [text for _, _, text in lines]
        rule = self._site.rules.of_words(self._script(run_id), texts)
        if rule is not None:
            self._met[run_id] = rule
            self._arm(run_id, rule)

    def ended(self, run_id: int) -> None:
        """Forget a run that is over."""
        self._met.pop(run_id, None)
        timer = self._timers.pop(run_id, None)
        if timer is not None:
            timer.cancel()

    def _arm(self, run_id: int, rule: Rule) -> None:
        self._timers[run_id] = self._loop.call_later(rule.fault.seconds, self._due, run_id, rule)

    def _due(self, run_id: int, rule: Rule) -> None:
        del self._met[run_id], self._timers[run_id]
        if not rule.removed and self._strike(rule.fault, run_id):
            rule.hits += 1

    def _script(self, run_id: int) -> str:
        sql = "SELECT scripts.name FROM scripts JOIN runs ON script_id = scripts.id"
        row = self._site.store.one(f"{sql} WHERE runs.id = ?", run_id)
        assert row is not None
        return str(row["name"])
