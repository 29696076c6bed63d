"""Docker's daemon, asked over its Unix socket: the Engine API, without the docker program."""

import http.client
import json
import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from worker_sidecar.errors import InputOutputError, RefusedError
from worker_sidecar.launch.docker.output import ContainerLog

SOCKET = "/var/run/docker.sock"

DEADLINE = 20.0
"""Seconds for an answer that costs the daemon little."""

WORK_DEADLINE = 120.0
"""Seconds for making, starting or removing a container: a busy disk takes its time."""

_WANTED = (1, 41)
"""The API version spoken where the daemon takes it: of Docker 20.10, the first with cgroup v2."""

_ANSWER_BYTES = 64 << 20
_ID = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")

Json = dict[str, Any]


class DaemonError(InputOutputError):
    """The daemon answered with an error; `code` is the HTTP status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that answered, and the prefix of the API version it takes ("/v1.41").

    Every method raises DaemonError, or InputOutputError where there is no answer in time.
    """

    socket: str
    prefix: str

    def info(self) -> Json:
        """GET /info."""
        return _object(self._ask("GET", "/info"))

    def containers(self, labels: Mapping[str, str]) -> Sequence[str]:
        """GET /containers/json: the ids of those with all of `labels`, ended ones too."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        query = {"all": "1", "filters": json.dumps({"label": wanted})}
        found = self._ask("GET", "/containers/json", query)
        if not isinstance(found, list):
            raise _nonsense(self.socket)
        return [self._id(item) for item in found]

    def inspect(self, container: str) -> Json | None:
        """GET /containers/{id}/json; None where there is no such container."""
        return self._get(f"/containers/{quote(container, safe='')}/json")

    def image(self, name: str) -> Json | None:
        """GET /images/{name}/json; None where the daemon does not have it."""
        return self._get(f"/images/{quote(name)}/json")

    def create(self, name: str, body: Json) -> str:
        """POST /containers/create; the id of the new container."""
        path = "/containers/create"
        return self._id(self._ask("POST", path, {"name": name}, body, WORK_DEADLINE))

    def start(self, container: str) -> None:
        """POST /containers/{id}/start."""
        self._ask("POST", f"/containers/{container}/start", deadline=WORK_DEADLINE)

    def stop(self, container: str, grace: float) -> None:
        """POST /containers/{id}/stop; one that is not there, or does not run, is fine."""
        seconds = math.ceil(min(grace, 2**31 - 1))
        query = {"t": str(seconds)}
        path = f"/containers/{container}/stop"
        self._ask("POST", path, query, deadline=seconds + WORK_DEADLINE, fine=(304, 404))

    def kill(self, container: str) -> None:
        """POST /containers/{id}/kill; one that is not there, or does not run, is fine."""
        path = f"/containers/{container}/kill"
        self._ask("POST", path, deadline=WORK_DEADLINE, fine=(404, 409))

    def remove(self, container: str) -> None:
        """DELETE /containers/{id}, whether it runs or not; one that is not there is fine."""
        path = f"/containers/{container}"
        query = {"force": "1", "v": "1"}
        # 409: it is being removed already
        self._ask("DELETE", path, query, deadline=WORK_DEADLINE, fine=(404, 409))

    def logs(self, container: str, lines: int, since: str, *, follow: bool) -> ContainerLog:
        """GET /containers/{id}/logs; `since` is "" or seconds since the epoch with a fraction."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines), "follow": str(int(follow))}
        path = f"{self.prefix}/containers/{container}/logs"
        connection = _Connection(self.socket, DEADLINE)
        try:
            response = _sent(connection, "GET", _target(path, {**query, "since": since}), None)
            if response.status != 200:
                raise _refused(self.socket, response.status, _content(response, self.socket))
        except BaseException:
            connection.close()
            raise
        return ContainerLog(connection.sock, response)

    def _get(self, path: str) -> Json | None:
        try:
            return _object(self._ask("GET", path))
        except DaemonError as error:
            if error.code == 404:
                return None
            raise

    def _id(self, answer: object) -> str:
        found = _object(answer).get("Id")
        # it becomes part of a path
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise _nonsense(self.socket)
        return found

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        deadline: float = DEADLINE,
        fine: tuple[int, ...] = (),
    ) -> object:
        target = _target(self.prefix + path, query or {})
        return _ask(self.socket, method, target, body, deadline, fine)


