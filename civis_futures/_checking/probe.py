"""What runs in containers while a platform is checked, as bodies of scripts.

Two runs are enough. The *probe* looks around, does what a worker does, tells what it has seen in
one line, and ends with an exit code that nothing else gives. The *glutton* takes more memory than
it may have, and is killed. This module must not know what is made of what they tell.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from typing import Any

from .. import _wire

#: How the probe ends: a code that neither a shell nor Python gives by itself.
EXIT_CODE = 7
#: What the probe prints on its standard output, and on its standard error.
PRINTED, PRINTED_AS_ERROR = "civis_futures: a line", "civis_futures: a line for errors"
#: What the probe adds to the name of its script.
RENAMED = " renamed"
#: What the probe's output is called.
OUTPUT = "civis_futures.probe"
#: The parameters that carry a File and a long text.
FILE, TEXT = "CIVIS_FUTURES_PROBE_FILE", "CIVIS_FUTURES_PROBE_TEXT"
#: What is in that File.
CONTENT = b"civis_futures looks whether links of Files reach containers\n"
#: How much memory the glutton may have, in MB, and how much it tries to take.
ALLOWED, TAKEN = 160, 640
_SAID = re.compile(r"civis_futures: probe (\{.*\})")

# Any Python 3 runs it. It asks for its own log ten times at the most.
_PROBE = """
import base64, hashlib, json, os, ssl, sys, time, urllib.request
given = os.environ.get("CIVIS_API_ENDPOINT")
api, pem = (given or {api}).rstrip("/"), os.environ.get("{ca_certs}")
key = base64.b64encode((os.environ["CIVIS_API_KEY"] + ":").encode()).decode()
job, run = os.environ["CIVIS_JOB_ID"], os.environ["CIVIS_RUN_ID"]
script = "/scripts/containers/" + job
trust = ssl.create_default_context(cadata=pem) if pem else None
def ask(method, path, body=None):
    headers = {{"Authorization": "Basic " + key, "Content-Type": "application/json"}}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60, context=trust) as reply:
        return json.loads(reply.read().decode() or "null")
def tried(function, *given):
    try:
        return function(*given)
    except Exception as error:
        return ("%s: %s" % (type(error).__name__, error))[:200]
def digest_of_link():
    link = os.environ.get("{file}_URL")
    if link is None:
        return None
    with urllib.request.urlopen(link, timeout=60) as reply:
        return hashlib.sha256(reply.read()).hexdigest()
def output():
    made = ask("POST", "/json_values", {{"name": {output!r}, "valueStr": json.dumps(job)}})
    body = {{"objectType": "JSONValue", "objectId": made["id"]}}
    ask("POST", script + "/runs/" + run + "/outputs", body)
    return True
def seconds_until_logged():
    print({printed!r}, flush=True)
    print({as_error!r}, file=sys.stderr, flush=True)
    began = time.monotonic()
    for number in range(10):
        lines = ask("GET", script + "/runs/" + run + "/logs?limit=100")
        if any(line["message"].strip() == {printed!r} for line in lines):
            return time.monotonic() - began
        time.sleep(0.1 * 1.6 ** number)
    return None
text = os.environ.get("{text}", "").encode()
seen = {{"endpoint": bool(given), "text": len(text), "digest": hashlib.sha256(text).hexdigest()}}
seen["user"] = tried(lambda: ask("GET", "/users/me")["id"])
seen["file"] = tried(digest_of_link)
seen["renamed"] = tried(lambda: bool(ask("PATCH", script, {{"name": {name!r}}})))
seen["output"] = tried(output)
seen["logged"] = tried(seconds_until_logged)
print("civis_futures: probe " + json.dumps(seen), flush=True)
sys.exit({code})
"""
_GLUTTON = """
import time
held = []
for _ in range({taken} // 16):
    held.append(bytearray(b"x") * (16 << 20))
    time.sleep(0.01)
print("civis_futures: nobody minded", flush=True)
time.sleep(10)
"""


def text_of(size: int) -> str:
    """A text of `size` bytes that is not the same in any two places."""
    words = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(size // 64 + 1))
    return words[:size]


def probe(name: str, url: str, image: tuple[str, str], file_id: int, text: str) -> dict[str, Any]:
    """The body of the probe's script; `url` is for a container that is not told one."""
    program = _PROBE.format(
        api=json.dumps(url),
        ca_certs=_wire.CA_CERTS_VARIABLE,
        file=FILE,
        text=TEXT,
        output=OUTPUT,
        name=name + RENAMED,
        printed=PRINTED,
        as_error=PRINTED_AS_ERROR,
        code=EXIT_CODE,
    )
    return {
        **_script(name, image, program, memory=256),
        "params": [{"name": FILE, "type": "file"}, {"name": TEXT, "type": "multi_line_string"}],
        "arguments": {FILE: file_id, TEXT: text},
    }


def glutton(name: str, image: tuple[str, str]) -> dict[str, Any]:
    """The body of the script that takes too much memory."""
    return _script(name, image, _GLUTTON.format(taken=TAKEN), memory=ALLOWED)


def _script(name: str, image: tuple[str, str], program: str, memory: int) -> dict[str, Any]:
    return {
        "name": name,
        "docker_image_name": image[0],
        "docker_image_tag": image[1],
        "docker_command": f"exec python3 -c {shlex.quote(program)}",
        "required_resources": {"cpu": 250, "memory": memory, "disk_space": 1.0},
        "notifications": {"success_on": False, "failure_on": False},
        "hidden": True,
    }


def reported(messages: list[str]) -> dict[str, Any]:
    """What the probe has said in the log; empty if it has said nothing."""
    for message in messages:
        if found := _SAID.match(message):
            try:
                return dict(json.loads(found[1]))
            except ValueError:
                continue
    return {}
