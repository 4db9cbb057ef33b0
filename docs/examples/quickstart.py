"""What the pool does, in a few seconds, on a local platform: no account and no key needed.

Run it with ``make demo``, or with ``python docs/examples/quickstart.py`` where this package is
installed with its extra ``local``. To run the same on Civis Platform, set ``CIVIS_API_KEY`` and
leave out ``platform="local"``. The image of the container must have your Python: if you name no
image, it is Civis's own image with your Python, if there is one.
"""

import os
import time
import traceback
from concurrent.futures import as_completed

from civis_futures import Container, ContainerPoolExecutor


def square(number):
    return number * number


def nap(seconds):
    time.sleep(seconds)
    return f"slept {seconds} s in process {os.getpid()}"


def divide(a, b):
    return a / b


# A quarter of a core each, so that four of them run at once on any machine.
container = Container(required_resources={"cpu": 250, "memory": 256})


def main():
    there = f"on Civis Platform, containers would have the image {container.image}"
    print(f"This is process {os.getpid()} ({there}); each container is a process of its own.")
    with ContainerPoolExecutor(4, container=container, platform="local") as executor:
        print("\n1. map: results in the order of the arguments")
        print("  ", list(executor.map(square, range(10))))

        print("\n2. as_completed: results in the order in which the calls end")
        naps = [executor.submit(nap, seconds) for seconds in (0.9, 0.5, 0.1)]
        for future in as_completed(naps):
            print("  ", future.result())

        print("\n3. A task that fails: its own exception, with the traceback from the container")
        future = executor.submit(divide, 1, 0)
        try:
            future.result()
        except ZeroDivisionError:
            for line in traceback.format_exc().splitlines():
                print("  ", line)

        print("\n4. A task that is cancelled while it runs: its container is stopped")
        future = executor.submit(nap, 3600)
        while not future.running():
            time.sleep(0.05)
        print("   state:", future.state, "in run", future.run_id)
        print("   cancel() returned", future.cancel())
        print("   state:", future.state)
    print("\nThe pool is shut down, and no container runs any more.")


if __name__ == "__main__":
    main()
