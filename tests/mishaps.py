"""What may go wrong on a platform at any time, at a low rate each: for random histories."""

from __future__ import annotations

from civis_futures.testing import Fault

#: With these no call is executed twice.
HARMLESS = (
    Fault.answer(500, "GET /*", chance=0.05),
    Fault.answer(503, "/*", chance=0.05),
    Fault.answer(429, "/*", chance=0.05),
    Fault.drop("GET *", chance=0.05),
    Fault.drop("POST *", done=True, chance=0.05),
    Fault.drop("POST *", chance=0.05),
    Fault.drop("PATCH *", done=True, chance=0.05),
    Fault.drop("PUT *", done=True, chance=0.05),
    Fault.garbage("GET /*", chance=0.05),
    Fault.garbage("POST /*", done=True, chance=0.05),
    Fault.delay(0.3, "*", chance=0.05),
    Fault.cut("GET *", chance=0.05),
    Fault.stale(0.5, "GET */scripts", chance=0.2),
    Fault.late_outputs(0.7, chance=0.3),
    Fault.shift(1, "GET *", chance=0.05),
    Fault.down(0.3, "GET *", chance=0.01, times=2),
)
#: What costs attempts.
LOSSY = (
    Fault.kill(0.5, chance=0.1),
    Fault.kill(says="begins", chance=0.05),
    Fault.out_of_memory(0.7, chance=0.05),
    Fault.lose_node(0.5, chance=0.05, times=1),
    Fault.corrupt("GET link", origin="client", chance=0.1),
)
#: Harmless, too; but what is to be seen of them takes its time.
LATER = (
    Fault.late(0.7, "PATCH /json_values/{id}", chance=0.05),
    Fault.drip("GET /*", seconds=0.001, chance=0.02),
    Fault.freeze(0.4, lasting=1.0, chance=0.1),
)
#: What begins anew within its run: the call that was begun is lost.
RESTARTS = (Fault.restart(0.5, chance=0.1), Fault.restart(says="begins", chance=0.05))
#: What the platform takes for the time, in seconds from this machine's: nothing depends on it.
CLOCKS = tuple(Fault.clock(seconds) for seconds in (3600.0, -3600.0, 31 * 86400.0, -31 * 86400.0))
