"""`worker-sidecar serve`, the real program, with workers in this host's real cgroup2."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from tests.real.serving import (
    PATIENCE,
    WORKERS,
    Ground,
    Server,
    asked,
    bearer,
    eventually,
    made_ground,
)
from tests.tools import require

from worker_exporter.cgroup.mount import find_mount
from worker_sidecar.api.unix import locked
from worker_sidecar.errors import RefusedError

SLICE = f"servetest{os.getpid()}.slice"

LLM = {"service": "llm", "instance": "one"}


def workers_file(*instances: str, probe: str = "") -> str:
    declared = "".join(f"      {name}: {{}}\n" for name in instances) or "      {}\n"
    return (
        f"slice: {SLICE}\nservices:\n  llm:\n    command: [sleep, '1000']\n    user: root\n{probe}"
        f"    instances:\n{declared}"
        "  talk:\n    command: [sh, -c, 'while echo line; do sleep 0.01; done']\n    user: root\n"
    )


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with made_ground(tmp_path, SLICE, workers_file("one", "two")) as ground:
        yield ground


def applied(server: Server, times: int = 1) -> None:
    """Wait until workers.yaml was applied."""
    server.log.wait(r'msg="workers.yaml was applied"', times)


def states(server: Server) -> dict[str, str]:
    """The workers' states by instance."""
    _, listed = server.ask("GET", WORKERS)
    return {worker["instance"]: worker["state"] for worker in listed["workers"]}


def pids(server: Server) -> dict[str, int]:
    """The living workers' PIDs by instance."""
    _, listed = server.ask("GET", f"{WORKERS}?state=running")
    return {worker["instance"]: worker["pid"] for worker in listed["workers"]}


def desired(server: Server) -> dict[str, int]:
    """worker_desired by instance."""
    found = re.findall(
        r'^worker_desired{.*instance="(\w+)".*} (\d)', server.metrics(), re.MULTILINE
    )
    return {name: int(value) for name, value in found}


def started_lines(server: Server) -> list[str]:
    return [line for line in server.log.lines if 'msg="worker started"' in line]


