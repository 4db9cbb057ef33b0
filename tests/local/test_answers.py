"""How the local platform's answers reach a connection."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from civis_futures.local._faults.breakage import OpenConnection


class Transport:
    """A connection's end that notes what is written to it."""

    def __init__(self):
        self.written = []

    def write(self, data):
        if data:
            self.written.append(bytes(data))

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return False

    def close(self):
        pass


@pytest.mark.parametrize(
    ("method", "status", "body"), [("GET", 200, b"text"), ("GET", 304, b""), ("HEAD", 200, b"text")]
)
def test_an_answer_is_written_in_one_piece(method, status, body):
    async def exchange():
        config = uvicorn.Config(Response(body, status), ws="none", log_config=None)
        config.load()
        connection, transport = OpenConnection(config, ServerState(), {}), Transport()
        connection.connection_made(transport)
        for _ in range(2):  # one after the other
            connection.data_received(f"{method} / HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            await asyncio.gather(*connection.tasks)
        connection.connection_lost(None)
        return transport.written

    first, second = asyncio.run(exchange())
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert first.endswith(b"\r\n\r\n" + (b"" if method == "HEAD" else body))
    assert second.startswith(b"HTTP/1.1 %d " % status)


def test_who_waits_to_be_told_to_go_on_is_told():
    async def exchange():
        async def app(scope, receive, send):
            message = await receive()
            await Response(message["body"])(scope, receive, send)

        config = uvicorn.Config(app, ws="none", log_config=None)
        config.load()
        connection, transport = OpenConnection(config, ServerState(), {}), Transport()
        connection.connection_made(transport)
        head = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        connection.data_received(head)
        while not transport.written:
            await asyncio.sleep(0)
        connection.data_received(b"text")
        await asyncio.gather(*connection.tasks)
        connection.connection_lost(None)
        return transport.written

    first, second = asyncio.run(exchange())
    assert first.startswith(b"HTTP/1.1 100 ")
    assert second.endswith(b"text")
