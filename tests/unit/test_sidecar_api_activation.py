"""Sockets from systemd, passed by this test as systemd passes them."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from worker_sidecar.api.activation import Passed, passed_sockets

CHILD = """
import json, os, sys
# systemd knows the PID of its child; here only the child does.
os.environ["LISTEN_PID"] = sys.argv[1].replace("SELF", str(os.getpid()))
from worker_sidecar.api.activation import passed_sockets
from worker_sidecar.errors import InputError
try:
    passed = passed_sockets()
except InputError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
kept = [name for name in os.environ if name.startswith("LISTEN_")]
def shown(sockets):
    return [[one.fileno(), one.getsockname(), os.get_inheritable(one.fileno())] for one in sockets]
print(json.dumps({"api": shown(passed.api), "telemetry": shown(passed.telemetry), "kept": kept}))
"""


def child(*sockets: socket.socket, pid: str = "SELF", **environment: str) -> dict[str, Any]:
    """What a process makes of `sockets`, which it has from descriptor 3 on."""
    held = [os.dup(one.fileno()) for one in sockets]

    def arrange() -> None:
        # First out of the way: a descriptor may be where another has to go.
        for number, one in enumerate(held):
            os.dup2(one, 40 + number)
        for number in range(len(held)):
            os.dup2(40 + number, 3 + number)

    names = {"LISTEN_FDS": str(len(sockets)), **environment}
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, pid],
            env={**os.environ, **names},
            preexec_fn=arrange,
            close_fds=False,
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        for one in held:
            os.close(one)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def unix() -> Any:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()
        yield listening


@pytest.fixture
def tcp() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_sockets_are_taken_over_by_their_names(unix: socket.socket, tcp: socket.socket) -> None:
    seen = child(unix, tcp, LISTEN_FDNAMES="api.socket:telemetry")
    assert seen["api"] == [[3, unix.getsockname(), False]]
    assert seen["telemetry"] == [[4, list(tcp.getsockname()), False]]
    assert seen["kept"] == []


def test_without_names_all_are_for_the_api(unix: socket.socket, tcp: socket.socket) -> None:
    seen = child(unix, tcp)
    assert [one[0] for one in seen["api"]] == [3, 4] and seen["telemetry"] == []


def test_sockets_for_another_process_are_left_alone(unix: socket.socket) -> None:
    seen = child(unix, pid="1")
    assert (seen["api"], seen["telemetry"], seen["kept"]) == ([], [], [])


def test_what_does_not_listen_is_refused(unix: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        assert "descriptor 3" in child(datagrams)["error"]
    with socket.socket() as silent:
        assert "descriptor 4" in child(unix, silent)["error"]
    assert "descriptor 3" in child(LISTEN_FDS="1")["error"]


@pytest.mark.parametrize("count", ["", "-1", "x", "0"])
def test_no_sockets(count: str) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    assert passed_sockets(environment) == Passed()
    assert environment == {}
