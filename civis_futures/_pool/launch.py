"""What a worker is launched with: the bundle, the command that runs it, the body of its script.

The bundle is the worker packed into one file that any image with Python can run. In it the package
is called `civis_futures_worker`, so that it never shadows a `civis_futures` installed in the image;
beside it lies the client's own cloudpickle, since pickles are best read by the version that wrote
them. This module knows file names, a zip's format and the API's field names; it sends nothing, and
does not know what the worker does.

What is assumed of Platform without evidence is here: that a parameter of type `file` gives its link
in `<NAME>_URL` (the bootstrap falls back to the API), and that a `multi_line_string` holds an order
of some tens of kB.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import marshal
import os
import shlex
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from types import CodeType
from typing import Any

from .. import _wire
from .._container.container import Container, Template
from .._wire import BUNDLE_VARIABLE, ORDER_VARIABLE

#: What the package is called in the bundle.
PACKAGE = "civis_futures_worker"
#: The flag in a .pyc that says: do not look at the source to see whether this is up to date.
_UNCHECKED_HASH = (0b01).to_bytes(4, "little")

# Written for a person who looks at the script on the platform, and for any Python, however old, up
# to the check of its version. Double quotes only: the shell takes it in single ones. The link that
# the platform puts into the environment is tried once; after that, fresh ones from the API.
_BOOTSTRAP = """\
# A worker of civis_futures: fetch its program, check it, run it.
import os, sys

API, FILE, SHA256 = {api}, {file}, {sha256}
API = os.environ.get("{endpoint}") or API
if sys.version_info < (3, 8):
    sys.exit("civis_futures: Python %d.%d is too old, use the version of the client"
             % sys.version_info[:2])
import base64, hashlib, http.client, json, time
from urllib.parse import urlsplit

