"""The daemon's socket: answers that are wrong, late, or do not come."""

import os
import socket
import threading
from pathlib import Path

import pytest
from tests.unit.docker_support import INFO, VERSION, Memory, Route, stand_in

from worker_sidecar.errors import InputOutputError, RefusedError
from worker_sidecar.launch import docker
from worker_sidecar.launch.docker import daemon as daemon_module
from worker_sidecar.launch.docker.daemon import DaemonError, connect


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(daemon_module, "DEADLINE", 0.3)
    monkeypatch.setattr(daemon_module, "WORK_DEADLINE", 0.3)


def version(newest: str, oldest: str) -> dict[str, Route]:
    return {
        **Memory().routes,
        "GET /version": lambda _: (200, {"ApiVersion": newest, "MinAPIVersion": oldest}),
    }


@pytest.mark.parametrize(
    ("newest", "oldest", "prefix"),
    [("1.41", "1.12", "/v1.41"), ("1.43", "1.24", "/v1.41"), ("1.52", "1.44", "/v1.44")],
)
def test_the_api_version_is_one_that_both_know(
    tmp_path: Path, newest: str, oldest: str, prefix: str
) -> None:
    with stand_in(tmp_path, version(newest, oldest)) as server:
        assert connect(server.socket).containers({}) == []
    assert server.prefixes == {"", prefix}


def test_a_daemon_without_cgroup2_is_refused_by_its_version(tmp_path: Path) -> None:
    says = r"API 1\.40.*Docker 20\.10"
    with (
        stand_in(tmp_path, version("1.40", "1.12")) as server,
        pytest.raises(RefusedError, match=says),
    ):
        connect(server.socket)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"CgroupVersion": "1"}, "cgroup v1.*unified_cgroup_hierarchy"),
        ({"SecurityOptions": ["name=rootless"]}, "rootless"),
        ({"CgroupDriver": "none"}, "'none'.*native.cgroupdriver"),
    ],
)
def test_a_daemon_that_cannot_hold_workers(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    routes = {**Memory().routes, "GET /info": lambda _: (200, {**INFO, **changes})}
    with stand_in(tmp_path, routes) as server:
        with pytest.raises(RefusedError, match=says):
            docker.driver(server.socket)
        assert "\n" not in str(docker.unavailable(server.socket))


@pytest.mark.parametrize("name", ["systemd", "cgroupfs"])
def test_the_driver_is_the_daemons(tmp_path: Path, name: str) -> None:
    routes = {**Memory().routes, "GET /info": lambda _: (200, {**INFO, "CgroupDriver": name})}
    with stand_in(tmp_path, routes) as server:
        assert docker.driver(server.socket) == name
        assert docker.unavailable(server.socket) is None


def test_no_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    assert docker.unavailable(path) == f"there is no Docker daemon: {path} does not exist"


def test_nobody_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "left.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    assert f"no Docker daemon listens on {path}" in str(docker.unavailable(path))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object, path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    said = str(docker.unavailable("/run/x.sock"))
    assert said == (
        f"no permission to use /run/x.sock: be root or in the group docker (uid {os.geteuid()})"
    )


@pytest.mark.usefixtures("hasty")
def test_a_daemon_that_hangs_is_left_after_the_deadline(tmp_path: Path) -> None:
    with stand_in(tmp_path, {}) as server:
        server.routes["GET /version"] = server.hang
        with pytest.raises(InputOutputError, match="does not answer in time") as caught:
            connect(server.socket)
        assert server.socket in str(caught.value)


@pytest.mark.usefixtures("hasty")
def test_a_daemon_that_hangs_at_work_is_left_after_the_deadline(tmp_path: Path) -> None:
    with stand_in(tmp_path, Memory().routes) as server:
        server.routes["POST /containers/"] = server.hang
        daemon = connect(server.socket)
        for act in (daemon.start, daemon.kill, lambda name: daemon.stop(name, 0.0)):
            with pytest.raises(InputOutputError, match="does not answer in time"):
                act("x")


@pytest.mark.usefixtures("hasty")
def test_an_answer_that_never_ends_is_left_after_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "slow.sock")
        listener.bind(path)
        listener.listen()
        with Trickle(listener), pytest.raises(InputOutputError, match="not answer in time"):
            connect(path)


