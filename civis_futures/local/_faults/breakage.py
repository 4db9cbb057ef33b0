"""What a fault does to one request on its way: in place of the answer, or to the answer.

It knows HTTP's bodies and connections, and nothing of the platform; which request meets which fault
is decided in `rules`.
"""

from __future__ import annotations

import asyncio
import http
import json
import math
import socket
import struct
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .fault import Fault

PAGE = "<!DOCTYPE html>\n<html><body><h1>Down for maintenance</h1></body></html>\n"
TRANSPORT = "transport"
#: How the head of an answer begins, and not that of one that is only on the way ("100 Continue").
_HEAD = tuple(f"HTTP/1.1 {kind}".encode() for kind in "2345")


class OpenConnection(H11Protocol):
    """uvicorn's connection, which lets the application hang up: ASGI itself has no word for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the transport where the application finds it."""
        self.app_state = {**self.app_state, TRANSPORT: transport}
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]


class _Joined:
    """A transport by which the head of an answer goes out with what is written next, be it nothing:
    uvicorn writes both, one after the other. That saves a system call here, and another one to
    what reads it.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write it, or wait for what comes next."""
        if data.startswith(_HEAD) and not self._head:
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""


class Reset:
    """In place of an answer: the connection is reset."""

    status_code = None

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        """Hang up."""
        transport: asyncio.Transport = scope["state"][TRANSPORT]
        connection = transport.get_extra_info("socket")
        # Without lingering, the end of a connection is a reset and not an orderly goodbye.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _disconnected(receive)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def instead(fault: Fault | None) -> Response | Reset | None:
    """Wait as long as a fault says; return what is answered in place of the platform's answer."""
    if fault is None:
        return None
    if fault.kind == "delay":
        await asyncio.sleep(fault.seconds)
    elif fault.kind == "late":
        return Reset() if fault.status is None else _refusal(fault.status, None)
    elif fault.kind == "garbage":
        return Response(PAGE, 200, media_type="text/html")
    elif fault.kind == "drop" or (fault.kind == "down" and fault.status is None):
        return Reset()
    elif fault.kind in ("answer", "down"):
        assert fault.status is not None
        return _refusal(fault.status, fault.retry_after)
    return None


async def on_the_way_out(
    fault: Fault | None, response: Response | Reset
) -> tuple[ASGIApp, int | None]:
    """Return what is sent in the end, and its status, if it has one."""
    if fault is not None and fault.done:
        response = await instead(fault) or response
    spoiled = fault is not None and fault.kind in ("cut", "corrupt", "drip")
    app = _Spoiled(fault, response) if fault is not None and spoiled else response
    return app, response.status_code


def _refusal(status: int, retry_after: float | str | None) -> Response:
    if status in (204, 304):
        return _asking(Response(status_code=status), retry_after)
    try:
        slug = http.HTTPStatus(status).phrase.lower().replace(" ", "_")
    except ValueError:
        slug = "unknown"
    body = {"error": slug, "errorDescription": "This was made to fail.", "code": status}
    headers = {"WWW-Authenticate": 'Bearer realm="Civis API"'} if status == 401 else {}
    return _asking(Response(json.dumps(body), status, headers, "application/json"), retry_after)


def _asking(response: Response, retry_after: float | str | None) -> Response:
    """Add a ``Retry-After``: whole seconds, as HTTP has them, or the text that the fault gives."""
    if isinstance(retry_after, float | int) and math.isfinite(retry_after):
        retry_after = math.ceil(retry_after)
    if retry_after is not None:
        response.raw_headers.append((b"retry-after", str(retry_after).encode()))
    return response


class _Spoiled:
    """An answer whose body is cut short, corrupted, or slow, while it is sent."""

    def __init__(self, fault: Fault, app: ASGIApp) -> None:
        self._fault = fault
        self._app = app
        self._sent = 0  # bytes of the body so far
        self._room = 0  # bytes of it that are sent before the cut
        self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def spoil(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._room = int(_length(message) * self._fault.keep)
                await send(message)
                # So that the head goes out by itself, as it is not known when the body comes.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            elif self._fault.kind == "corrupt":
                await send({**message, "body": self._other(message.get("body", b""))})
            elif self._fault.kind == "drip":
                await self._drip(message, send, scope["state"][TRANSPORT])
            elif not self._over:
                await self._cut(message.get("body", b""), send, scope["state"][TRANSPORT])

        await self._app(scope, receive, spoil)
        if self._over:
            await _disconnected(receive)

    async def _cut(self, body: bytes, send: Send, transport: asyncio.Transport) -> None:
        piece = body[: self._room - self._sent]
        self._sent += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._sent >= self._room:
            self._over = True
            transport.close()  # once what was sent is out

    async def _drip(self, message: Message, send: Send, transport: asyncio.Transport) -> None:
        for byte in message.get("body", b""):
            await asyncio.sleep(self._fault.seconds)
            if transport.is_closing():
                return
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({**message, "body": b""})

    def _other(self, body: bytes) -> bytes:
        """Change the first of every 1,000 bytes of the whole body."""
        changed = bytearray(body)
        for index in range(-self._sent % 1_000, len(changed), 1_000):
            changed[index] ^= 0x80
        self._sent += len(body)
        return bytes(changed)


def _length(message: Any) -> int:
    headers = {name.lower(): value for name, value in message.get("headers", ())}
    return int(headers.get(b"content-length", 0))
