"""A proxy before a platform that refuses one request with a 429, and passes on all the rest."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "host", "date", "server"}


class Refusing:
    """Use it in place of the platform: it has a `url`; `api_key` is to be set.

    Below `prefix`, a path, is all of the platform, and nothing beside it.
    """

    api_key = ""

    def __init__(self, url: str, path: str, retry_after: int, prefix: str = "") -> None:
        self._address = url.removeprefix("http://").rstrip("/")
        self._path = path
        self._prefix = prefix
        self._retry_after = retry_after
        self._lock = threading.Lock()  # guards the next two
        self.refused = 0
        self.refused_at = 0.0  # by time.time
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy"
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{prefix}"

    def __enter__(self) -> Refusing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refuses(self, method: str, path: str) -> bool:
        """Whether this request is the one to refuse."""
        with self._lock:
            mine = self.refused == 0 and method == "POST" and path == self._path
            if mine:
                self.refused, self.refused_at = 1, time.time()
            return mine

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.refuses(self.command, self.path):
                    self.reply(429, {"Retry-After": str(proxy._retry_after)}, b"{}")
                    return
                connection = http.client.HTTPConnection(proxy._address, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                if not self.path.startswith(f"{proxy._prefix}/"):
                    self.reply(404, {}, b"{}")
                    return
                path = self.path.removeprefix(proxy._prefix)
                connection.request(self.command, path, body, headers)
                response = connection.getresponse()
                self.reply(response.status, dict(response.getheaders()), response.read())
                connection.close()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in {*_OF_THE_CONNECTION, "content-length"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