def connect(socket: str) -> Daemon:
    """The daemon behind `socket`, in an API version that both sides know (GET /version).

    Raises InputOutputError where it does not answer, RefusedError where it is too old.
    """
    said = _object(_ask(socket, "GET", "/version", None, DEADLINE, ()))
    newest, oldest = _version(said.get("ApiVersion")), _version(said.get("MinAPIVersion"))
    if newest is None:
        raise _nonsense(socket)
    if newest < _WANTED:
        raise RefusedError(
            f"the Docker daemon on {socket} speaks API {newest[0]}.{newest[1]}, which knows no "
            f"cgroup v2: Docker 20.10 or newer is needed"
        )
    major, minor = max(_WANTED, oldest or _WANTED)
    return Daemon(socket, f"/v{major}.{minor}")


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    sock: socket.socket

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


def _ask(
    socket: str, method: str, target: str, body: Json | None, deadline: float, fine: tuple[int, ...]
) -> object:
    """The JSON of an answer; {} for an empty one, and for an error that is `fine`."""
    with closing(_Connection(socket, deadline)) as connection:
        end = time.monotonic() + deadline
        response = _sent(connection, method, target, body)
        content = _content(response, socket, end)
    if response.status in fine:
        return {}
    if response.status >= 300:
        raise _refused(socket, response.status, content)
    try:
        return json.loads(content) if content else {}
    except ValueError as error:
        raise _nonsense(socket) from error


def _sent(
    connection: _Connection, method: str, target: str, body: Json | None
) -> http.client.HTTPResponse:
    content = None if body is None else json.dumps(body).encode()
    headers = {} if content is None else {"Content-Type": "application/json"}
    try:
        connection.request(method, target, content, headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(connection._path, error) from error


def _content(response: http.client.HTTPResponse, socket: str, end: float = math.inf) -> bytes:
    """The whole body, read until `end` on the monotonic clock at the latest."""
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if size > _ANSWER_BYTES:
                raise _nonsense(socket)
            if time.monotonic() > end:
                raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(socket, error) from error
    return b"".join(pieces)


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _object(answer: object) -> Json:
    return answer if isinstance(answer, dict) else {}


def _version(text: object) -> tuple[int, int] | None:
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _refused(socket: str, code: int, content: bytes) -> DaemonError:
    """The daemon's own words, in one line."""
    message = content.decode(errors="replace")
    with suppress(ValueError, AttributeError):
        message = str(json.loads(content).get("message", message))
    said = " ".join(message.split())[:1000] or "no reason given"
    return DaemonError(f"Docker says: {said} (HTTP {code})" if code >= 500 else said, code)


def _unreachable(socket: str, error: Exception) -> InputOutputError:
    if isinstance(error, TimeoutError):
        return InputOutputError(f"the Docker daemon on {socket} does not answer in time")
    if isinstance(error, FileNotFoundError):
        return InputOutputError(f"there is no Docker daemon: {socket} does not exist")
    if isinstance(error, PermissionError):
        return InputOutputError(
            f"no permission to use {socket}: be root or in the group docker (uid {os.geteuid()})"
        )
    if isinstance(error, ConnectionRefusedError):
        return InputOutputError(f"no Docker daemon listens on {socket}; is docker.service up?")
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputOutputError(f"the Docker daemon on {socket} broke off: {reason}")


def _nonsense(socket: str) -> InputOutputError:
    return InputOutputError(f"what answers on {socket} is no Docker daemon: its answer is not JSON")
