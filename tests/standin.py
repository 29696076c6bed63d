"""An HTTP server in this process that answers as a test says."""

import contextlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

JSON = "application/json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. `path` is without the query, and decoded; `parts` are its parts, decoded."""

    method: str
    path: str
    parts: Sequence[str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; status 0 closes the connection without a word, -1 never answers."""

    status: int
    body: bytes = b""
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Refusal:
    """A reply in place of the next `times` that fit; `done`: the request is fulfilled before."""

    reply: Reply
    method: str
    path: str
    times: int
    done: bool


def replied(status: int, document: object) -> Reply:
    """A reply in JSON."""
    return Reply(status, json.dumps(document).encode())


def page(status: int = 200) -> Reply:
    """A web page, such as a login."""
    return Reply(status, b"<!DOCTYPE html><title>Log in</title>", "text/html; charset=UTF-8")


class StandIn:
    """A server whose answers come from `answer`, unless a refusal was asked for."""

    def __init__(self, answer: Callable[[Request], Reply], context: ssl.SSLContext | None) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._refusals: list[_Refusal] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536  # one packet for an answer, or each costs 40 ms

            def handle_any(self) -> None:
                outer.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http{'' if context is None else 's'}://127.0.0.1:{self.port}"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def refuse(
        self,
        reply: Reply,
        *,
        method: str = "[A-Z]+",
        path: str = ".*",
        times: int = 1,
        done: bool = False,
    ) -> None:
        """Answer the next `times` requests that fit the expressions by `reply`."""
        self._refusals.append(_Refusal(reply, method, path, times, done))

    def made(self, method: str) -> list[str]:
        """The paths that were asked for by `method`."""
        return [request.path for request in self.requests if request.method == method]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        request = Request(
            handler.command,
            unquote(parts.path),
            [unquote(part) for part in parts.path.split("/") if part],
            dict(parse_qsl(parts.query)),
            dict(handler.headers.items()),
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0)),
        )
        with self._lock:
            self.requests.append(request)
            reply = self._reply(request)
        if reply.status == -1:
            self._closing.wait()
        if reply.status <= 0:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", reply.kind)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body)

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _reply(self, request: Request) -> Reply:
        for refusal in self._refusals:
            fits = re.fullmatch(refusal.method, request.method) and re.fullmatch(
                refusal.path, request.path
            )
            if refusal.times and fits:
                refusal.times -= 1
                if refusal.done:
                    self._answer(request)
                return refusal.reply
        return self._answer(request)


@contextlib.contextmanager
def standing_in(
    answer: Callable[[Request], Reply], context: ssl.SSLContext | None = None
) -> Iterator[StandIn]:
    """A server on a free port of the loopback, with TLS where there is a `context`."""
    server = StandIn(answer, context)
    try:
        yield server
    finally:
        server.close()
