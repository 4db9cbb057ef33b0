"""Which request and which run meets which fault. Pure: time is an argument, chance has a seed.

Every rule counts what matches it, by itself, so that what it does depends on its own sequence and
on nothing else.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from .._schema.exchange import Origin
from .fault import BEFORE_THE_START, LINK, LISTS_ONLY, Fault, fits


@dataclasses.dataclass(eq=False)
class Rule:
    """A fault that was added, and how often it matched and happened."""

    fault: Fault
    number: int  # its place among all faults that were ever added; chance depends on it
    removed: bool = False
    seen: int = 0  # how many requests, runs or lines matched
    chosen: int = 0  # how many of these are to meet the fault
    hits: int = 0  # how many did; a run may end before its fault is due

    def choose(self, seed: int) -> bool:
        """Count one that matches, and tell whether it is to meet the fault."""
        fault = self.fault
        self.seen += 1
        if fault.times is not None and self.chosen >= fault.times:
            return False
        turn = self.seen - fault.skip
        if turn < 1 or turn % fault.every:
            return False
        # A string as the seed, since the hash of a tuple is another one in each process.
        if random.Random(f"{seed} {self.number} {self.seen}").random() >= fault.chance:
            return False
        self.chosen += 1
        return True


class Rules:
    """All faults of a platform."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rules: list[Rule] = []
        self._added = 0
        # The fault that has the platform down, and when that ends (time.monotonic()).
        self._outage: tuple[Rule, float] | None = None

    def add(self, faults: Iterable[Fault]) -> list[Rule]:
        """Put these behind those that are there."""
        new = []
        for fault in faults:
            new.append(Rule(fault, self._added))
            self._added += 1
        self._rules += new
        return new

    def remove(self, faults: Iterable[Fault] | None) -> None:
        """Take away those that are equal to one of these, or all; their counts stay."""
        gone = None if faults is None else list(faults)
        for rule in self._rules:
            if gone is None or rule.fault in gone:
                rule.removed = True

    def reset(self) -> None:
        """Begin to count anew, chance included, with the faults that are still there."""
        self._rules = [rule for rule in self._rules if not rule.removed]
        self._added = 0
        for rule in self._rules:
            rule.number, rule.seen, rule.chosen, rule.hits = self._added, 0, 0, 0
            self._added += 1

    @property
    def reads_output(self) -> bool:
        """Whether a fault depends on what runs print."""
        return any(rule.fault.says is not None and not rule.removed for rule in self._rules)

    @property
    def of_requests(self) -> bool:
        """Whether there are faults of requests."""
        return any(not (rule.fault.of_runs or rule.removed) for rule in self._rules)

    @property
    def ahead(self) -> float:
        """By how many seconds the platform's clock is ahead of the machine's."""
        return sum(rule.fault.seconds for rule in self._clocks())

    def _clocks(self) -> list[Rule]:
        return [r for r in self._rules if r.fault.kind == "clock" and not r.removed]

    def to_json(self) -> list[dict[str, Any]]:
        """Return each fault with its counts."""
        return [
            {"fault": r.fault.to_json(), "removed": r.removed, "seen": r.seen, "hits": r.hits}
            for r in self._rules
        ]

    def of_request(
        self, method: str, path: str, origin: Origin | None, page: int | None, now: float
    ) -> Fault | None:
        """Return the fault that a request meets; `page` is None if it asks for no list."""
        for clock in self._clocks():
            clock.seen += 1
            clock.hits += 1
        if self._outage is not None:
            cause, until = self._outage
            if now < until and not cause.removed:
                return cause.fault
            self._outage = None

        def matches(fault: Fault) -> bool:
            if fault.of_runs or fault.kind == "clock" or not fits(fault.on, method, path):
                return False
            if fault.kind == "late" and (path == LINK or method in ("GET", "HEAD")):
                return False
            if fault.kind in LISTS_ONLY and (page is None or (fault.kind == "shift" and page < 2)):
                return False
            return fault.origin in (None, origin)

        rule = self._first(matches)
        if rule is None:
            return None
        rule.hits += 1
        if rule.fault.kind == "down":
            self._outage = rule, now + rule.fault.seconds
        return rule.fault

    def of_run(self, script: str) -> Rule | None:
        """Return the rule of the fault that a new run meets; the hit is counted when it happens."""
        return self._first(lambda fault: fault.says is None and _suits(fault, script))

    def of_output(self, script: str, texts: Iterable[str]) -> Rule | None:
        """Return the rule of the fault that a run meets for what it has just printed."""
        found = (self._first(partial(_says, text, script)) for text in texts)
        return next(filter(None, found), None)

    def of_older_run(self, rule: Rule, script: str, *, started: bool) -> bool:
        """Tell whether a run that was there before a rule is to meet its fault."""
        fault = rule.fault
        too_late = started and fault.kind in BEFORE_THE_START
        wanted = fault.says is None and not too_late and _suits(fault, script)
        return wanted and rule.choose(self._seed)

    def _first(self, matches: Callable[[Fault], bool]) -> Rule | None:
        for rule in self._rules:
            if not rule.removed and matches(rule.fault) and rule.choose(self._seed):
                return rule
        return None


def _suits(fault: Fault, script: str) -> bool:
    return fault.of_runs and fnmatch.fnmatchcase(script, fault.script)


def _says(text: str, script: str, fault: Fault) -> bool:
    return fault.says is not None and fault.says in text and _suits(fault, script)
