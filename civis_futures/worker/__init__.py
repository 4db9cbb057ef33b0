"""The program inside a container: it answers the calls of its order, then those of its inbox.

The way in is `main`: for the bundle's bootstrap, for the console script `civis-futures-worker` and
for ``python -m``. The modules, each of which knows only those below it::

    _entry     environment -> order; exit codes
    _loop      the parent: which call next, when to post, when to look, when to end
    _outbox    answers on their way out
    _inbox     how often to look for news, and when to give up
    _buffers   files that many calls refer to, kept
    _process   the parent's end of the child: fork, send, receive, end
    _child     the child: runs user code
    _payload   from the bytes of a call to what is to be called
    _surroundings  what a call may change that would harm others, put back
    _script    the functions, classes and variables of the client's script
    _frames    what passes between the two over a pipe
    _groups    the kernel's groups, and how many cores they give
    _platform  the requests that a worker makes
    _http      a request, repeated until it is answered
    _pacing    how long is waited for what

All of it runs on Python 3.8 and up, although the client needs 3.11: on an older Python the worker
must still be able to say that it is older. It imports the standard library, `_wire` and, where a
payload asks for it, cloudpickle; and as little of the first as it can, because start-up counts.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in `typing`, whose import would cost more than this whole package
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Do what the environment's order says, or that in the File of ``--file ID``; end the process.

    The File is for templates that were made for civis-python, which hand an id to their command.
    """
    from . import _entry  # here, so that to import the package costs nothing

    sys.exit(_entry.run_file(sys.argv[1:]) if sys.argv[1:] else _entry.run())
