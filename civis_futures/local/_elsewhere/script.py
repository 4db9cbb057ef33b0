"""The script that a scheduler is given for one run: the agent, where we are, and a key."""

from __future__ import annotations

import os
import shlex
import sys
from importlib import resources

NO_PYTHON = 127  # the shell's own exit code
OLD_PYTHON, NO_ORDER, LEFT_ALONE = 78, 75, 70  # the agent's, see there

# Through standard input, as all users can see command lines. Any shell takes it.
_SCRIPT = """\
#!/bin/sh
# One run of a platform of civis_futures. Its agent asks there what it is to run.
umask 077
PATH={path}:"${{PATH:-/usr/local/bin:/usr/bin:/bin}}"
export PATH
{setup}
exec python3 -I -S - <<'CIVIS_FUTURES_AGENT'
import sys
if sys.version_info < (3, 8):
    sys.exit({old})
exec(compile({source}, "agent.py", "exec"), globals())
sys.exit(main({url!a}, {key!a}, {lease!r}, {certificate!a}))
CIVIS_FUTURES_AGENT
"""


def start_script(
    url: str, key: str, lease: float, *, certificate: str | None = None, setup: str = ""
) -> str:
    """The script. The key is all that is secret in it: it is one run's, and only its agent's.

    `setup` is the user's, for the machine's shell: `module load python`, for example. Without it,
    the first Python that is looked for is this one, which is there where file systems are shared.
    """
    source = resources.files(__package__).joinpath("agent.py").read_text()
    return _SCRIPT.format(
        path=shlex.quote(os.path.dirname(sys.executable)),
        setup=setup,
        old=OLD_PYTHON,
        source=ascii(source),
        url=url,
        key=key,
        lease=lease,
        certificate=certificate,
    )