def test_it_starts_what_is_declared_and_the_workers_outlive_it(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        assert states(server) == {"one": "running", "two": "running"}
        assert desired(server) == {"one": 1, "two": 1}
        first = pids(server)
        assert all(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in first.values())
        assert server.end() == 0
        assert not os.path.exists(server.socket)
    with ground.serving() as server:
        applied(server)
        assert pids(server) == first
        assert not [line for line in server.log.lines if 'msg="worker started"' in line]


def test_sigkill_at_any_moment_loses_nothing_and_starts_nothing_twice(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        server.ask("POST", WORKERS, {"service": "llm", "instance": "three"})
        first = pids(server)
        assert set(first) == {"one", "two", "three"}
        server.end(signal.SIGKILL)
        assert os.path.exists(server.socket)
    # In the middle of its work: as soon as it listens, while it applies.
    for _ in range(3):
        with ground.serving() as server:
            server.end(signal.SIGKILL)
    with ground.serving() as server:
        applied(server)
        assert pids(server) == first


def test_who_was_stopped_on_purpose_stays_stopped(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        assert server.ask("DELETE", f"{WORKERS}/llm/one")[0] == 200
        assert states(server) == {"one": "stopped", "two": "running"}
        assert desired(server) == {"one": 0, "two": 1}
        server.process.send_signal(signal.SIGHUP)
        applied(server, 2)
        assert states(server)["one"] == "stopped"
        server.end(signal.SIGKILL)
    with ground.serving() as server:
        applied(server)
        assert states(server)["one"] == "stopped"
        # Also when the command line did it, behind our back.
        assert ground.run("stop", "llm", "two").returncode == 0
        assert desired(server) == {"one": 0, "two": 0}
        assert server.ask("POST", WORKERS, LLM)[0] == 201
        assert desired(server) == {"one": 1, "two": 0}


def test_sighup_takes_a_new_file_over_and_a_bad_one_changes_nothing(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        first = pids(server)
        ground.file.write_text("slice: 7\nservices: nothing\n")
        server.process.send_signal(signal.SIGHUP)
        line = server.log.wait(r"level=error.*").string
        assert "last good one stays in force" in line and str(ground.file) in line
        assert server.ask("POST", WORKERS, LLM)[0] == 409
        ground.file.write_text(workers_file("one", "three"))
        server.process.send_signal(signal.SIGHUP)
        applied(server, 2)
        now = pids(server)
        assert now.pop("three") not in first.values() and now == first
        assert desired(server) == {"one": 1, "three": 1}


def test_a_second_one_on_the_same_socket_is_refused_and_steals_nothing(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        second = ground.run("serve", "--telemetry-address", "off")
        assert second.returncode == 4
        assert second.stderr.count("error:") == 1 and server.socket in second.stderr
        assert states(server) == {"one": "running", "two": "running"}


def test_ten_identical_starts_at_once_start_one_worker(ground: Ground) -> None:
    body = {"service": "llm", "instance": "ten"}
    with ground.serving() as server, ThreadPoolExecutor(10) as pool:
        applied(server)
        answers = list(pool.map(lambda _: server.ask("POST", WORKERS, body), range(10)))
        assert sorted(status for status, _ in answers) == [201] + [409] * 9
        assert {problem["error"] for status, problem in answers if status == 409} == {
            "already-running"
        }
        (worker,) = [problem for status, problem in answers if status == 201]
        assert pids(server)["ten"] == worker["pid"]
        server.log.wait(r"instance=ten.*status=201")
        server.log.wait(r"instance=ten.*status=409", 9)
        lines = [line for line in server.log.lines if "instance=ten" in line]
        assert sum("status=201" in line for line in lines) == 1
        assert sum("status=409" in line for line in lines) == 9


def test_stop_and_kill_leave_no_process_behind(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        first = pids(server)
        assert server.ask("DELETE", f"{WORKERS}/llm/one?grace=5")[1]["forced"] is False
        assert server.ask("POST", f"{WORKERS}/llm/two/kill")[1]["forced"] is True
        assert not any(runs(pid) for pid in first.values())
        assert server.ask("DELETE", f"{WORKERS}/llm/nobody")[0] == 404


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_another_user_is_refused_by_the_sockets_mode(ground: Ground) -> None:
    with ground.serving("--socket-group", "4711") as server:
        # That it is the mode, and not the way there, which refuses.
        for folder in (ground.folder, *list(ground.folder.parents)[:3]):
            if folder.owner() == "root" and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        assert os.stat(server.socket).st_mode & 0o777 == 0o660
        assert connects_as(server.socket, 65534, 65534) == "Permission denied"
        assert connects_as(server.socket, 65534, 4711) == "ok"


def connects_as(path: str, uid: int, gid: int) -> str:
    """What becomes of a connection by a process of that user and group."""
    program = (
        "import os, socket, sys\n"
        f"os.setgroups([]); os.setgid({gid}); os.setuid({uid})\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('ok')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, path], capture_output=True, text=True
    )
    return done.stdout.strip() or done.stderr


def test_the_audit_log_has_the_uid_and_pid_that_the_kernel_knows(ground: Ground) -> None:
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(4711); os.setuid(65534)\n"
        "client = socket.socket(socket.AF_UNIX); client.connect(sys.argv[1])\n"
        "client.send(b'POST /api/v1/workers/llm/one/kill HTTP/1.1\\r\\nHost: x\\r\\n"
        "Connection: close\\r\\n\\r\\n')\n"
        "print(client.recv(20), os.getpid())\n"
    )
    with ground.serving("--socket-group", "4711") as server:
        applied(server)
        for folder in (ground.folder, *list(ground.folder.parents)[:3]):
            if folder.owner() == "root" and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, server.socket],
            capture_output=True,
            text=True,
        )
        pid = done.stdout.split()[-1]
        line = server.log.wait(r'msg="api request".*').string
        assert f"uid=65534 pid={pid} " in line
        assert "service=llm instance=one" in line and "status=200" in line


def test_over_tcp_the_token_opens_and_nothing_else(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        ask = partial(asked, method="GET", path=WORKERS)
        assert ask(server.connect_tcp(server.tcp))[0] == 401
        assert ask(server.connect_tcp(server.tcp), headers=bearer("x" * 20))[0] == 401
        assert ask(server.connect_tcp(server.tcp), headers=bearer())[0] == 200
        ground.token.write_text("another-token-0123456789")
        assert ask(server.connect_tcp(server.tcp), headers=bearer())[0] == 401
        again = bearer("another-token-0123456789")
        assert ask(server.connect_tcp(server.tcp), headers=again)[0] == 200


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--listen-address", "127.0.0.1:0"), 2, "token"),
        (("--listen-address", "127.0.0.1:0", "--token-file", "/dev/null"), 2, "/dev/null"),
        (("--socket-group", "no-such-group"), 2, "no-such-group"),
        (("--socket", "/proc/x/api.sock"), 2, "/proc/x"),
        (("--telemetry-address", "192.0.2.1:1"), 1, "192.0.2.1"),
        (("--file", "/nothing.yaml"), 2, "/nothing.yaml"),
        (("--web.config.file", "/nothing.yml"), 1, "/nothing.yml"),
    ],
)
def test_bad_settings_are_one_line_and_start_nothing(
    ground: Ground, arguments: tuple[str, ...], code: int, word: str
) -> None:
    quiet = () if "--telemetry-address" in arguments else ("--telemetry-address", "off")
    done = ground.run("serve", *quiet, *arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("worker-sidecar: error")]
    assert (done.returncode, len(errors)) == (code, 1), done.stderr
    assert word in errors[0] and "Traceback" not in done.stderr
    assert not os.path.isdir(f"{find_mount().path}/{SLICE}/llm")


def test_a_signal_ends_it_with_connections_open_and_output_followed(ground: Ground) -> None:
    with ground.serving() as server, contextlib.ExitStack() as stack:
        applied(server)
        server.ask("POST", WORKERS, {"service": "talk", "instance": "1"})
        idle = stack.enter_context(contextlib.closing(server.connect()))
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        following = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(4)]
        answers = [follow(connection, "talk/1") for connection in following]
        for answer in answers:
            assert answer.readline() == b"line\n"
        silent = follow(stack.enter_context(contextlib.closing(server.connect())), "llm/one", 0)
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
        assert silent.read() == b""
        for answer in answers:
            answer.read()
    assert "Traceback" not in "".join(server.log.lines)


def follow(
    connection: http.client.HTTPConnection, worker: str, lines: int = 10
) -> http.client.HTTPResponse:
    connection.request("GET", f"{WORKERS}/{worker}/logs?follow=true&lines={lines}")
    response = connection.getresponse()
    assert response.status == 200
    return response


def test_followers_that_leave_leave_no_thread_and_no_descriptor(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        server.ask("GET", f"{WORKERS}/llm/one")
        before = held(server)
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(10):
                    connection = stack.enter_context(contextlib.closing(server.connect()))
                    follow(connection, "llm/one", 0)
        # All have gone when sixteen others find room.
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                stack.enter_context(contextlib.closing(room(server)))
        eventually(lambda: held(server) <= before, "as many descriptors and threads as before")


def held(server: Server) -> int:
    """How many descriptors and threads a sidecar has."""
    folder = f"/proc/{server.process.pid}"
    return len(os.listdir(f"{folder}/fd")) + len(os.listdir(f"{folder}/task"))


def room(server: Server) -> http.client.HTTPConnection:
    """A connection that follows a log, once there is room for it."""
    found: list[http.client.HTTPConnection] = []

    def has_room() -> bool:
        connection = server.connect()
        connection.request("GET", f"{WORKERS}/llm/one/logs?follow=true&lines=0")
        if connection.getresponse().status != 200:
            connection.close()
            return False
        found.append(connection)
        return True

    eventually(has_room, "room for one more follower")
    return found[0]


PROBE = "    health: {tcp: '127.0.0.1:%d', interval: 1s, timeout: 1s}\n"


class Answerer:
    """Counts the connections of probes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        self.came = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._socket.accept()[0].close()
                self.came.release()

    def seconds_for(self, probes: int) -> float:
        """How long it takes until so many more have come, from one of them on."""
        while self.came.acquire(blocking=False):
            pass
        assert self.came.acquire(timeout=PATIENCE)
        begun = time.monotonic()
        for _ in range(probes):
            assert self.came.acquire(timeout=PATIENCE)
        return time.monotonic() - begun

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_a_flood_is_refused_delays_no_probe_and_starts_nothing_twice(ground: Ground) -> None:
    with contextlib.closing(Answerer()) as answerer:
        ground.file.write_text(workers_file("one", probe=PROBE % answerer.port))
        with ground.serving() as server, ThreadPoolExecutor(8) as pool:
            applied(server)
            idle = answerer.seconds_for(4)
            over = threading.Event()
            floods = [pool.submit(flood, server, over) for _ in range(8)]
            flooded = answerer.seconds_for(4)
            probes = probe_count(server)
            over.set()
            statuses = [status for one in floods for status in one.result()]
        assert statuses.count(201) == 1
        assert set(statuses) <= {201, 409, 429, 503} and statuses.count(429) > 0
        assert flooded < 2 * idle
        assert probes["timeout"] == 0 and probes["error"] == 0 and probes["ready"] >= 8


def flood(server: Server, over: threading.Event) -> list[int]:
    """The status codes of as many starts of one worker as fit until `over`."""
    statuses = []
    body = json.dumps({"service": "llm", "instance": "flooded"})
    with contextlib.closing(server.connect()) as connection:
        while not over.is_set():
            connection.request("POST", WORKERS, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    return statuses


def probe_count(server: Server) -> dict[str, float]:
    found = re.findall(
        r'^worker_sidecar_probes_total{.*result="(\w+)".*} (\S+)', server.metrics(), re.MULTILINE
    )
    return {result: float(value) for result, value in found}


def test_the_probe_of_a_worker_started_by_request_is_written_on_its_cgroup(ground: Ground) -> None:
    with contextlib.closing(Answerer()) as answerer:
        ground.file.write_text(workers_file(probe=PROBE % answerer.port))
        with ground.serving() as server:
            applied(server)
            server.ask("POST", WORKERS, {"service": "llm", "instance": "asked"})
            server.log.wait(r'msg="worker is ready".*instance=asked')
            health = server.ask("GET", f"{WORKERS}/llm/asked")[1]["metadata"]["health"]
            assert re.fullmatch(r"1 \d+\.\d{3} 1", health), health
            server.end(signal.SIGKILL)
        with ground.serving() as server:
            server.log.wait(r'msg="worker is ready".*instance=asked')


def test_the_telemetry_listener_has_metrics_and_health_and_nothing_else(ground: Ground) -> None:
    with ground.serving() as server:
        applied(server)
        server.ask("GET", WORKERS)
        text = server.metrics()
        assert 'worker_sidecar_launches_total{result="started",service="llm"} 2.0' in text
        assert 'worker_sidecar_api_requests_total{code="200",method="GET"} 1.0' in text
        for path, status in (("/healthz", 200), ("/-/healthy", 200), (WORKERS, 404), ("/", 404)):
            with contextlib.closing(server.connect_tcp(server.telemetry)) as connection:
                connection.request("GET", path)
                assert connection.getresponse().status == status, path


def test_systemd_hears_of_it_and_passes_the_socket(ground: Ground) -> None:
    """As a unit with Type=notify and a socket unit: NOTIFY_SOCKET and LISTEN_FDS."""
    path = str(ground.folder / "passed.sock")
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        listening.bind(path)
        listening.listen()
        notify.bind(str(ground.folder / "notify"))
        notify.settimeout(PATIENCE)
        as_systemd_does = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
            "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])"
        )
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", as_systemd_does, str(listening.fileno())),
                *ground.command("serve", "--telemetry-address", "off"),
            ],
            env={
                **ground.environment,
                "LISTEN_FDS": "1",
                "NOTIFY_SOCKET": str(ground.folder / "notify"),
            },
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            assert notify.recv(100) == b"READY=1"
            server = Server(process, path, None)  # type: ignore[arg-type]
            assert server.ask("GET", "/healthz") == (200, {"status": "ok"})
            with pytest.raises(RefusedError), locked(path):
                pass
            process.send_signal(signal.SIGHUP)
            assert notify.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert notify.recv(100) == b"READY=1"
            process.terminate()
            assert notify.recv(100) == b"STOPPING=1"
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
        # It is systemd's, and stays for the next one.
        assert os.path.exists(path)


def test_tls_on_both_tcp_listeners(ground: Ground) -> None:
    openssl = require("openssl")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(ground.folder / "key"), "-out", str(ground.folder / "cert")),
        ],
        check=True,
        capture_output=True,
    )
    config = ground.folder / "web.yml"
    config.write_text("tls_server_config: {cert_file: cert, key_file: key}\n")
    context = ssl.create_default_context(cafile=str(ground.folder / "cert"))
    with ground.serving("--web.config.file", str(config)) as server:
        for port, path in ((server.tcp, WORKERS), (server.telemetry, "/metrics")):
            secure = http.client.HTTPSConnection("127.0.0.1", port, context=context)
            with contextlib.closing(secure) as connection:
                connection.request("GET", path, headers=bearer())
                assert connection.getresponse().status == 200
        assert server.ask("GET", "/healthz")[0] == 200