def get(link, **headers):
    at, pem = urlsplit(link), os.environ.get("{ca_certs}")
    kind, trust = http.client.HTTPConnection, {{}}
    if at.scheme == "https":
        kind = http.client.HTTPSConnection
        if pem and at.hostname == urlsplit(API).hostname:
            import ssl
            only = trust["context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            only.load_verify_locations(cadata=pem)
            only.verify_flags |= 0x80000  # partial chains
    connection = kind(at.netloc, timeout=60, **trust)
    connection.request("GET", at.path + "?" + at.query, headers=headers)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    if reply.status != 200:
        again = reply.status == 429 or reply.status >= 500
        raise (OSError if again else LookupError)("HTTP %d" % reply.status)
    return data

def give_up(why):
    sys.stderr.write("civis_futures: %s\\n" % why)
    sys.exit({no_worker})

def said(error):  # without the address that it may quote, for that is a secret
    return repr(error).split("?")[0]

def fresh_link():
    key = base64.b64encode((os.environ["CIVIS_API_KEY"] + ":").encode()).decode()
    link = "%s/files/%d" % (API.rstrip("/"), FILE)
    file = json.loads(get(link, Authorization="Basic " + key).decode())
    return file["fileUrl"] or give_up("File %d is empty or has expired" % FILE)

def fetch():
    link = os.environ.get("{variable}_URL")
    for pause in (0, 0, 2, 5, 10, 30, 60, 120, 120):
        time.sleep(pause)
        try:
            data = get(link or fresh_link())
            if hashlib.sha256(data).hexdigest() == SHA256:
                return data
            raise LookupError("these are not the bytes that were uploaded (SHA-256)")
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            problem = error
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                break
            if not link:
                # Wrong bytes may be right the next time; what is refused stays refused.
                if not isinstance(error, LookupError):
                    sys.stderr.write("civis_futures: %s, trying again\\n" % said(error))
                elif pause >= 2 or "HTTP" in str(error):
                    break
        link = None
    give_up("cannot fetch the worker, File %d: %s" % (FILE, said(problem)))

def store(data):
    name = "civis-futures-%s.zip" % os.urandom(8).hex()
    for folder in (os.environ.get("TMPDIR") or "/tmp", "/var/tmp", "/dev/shm", "."):
        path = os.path.join(folder, name)
        try:
            with open(path, "xb") as file:
                file.write(data)
            return path
        except OSError as error:
            problem = error
    give_up("cannot store the worker: %s" % problem)

bundle = store(fetch())
sys.path.insert(0, bundle)
try:
    from {package}.worker import main
    main()
finally:
    os.unlink(bundle)
"""

#: Parent variables that civis-python's executors set, and scripts look for -> where we read them.
PARENT_VARIABLES = {
    "CIVIS_PARENT_JOB_ID": "CIVIS_JOB_ID",
    "CIVIS_PARENT_RUN_ID": "CIVIS_RUN_ID",
}
#: Fields of `Container` and `Template` that are not sent as they are.
_OURS = {"setup_cmd", "params", "arguments", "environment", "order_param", "order_in_file"}
#: The attributes of code that others may refer to as well.
_OF_CODE = (
    "co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_filename", "co_name",
    "co_qualname", "co_linetable", "co_exceptiontable",
)  # fmt: skip
_REPOSITORY_SETUP = "cd /app && pip install . && cd /"


@dataclass(frozen=True)
class Bundle:
    """The bytes to upload, and their SHA-256."""

    data: bytes
    sha256: str


@cache
def bundle() -> Bundle:
    """The bundle of this installation; packed once per process, and the same in each process."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(_files()):
            # The time is fixed, and nothing is compressed (a worker starts sooner, and zlib's
            # output differs between its versions): equal content makes an equal bundle.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    data = target.getvalue()
    return Bundle(data, _wire.digest(data))


def docker_command(url: str, sha256: str, file_id: int, setup_cmd: str | None = None) -> str:
    """The shell command of a worker's script, which fetches the bundle and runs it.

    `url` is the base of the API and `file_id` the bundle's File, for when the platform gives no
    link to it; `setup_cmd` a shell command to run first, and to stop at if it fails.
    """
    run = f"exec python3 -c {shlex.quote(bootstrap(url, sha256, file_id))}"
    if setup_cmd is None or not setup_cmd.strip():
        return run
    # On lines of its own: it may hold `;`, end in a comment or in a here-document. It runs in this
    # shell, so that what it exports is there; hence the trap, for it may `exit`, too.
    said = 'echo "civis_futures: setup_cmd failed with exit code $?" >&2'
    return (
        f"trap '{said}; exit {_wire.SETUP_FAILED}' EXIT\n"
        f"{{ {setup_cmd}\n}} || exit\ntrap - EXIT\n{run}"
    )


def bootstrap(url: str, sha256: str, file_id: int) -> str:
    """The source of the program that fetches the bundle and runs it; arguments as above."""
    return _BOOTSTRAP.format(
        endpoint=_wire.ENDPOINT_VARIABLE,
        ca_certs=_wire.CA_CERTS_VARIABLE,
        api=json.dumps(url.rstrip("/") + "/"),
        file=int(file_id),
        sha256=json.dumps(sha256),
        variable=_wire.BUNDLE_VARIABLE,
        package=PACKAGE,
        no_worker=_wire.NO_PROGRAM,
    )


def _files() -> Iterator[tuple[str, bytes]]:
    """Names and contents of all that goes into the bundle."""
    ours = resources.files("civis_futures")
    modules = {
        f"{PACKAGE}/__init__.py": b'"""A worker of civis_futures."""\n',
        f"{PACKAGE}/_wire.py": ours.joinpath("_wire.py").read_bytes(),
    }
    for folder in ("_pickles", "worker"):
        for file in ours.joinpath(folder).iterdir():
            if file.name.endswith(".py"):
                modules[f"{PACKAGE}/{folder}/{file.name}"] = file.read_bytes()
    for file in resources.files("cloudpickle").iterdir():
        if file.name.endswith(".py"):
            modules[f"cloudpickle/{file.name}"] = file.read_bytes()
    for name, source in modules.items():
        yield name, source
        yield f"{name}c", _compiled(name, source)


def _compiled(name: str, source: bytes) -> bytes:
    """A .pyc for this Python, without what is not read there: docstrings, assertions, annotations
    of functions, and where in its line something stands. Another Python passes it over and compiles
    the source.
    """
    tree = ast.parse(source, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.expr | ast.stmt):
            node.col_offset = node.end_col_offset = 0
            node.end_lineno = node.lineno
    code = compile(tree, name, "exec", dont_inherit=True, optimize=2)
    # What only one thing refers to is written without a mark that others may refer to it. So that
    # this does not depend on what else is in memory, we refer to all of it.
    kept: dict[int, tuple[Any, Any]] = {}
    content = marshal.dumps(_settled(code, kept))
    del kept
    check = importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + check + content


def _settled(value: Any, kept: dict[int, tuple[Any, Any]]) -> Any:
    """The same code with each text interned, and with all that it consists of kept.

    Whether a text is one object with its equals depends on what this process has imported: a class
    has its name as a text, and its code has the same one interned.
    """
    if id(value) not in kept:
        made = value
        if type(value) is str:
            made = sys.intern(value)
        elif isinstance(value, CodeType):
            made = value.replace(**{x: _settled(getattr(value, x), kept) for x in _OF_CODE})
        elif isinstance(value, (tuple, frozenset)):
            made = type(value)(_settled(each, kept) for each in value)
        kept[id(value)] = value, made
    return kept[id(value)][1]


def script_body(
    container: Container | Template,
    *,
    name: str,
    order: str | int,
    program: _wire.Blob | None,
    url: str,
) -> dict[str, Any]:
    """The body of ``POST /scripts/containers`` or ``POST /scripts/custom`` for one worker.

    `program` is the bundle in its File. A template has a program of its own; one that takes its
    order in a File finds ours in there.
    """
    body = {
        field.name: value
        for field in fields(container)
        if field.name not in _OURS and (value := getattr(container, field.name)) is not None
    }
    body["name"] = name
    if isinstance(container, Template):
        # Its parameters are fixed by the template; those it does not have are refused.
        body["arguments"] = {**container.arguments, container.order_param: order}
        return body
    assert program is not None, "only a template has a program of its own"
    assert program.file_id is not None, "the bundle travels in a File"
    setup = container.setup_cmd
    if setup is None and container.repo_http_uri:
        setup = _REPOSITORY_SETUP
    body["docker_command"] = docker_command(url, program.sha256, program.file_id, setup)
    own: dict[str, tuple[str, str | int]] = {
        **{name.upper(): ("string", value) for name, value in container.environment.items()},
        ORDER_VARIABLE: ("multi_line_string", str(order)),
        BUNDLE_VARIABLE: ("file", program.file_id),
        **_parents(),
    }
    # These replace params of the same name: Platform refuses a script with duplicates.
    params = [param for param in container.params if str(param.get("name")).upper() not in own]
    body["params"] = params + [{"name": name, "type": kind} for name, (kind, _) in own.items()]
    arguments = {
        name: value for name, value in container.arguments.items() if name.upper() not in own
    }
    body["arguments"] = {**arguments, **{name: value for name, (_, value) in own.items()}}
    return body


def _parents() -> dict[str, tuple[str, str | int]]:
    """The job and run that we run in ourselves, if we do."""
    found: dict[str, tuple[str, str | int]] = {}
    for name, source in PARENT_VARIABLES.items():
        value = os.environ.get(source, "")
        if value.isdigit():
            found[name] = ("integer", int(value))
    return found