class Trickle:
    """Sends a byte of an answer every now and then, each well within a deadline."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self._done.wait(0.05):
                try:
                    client.sendall(b" ")
                except OSError:
                    return


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<p>", "its answer is not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "its answer is not JSON"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"A', "its answer is not JSON"),
        (b"SSH-2.0-OpenSSH\r\n", "broke off"),
        (b"", "broke off"),
    ],
)
def test_what_is_no_daemon_is_told_in_one_line(tmp_path: Path, answer: bytes, says: str) -> None:
    with (
        stand_in(tmp_path, {"GET /version": lambda _: answer}) as server,
        pytest.raises(InputOutputError, match=says) as caught,
    ):
        connect(server.socket)
    assert "\n" not in str(caught.value) and server.socket in str(caught.value)


def test_an_answer_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_module, "_ANSWER_BYTES", 1000)
    routes: dict[str, Route] = {"GET /version": lambda _: (200, {**VERSION, "x": "y" * 2000})}
    with stand_in(tmp_path, routes) as server, pytest.raises(InputOutputError):
        connect(server.socket)


@pytest.mark.parametrize(
    ("code", "said", "message"),
    [
        (500, {"message": "driver failed:\n  no space"}, "driver failed: no space"),
        (500, "boom", "boom"),
        (400, {"message": "invalid CPU quota"}, "invalid CPU quota"),
        (503, None, "no reason given"),
    ],
)
def test_the_daemons_error_is_one_line(
    tmp_path: Path, code: int, said: object, message: str
) -> None:
    routes = {**Memory().routes, "POST /containers/create": lambda _: (code, said)}
    with stand_in(tmp_path, routes) as server, pytest.raises(DaemonError) as caught:
        connect(server.socket).create("x", {})
    assert caught.value.code == code
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_gone_needs_no_end(tmp_path: Path) -> None:
    with stand_in(tmp_path, {"GET /version": lambda _: (200, VERSION)}) as server:
        daemon = connect(server.socket)
        daemon.stop("x", 1.0)
        daemon.kill("x")
        daemon.remove("x")
        assert daemon.inspect("x") is None
        assert daemon.image("x") is None


def test_a_grace_is_whole_seconds_and_never_less(tmp_path: Path) -> None:
    with stand_in(tmp_path, {"GET /version": lambda _: (200, VERSION)}) as server:
        daemon = connect(server.socket)
        for grace in (0.0, 0.2, 5.0):
            daemon.stop("x", grace)
    asked = [request.query["t"] for request in server.requests if request.method == "POST"]
    assert asked == [["0"], ["1"], ["5"]]


def test_an_image_is_asked_for_by_its_whole_name(tmp_path: Path) -> None:
    with stand_in(tmp_path, Memory().routes) as server:
        assert connect(server.socket).image("reg.io:5000/a/b:c") is not None
    assert server.names == ["GET /images/reg.io:5000/a/b:c/json"]


@pytest.mark.parametrize("content", [{}, [], {"Id": 5}, {"Id": "../x"}])
def test_a_container_without_an_id_is_nonsense(tmp_path: Path, content: object) -> None:
    routes = {
        **Memory().routes,
        "POST /containers/create": lambda _: (201, content),
        "GET /containers/json": lambda _: (200, [content]),
    }
    with stand_in(tmp_path, routes) as server:
        daemon = connect(server.socket)
        with pytest.raises(InputOutputError, match="no Docker daemon"):
            daemon.create("x", {})
        with pytest.raises(InputOutputError, match="no Docker daemon"):
            daemon.containers({})
