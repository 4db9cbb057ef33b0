"""Functions for tests to run in containers, and how long tests wait for them.

No container has this module: what is defined here travels by value.
"""

from __future__ import annotations

import os
import sys
import time

import cloudpickle


def by_value(module):
    """No container has the module of this name: what is defined in it travels by value."""
    cloudpickle.register_pickle_by_value(sys.modules[module])


by_value(__name__)

#: Seconds that a test waits for what takes a moment: only a hang takes so long.
SECONDS = 60
#: Seconds that a task sleeps which must not be waited for: the test's time limit is shorter.
HOUR = 3600.0


def identity(value):
    return value


def square(x):
    return x * x


def slept(seconds, value=None):
    time.sleep(seconds)
    return seconds if value is None else value


def raise_or_sleep(error):
    """Raise it, or sleep for so many seconds."""
    if isinstance(error, BaseException):
        raise error
    time.sleep(error)


def wait_at(gate, value=None):
    """The value, once there is a file `open` in the folder; `arrived-{value}` is there first."""
    open(f"{gate}/arrived-{value}", "w").close()
    while not os.path.exists(f"{gate}/open"):
        time.sleep(0.005)
    return value
