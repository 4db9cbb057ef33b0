"""So that ``python -m`` runs the worker."""

from . import main

main()
