"""`worker-sidecar demo` from start to end: real workers, the real exporter, nothing left."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools import missing

from worker_exporter.cgroup.mount import Mount
from worker_exporter.errors import UserError
from worker_sidecar.demo import run as demo
from worker_sidecar.errors import InputError
from worker_sidecar.launch import best
from worker_sidecar.launch.launcher import Launcher, WorkerSpec
from worker_sidecar.launch.site import Site

SLICE = f"demo_test{os.getpid()}.slice"
WORKERS = {
    ("idle", "main"),
    ("ingest", "main"),
    ("llm", "8080"),
    ("llm", "8081"),
    ("trainer", "main"),
}


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """The launcher the demo will take, to look at what it does; at the end nothing may be left."""
    site = demo.site_of(SLICE, str(tmp_path))
    choice = best.choose(site)
    if not choice.monitored:
        missing(choice.reason)
    try:
        yield choice.launcher
        assert not list(choice.launcher.list())
        assert not left(site)
    finally:
        choice.launcher.down(grace=0)


def left(site: Site) -> list[str]:
    """The cgroups of the demo that are still there."""
    return [directory for directory in demo.directories(site) if os.path.exists(directory)]


class Running:
    """A demo in a process of its own, its output read line by line."""

    def __init__(self, *arguments: str, module: str = "worker_sidecar") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "demo", f"--slice={SLICE}", "--port=0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until a line matches `pattern`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not select.select([self.process.stdout], [], [], 60)[0]:
                break
            line = self.process.stdout.readline()
            self.said += line
            match = re.search(pattern, line)
            if match:
                return match
            if not line:
                break
        pytest.fail(f"the demo never said {pattern!r}:\n{self.said}")

    def end(self) -> int:
        assert self.process.stdout is not None
        limit = threading.Timer(60, self.process.kill)
        limit.start()
        try:
            self.said += self.process.stdout.read()
            return self.process.wait()
        finally:
            limit.cancel()


@pytest.fixture
def running() -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.wait()
        if each.process.stdout is not None:
            each.process.stdout.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_gone(pid: int) -> None:
    """Wait for a process that is not our child, by its pidfd."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 30)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


def table_rows(said: str) -> list[list[str]]:
    """The rows of the last table."""
    last = said.rpartition("SERVICE ")[2].splitlines()[1:]
    rows = []
    for line in last:
        if not line.strip():
            break
        rows.append(line.split())
    return rows


def test_it_shows_moving_figures_and_leaves_nothing(
    launcher: Launcher, running: list[Running]
) -> None:
    running.append(demo_run := Running("--duration=5"))
    assert demo_run.end() == 0, demo_run.said
    rows = table_rows(demo_run.said)
    assert {(row[0], row[1]) for row in rows} == WORKERS, demo_run.said
    cpu = {(row[0], row[1]): row[2] for row in rows}
    # the trainer works a fifth of the time (less where others want the CPU), the idle one never
    assert 0.5 < float(cpu["trainer", "main"]) < 60.0, demo_run.said
    assert float(cpu["idle", "main"]) < 0.5, demo_run.said
    rss = {(row[0], row[1]): row[3:5] for row in rows}
    # between the interpreter alone and the trainer's 128 MiB on top of it
    assert rss["trainer", "main"][1] == "MiB"
    assert 16 <= float(rss["trainer", "main"][0]) <= 160, demo_run.said
    assert rss["idle", "main"][1] == "MiB"
    assert float(rss["idle", "main"][0]) < 30, demo_run.said
    assert demo_run.said.endswith("every cgroup of the demo removed.\n")
    assert not left(demo.site_of(SLICE, ""))


def test_the_exporter_it_starts_is_real(launcher: Launcher, running: list[Running]) -> None:
    running.append(demo_run := Running())
    url = demo_run.until(r"or (http\S+/metrics);")[1]
    demo_run.until("^trainer")
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    samples = re.findall(r'^worker_up\{service="(\w+)",instance="(\w+)"\} 1$', text, re.M)
    assert set(samples) == WORKERS
    assert re.search(
        r'^worker_info\{[^}]*service="llm",instance="8080"[^}]*model="demo-7b"', text, re.M
    )
    [exporter] = children(demo_run.process.pid)

    demo_run.process.send_signal(signal.SIGTERM)
    assert demo_run.end() == 0, demo_run.said
    assert not left(demo.site_of(SLICE, ""))
    assert not is_there(exporter)


