"""Civis Platform's API on this machine: try the library without an account, test code against it.

The package imports nothing else of civis_futures. It and the client meet in HTTP and in a
container's command line only, so that a misunderstanding of the contract cannot be shared.
"""

from ._engines.options import Docker, OwnScheduler, Podman, Slurm
from ._owner import LocalPlatform

__all__ = ["Docker", "LocalPlatform", "OwnScheduler", "Podman", "Slurm"]

for _public in (Docker, LocalPlatform, Podman, OwnScheduler, Slurm):
    _public.__module__ = __name__
