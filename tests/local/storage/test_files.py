"""Files: forms, parts, links and their ends."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

MIB = 2**20
BOUNDARY = "boundary-of-the-form"


def form(fields, data, *, filenames=False, last=True):
    """A form body; `filenames` as a client sends it that makes a file of each field."""
    parts = [(name, value.encode()) for name, value in fields.items()]
    parts.insert(len(parts) if last else 0, ("file", data))
    body = b""
    for name, value in parts:
        filename = f'; filename="{name}"' if filenames or name == "file" else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        body += head.encode() + value + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


CONTENT = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture
def upload(api, tools):
    def post(data, name="some.bin", filenames=False, **fields):
        made = api.ok("POST", "/files", {"name": name} | fields)
        body = form(made["uploadFields"], data, filenames=filenames)
        reply = tools.call(made["uploadUrl"], "POST", body, CONTENT)
        assert reply.status == 204, reply.data
        return made["id"]

    return post


def link(api, key, query=""):
    return api.ok("GET", f"/files/{key}{query}")["fileUrl"]


@pytest.mark.parametrize("filenames", [False, True])
@pytest.mark.parametrize("data", [b"", b"\r\n--x\r\n" * 3, bytes(range(256)) * 5000])
def test_form_upload_and_download(api, tools, upload, data, filenames):
    key = upload(data, filenames=filenames)
    shown = api.ok("GET", f"/files/{key}")
    assert shown["fileSize"] == len(data)
    reply = tools.call(shown["fileUrl"])
    assert (reply.status, reply.data) == (200, data)
    assert "some.bin" in reply.headers["content-disposition"]


def test_a_file_without_a_filename_and_a_second_upload(api, tools):
    made = api.ok("POST", "/files", {"name": "x"})
    for data in (b"first", b"second"):
        body = form(made["uploadFields"], data).replace(b'; filename="file"', b"")
        assert tools.call(made["uploadUrl"], "POST", body, CONTENT).status == 204
    assert tools.call(link(api, made["id"])).data == b"second"


def test_before_the_upload_there_is_no_link_and_no_size(api):
    made = api.ok("POST", "/files", {"name": "x"})
    shown = api.ok("GET", f"/files/{made['id']}")
    assert (made["fileSize"], shown["fileSize"], shown["fileUrl"]) == (0, 0, None)


def test_upload_is_on_another_port_and_refuses_a_key(api, platform, tools):
    made = api.ok("POST", "/files", {"name": "x"})
    assert not made["uploadUrl"].startswith(platform.url)
    body = form(made["uploadFields"], b"data")
    leaking = CONTENT | {"Authorization": f"Bearer {platform.api_key}"}
    reply = tools.call(made["uploadUrl"], "POST", body, leaking)
    assert reply.status == 400
    assert b"<Code>InvalidArgument</Code>" in reply.data


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"key": "0" * 40}, 403, "AccessDenied"),
        ({"key": "../platform.sqlite"}, 403, "AccessDenied"),
        ({"signature": "0" * 64}, 403, "AccessDenied"),
        ({"signature": "é"}, 403, "AccessDenied"),
        ({"policy": "9999999999"}, 403, "AccessDenied"),
    ],
)
def test_a_changed_form_is_refused(api, tools, change, status, code):
    made = api.ok("POST", "/files", {"name": "x"})
    body = form(made["uploadFields"] | change, b"data")
    reply = tools.call(made["uploadUrl"], "POST", body, CONTENT)
    assert reply.status == status
    assert f"<Code>{code}</Code>".encode() in reply.data
    assert link(api, made["id"]) is None


def test_a_form_of_the_wrong_shape_is_refused(api, tools):
    made = api.ok("POST", "/files", {"name": "x"})
    url, fields = made["uploadUrl"], made["uploadFields"]
    whole = form(fields, b"data")
    wrong = [
        (form(fields, b"data", last=False), CONTENT, 403),  # the key comes too late
        (whole, {"Content-Type": "application/json"}, 400),
        (whole, {}, 400),
        (b"", CONTENT, 400),
        (whole.replace(b'name="file"', b'name="other"'), CONTENT, 400),
        (whole.replace(b"\r\n\r\n", b"\r\n", 1), CONTENT, 400),
        (form(fields | {"more": "x" * 30_000}, b"data"), CONTENT, 400),
    ]
    for body, headers, status in wrong:
        assert tools.call(url, "POST", body, headers).status == status
    assert tools.call(url, "PATCH", whole, CONTENT).status == 405
    assert link(api, made["id"]) is None


def test_links_end(api, tools, upload):
    def until(seconds):
        end = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        return link(api, key, f"?link_expires_at={end}")

    key = upload(b"data")
    assert tools.call(until(3600)).data == b"data"
    url = until(1)
    reply = tools.until(lambda: (r := tools.call(url)).status != 200 and r)
    assert reply.status == 403
    assert b"<Code>AccessDenied</Code>" in reply.data
    assert tools.call(link(api, key)).data == b"data"  # fetched anew, it works


def test_links_are_for_one_thing(api, tools, upload):
    url = link(api, upload(b"data"))
    assert tools.call(url, "PUT", b"other").status == 403
    assert tools.call(url.replace("expires=", "expires=9")).status == 403
    assert tools.call(re.sub(r"signature=\w", "signature=", url)).status == 403
    assert tools.call(url.partition("?")[0]).status == 403
    assert tools.call(url, "HEAD").headers["content-length"] == "4"


def test_links_live_36_hours_at_most(api, upload):
    key = upload(b"data")
    for hours, status in ((35, 200), (37, 400), (-1, 400)):
        end = (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")
        assert api("GET", f"/files/{key}?link_expires_at={end}Z").status == status
    assert api("GET", f"/files/{key}?link_expires_at=soon").status == 400


def test_ranges(api, tools, upload):
    url = link(api, upload(b"0123456789"))
    part = tools.call(url, headers={"Range": "bytes=3-5"})
    assert (part.status, part.data) == (206, b"345")
    assert part.headers["content-range"] == "bytes 3-5/10"
    assert tools.call(url, headers={"Range": "bytes=8-"}).data == b"89"
    assert tools.call(url, headers={"Range": "bytes=10-"}).status == 416


def test_expiry_of_files(api, tools, upload):
    made = api.ok("POST", "/files", {"name": "x"})
    life = datetime.fromisoformat(made["expiresAt"]) - datetime.fromisoformat(made["createdAt"])
    assert life == timedelta(days=30)
    assert api.ok("POST", "/files", {"name": "x", "expires_at": None})["expiresAt"] is None
    offset = api.ok("POST", "/files", {"name": "x", "expiresAt": "2030-01-01T00:00:00+02:00"})
    assert offset["expiresAt"] == "2029-12-31T22:00:00.000Z"
    assert api("POST", "/files", {"name": "x", "expiresAt": "tomorrow"}).status == 400
    key = upload(b"data")
    url = link(api, key)
    over = api.ok("PATCH", f"/files/{key}", {"expires_at": "2020-01-01T00:00:00Z"})
    assert over["fileUrl"] is None
    assert tools.call(url).status == 404
    assert api.ok("PATCH", f"/files/{key}", {"expiresAt": None})["fileUrl"]


def test_patch_keeps_the_extension(api, upload):
    key = upload(b"data", name="a.csv")
    assert api.ok("PATCH", f"/files/{key}", {"name": "b.csv"})["name"] == "b.csv"
    assert api("PATCH", f"/files/{key}", {"name": "b.txt"}).status == 400
    long = {"name": "x", "description": "d" * 513}
    assert api("POST", "/files", long).status == 400
    assert api("POST", "/files", {}).status == 400


def test_names_are_only_names(api, tools, upload):
    name = '../../etc/passwd\r\n"é'
    key = upload(b"data", name=name)
    shown = api.ok("GET", f"/files/{key}")
    assert shown["name"] == name
    assert tools.call(shown["fileUrl"]).data == b"data"


def parts(api, sizes, tools):
    made = api.ok("POST", "/files/multipart", {"name": "x.bin", "numParts": len(sizes)})
    data = [bytes([65 + i]) * size for i, size in enumerate(sizes)]
    for url, piece in reversed(list(zip(made["uploadUrls"], data, strict=True))):
        assert tools.call(url, "PUT", piece).status == 200
    return made["id"], b"".join(data)


def test_multipart(api, tools):
    key, data = parts(api, [5 * MIB, 5 * MIB + 1, 3], tools)
    assert link(api, key) is None
    assert api("POST", f"/files/multipart/{key}/complete").status == 204
    assert api("POST", f"/files/multipart/{key}/complete").status == 204  # a lost answer
    assert api.ok("GET", f"/files/{key}")["fileSize"] == len(data)
    assert tools.call(link(api, key)).data == data


def test_multipart_needs_all_parts_of_the_right_size(api, tools):
    key, _ = parts(api, [5 * MIB - 1, 3], tools)
    small = api("POST", f"/files/multipart/{key}/complete")
    assert (small.status, small["error"]) == (400, "bad_request")
    made = api.ok("POST", "/files/multipart", {"name": "x", "num_parts": 2})
    assert tools.call(made["uploadUrls"][1], "PUT", b"x").status == 200
    missing = api("POST", f"/files/multipart/{made['id']}/complete")
    assert "parts 1 were not uploaded" in missing["errorDescription"]
    assert link(api, made["id"]) is None
    assert api("POST", "/files/multipart/5/complete").status == 404
    for count in (0, 10_001, None):
        assert api("POST", "/files/multipart", {"name": "x", "numParts": count}).status == 400


def test_the_size_limit(make, tools):
    platform = make(max_file_size=1000)
    api = tools.Api(platform.url, platform.api_key)
    for size, status in ((1000, 204), (1001, 400)):
        made = api.ok("POST", "/files", {"name": "x"})
        reply = tools.call(
            made["uploadUrl"], "POST", form(made["uploadFields"], b"x" * size), CONTENT
        )
        assert reply.status == status
        assert (link(api, made["id"]) is not None) is (status == 204)
    assert b"EntityTooLarge" in reply.data
    stats = platform.stats()
    assert (stats.uploads, stats.upload_bytes) == (1, 1000)
    assert stats.count("POST", "/files") == 2


def test_a_broken_upload_leaves_nothing(api, platform, tools):
    import socket
    from urllib.parse import urlsplit

    made = api.ok("POST", "/files", {"name": "x"})
    body = form(made["uploadFields"], b"x" * 100_000)
    where = urlsplit(made["uploadUrl"])
    with socket.create_connection((where.hostname, where.port)) as broken:
        head = f"POST / HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {CONTENT['Content-Type']}\r\n\r\n"
        broken.sendall(head.encode() + body[:50_000])
    assert link(api, made["id"]) is None
    assert tools.call(made["uploadUrl"], "POST", body, CONTENT).status == 204