def test_ctrl_c_twice_still_cleans_up(launcher: Launcher, running: list[Running]) -> None:
    running.append(demo_run := Running())
    demo_run.until("^trainer")
    demo_run.process.send_signal(signal.SIGINT)
    demo_run.process.send_signal(signal.SIGINT)
    assert demo_run.end() == 0, demo_run.said
    assert "Traceback" not in demo_run.said
    assert not left(demo.site_of(SLICE, ""))


def test_after_sigkill_the_next_one_cleans_up_first(
    launcher: Launcher, running: list[Running]
) -> None:
    running.append(killed := Running())
    killed.until("^trainer")
    [exporter] = children(killed.process.pid)
    killed.process.kill()
    killed.process.wait()
    wait_gone(exporter)  # it follows the demo into death
    remaining = {(worker.service, worker.instance) for worker in launcher.list() if worker.alive}
    assert remaining == WORKERS

    running.append(again := Running("--duration=1"))
    assert again.end() == 0, again.said
    assert "Removed 5 workers that an earlier demo left behind." in again.said
    assert not left(demo.site_of(SLICE, ""))


def test_a_reader_that_goes_away_ends_the_demo(launcher: Launcher, running: list[Running]) -> None:
    running.append(demo_run := Running())
    demo_run.until("^trainer")
    assert demo_run.process.stdout is not None
    demo_run.process.stdout.close()
    assert demo_run.process.wait(60) == 141  # as by SIGPIPE
    assert not left(demo.site_of(SLICE, ""))


def test_a_busy_port_is_said_and_another_taken(launcher: Launcher, running: list[Running]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running.append(demo_run := Running("--duration=1", f"--port={port}"))
        assert demo_run.end() == 0, demo_run.said
    other = re.search(rf"Port {port} is busy; the exporter takes (\d+)\.", demo_run.said)
    assert other is not None, demo_run.said
    assert f"Open http://127.0.0.1:{other[1]}/ or" in demo_run.said


def test_what_no_demo_started_is_left_alone(launcher: Launcher, running: list[Running]) -> None:
    launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000")))
    running.append(demo_run := Running("--duration=1"))
    assert demo_run.end() == 1
    [line] = demo_run.said.splitlines()
    assert line.startswith("worker-sidecar: error: ")
    assert "holds processes that no demo started" in line
    assert [worker.alive for worker in launcher.list()] == [True]
    launcher.down(grace=0)


def test_a_second_demo_in_the_same_slice_is_refused(
    launcher: Launcher, running: list[Running]
) -> None:
    running.append(first := Running())
    first.until("^trainer")
    running.append(second := Running("--duration=1"))
    assert second.end() == 1
    assert "error: a demo already runs in" in second.said
    assert len([worker for worker in launcher.list() if worker.alive]) == len(WORKERS)
    first.process.terminate()
    assert first.end() == 0


def test_where_no_cgroup_can_be_made_it_is_simulated_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, for the host's own cgroups must be hidden from it."""

    def without_cgroup2() -> Mount:
        raise UserError("no cgroup2 is mounted, says the test")

    monkeypatch.setattr(best, "find_mount", without_cgroup2)
    demo.run(demo.Demo(slice_name=SLICE, port=0, duration=3))
    said = capsys.readouterr().out
    assert "No cgroup can be made on this host: " in said
    assert "no cgroup2 is mounted, says the test.\n" in said
    assert "SIMULATED workers" in said
    rows = table_rows(said)
    assert {(row[0], row[1]) for row in rows} == {(f"simulated_{s}", i) for s, i in WORKERS}
    cpu = {(row[0], row[1]): float(row[2]) for row in rows}
    assert 0 < cpu["simulated_trainer", "main"] <= 160
    rss = {(row[0], row[1]): row[3] for row in rows}
    assert 380 <= int(rss["simulated_llm", "8080"]) <= 460  # MiB, 420 within 5 %
    ingest = next(row for row in rows if row[0] == "simulated_ingest")
    # service, instance, cpu, rss and its unit, read and its unit
    assert ingest[6] == "MiB"
    assert 2.0 <= float(ingest[5]) <= 8.0  # 4 a second, by a clock that a busy host disturbs
    assert not [name for name in os.listdir(tempfile.gettempdir()) if SLICE in name]


def test_a_slice_that_is_not_the_demos_own_is_refused() -> None:
    with pytest.raises(InputError, match="the name must begin with demo"):
        demo.Demo(slice_name="worker.slice")
