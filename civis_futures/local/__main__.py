"""The server's process, started by a `LocalPlatform` as a script.

The packages around it are only named, and not imported: `civis_futures` imports the whole client,
which takes as long as all that the server needs.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path


def _name(package: str, folder: Path) -> None:
    """Make a package known by its folder, so that modules in it can be imported."""
    spec = ModuleSpec(package, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules.setdefault(package, module_from_spec(spec))


if __name__ == "__main__":
    here = Path(__file__).parent
    _name("civis_futures", here.parent)
    _name("civis_futures.local", here)
    from civis_futures.local._server import main

    main()
