"""A stand-in for Docker's daemon on a Unix socket, for the faults a real one has too seldom."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}
INFO = {
    "CgroupDriver": "cgroupfs",
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=default", "name=cgroupns"],
}
ID = "5e1f" * 16


@dataclass(frozen=True)
class Request:
    """One request, its path without the version."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any

    @property
    def name(self) -> str:
        """ "POST /containers/create"."""
        return f"{self.method} {self.path}"


Answer = tuple[int, Any]
Route = Callable[[Request], Answer | bytes]


@dataclass
class StandIn:
    """Answers a request by the route that its name begins with, 404 without one, and keeps it.

    A route gives the status and what becomes JSON, or the bytes of a whole answer.
    """

    socket: str
    routes: dict[str, Route]
    requests: list[Request] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def names(self) -> list[str]:
        """What was asked for, in its order, without the questions before every action."""
        asked = [request.name for request in self.requests]
        return [name for name in asked if name not in ("GET /version", "GET /info")]

    def hang(self, _: Request) -> Answer:
        """A route that gives no answer."""
        self.closing.wait(60)
        return 500, {}


class Memory:
    """The containers of a daemon that works: what was made, and runs unless it was stopped."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    @property
    def routes(self) -> dict[str, Route]:
        """What a daemon with the cgroupfs driver answers."""
        return {
            "GET /version": lambda _: (200, VERSION),
            "GET /info": lambda _: (200, INFO),
            "GET /images/": lambda _: (200, {"Config": {"User": ""}}),
            "GET /containers/json": self._list,
            "GET /containers/": self._inspect,
            "POST /containers/create": self._create,
            "POST /containers/": self._act,
            "DELETE /containers/": self._remove,
        }

    def _list(self, request: Request) -> Answer:
        wanted = set(json.loads(request.query["filters"][0])["label"])
        return 200, [
            {"Id": container}
            for container, made in self.made.items()
            if wanted <= {f"{key}={value}" for key, value in made["Config"]["Labels"].items()}
        ]

    def _inspect(self, request: Request) -> Answer:
        made = self.made.get(request.path.split("/")[2])
        return (200, made) if made else (404, {"message": "No such container"})

    def _create(self, request: Request) -> Answer:
        (name,) = request.query["name"]
        with self._lock:
            if any(made["Name"] == f"/{name}" for made in self.made.values()):
                return 409, {"message": f"Conflict. The container name /{name} is in use"}
            container = f"{len(self.made):064x}"
            self.made[container] = {
                "Id": container,
                "Name": f"/{name}",
                "RestartCount": 0,
                "Config": {"Labels": request.body["Labels"]},
                "HostConfig": request.body["HostConfig"],
                "State": {"Status": "created", "ExitCode": 0, "Pid": 0},
            }
        return 201, {"Id": container, "Warnings": []}

    def _act(self, request: Request) -> Answer:
        _, _, container, action = request.path.split("/")
        state = self.made[container]["State"]
        if action == "start":
            state.update(Status="running", Pid=4242, StartedAt="2026-01-02T03:04:05.678901234Z")
        elif state["Status"] != "running":
            return (304, None) if action == "stop" else (409, {"message": "is not running"})
        else:
            code = 137 if action == "kill" else 0
            state.update(Status="exited", Pid=0, ExitCode=code)
        return 204, None

    def _remove(self, request: Request) -> Answer:
        del self.made[request.path.split("/")[2]]
        return 204, None


@contextmanager
def stand_in(folder: Path, routes: dict[str, Route]) -> Iterator[StandIn]:
    """The stand-in, which serves until the context ends."""
    server = StandIn(str(folder / "docker.sock"), routes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            request = _request(server, self)
            server.requests.append(request)
            # the longest name that fits is the most exact one
            fitting = sorted(filter(request.name.startswith, server.routes), key=len)
            route = server.routes[fitting[-1]] if fitting else _nothing
            answer = route(request)
            if isinstance(answer, bytes):
                self.wfile.write(answer)
                self.close_connection = True
                return
            status, content = answer
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """A client that went away is none of ours."""

    with Server(server.socket, Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            listener.shutdown()
            thread.join()


def _request(server: StandIn, handler: BaseHTTPRequestHandler) -> Request:
    parts = urlsplit(handler.path)
    prefix, path = "", parts.path
    if path.startswith("/v1."):
        _, version, rest = path.split("/", 2)
        prefix, path = f"/{version}", f"/{rest}"
    server.prefixes.add(prefix)
    length = int(handler.headers.get("Content-Length") or 0)
    content = handler.rfile.read(length)
    body = json.loads(content) if content else None
    return Request(handler.command, unquote(path), parse_qs(parts.query), body)


def _nothing(_: Request) -> Answer:
    return 404, {"message": "page not found"}
