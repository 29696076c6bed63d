"""Many launchers at once, and launchers that are killed, on this host's real cgroup2."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.real.launch_support import (
    PYTHON,
    SLEEP,
    Fifo,
    in_a_process,
    pids,
    wait_until_empty,
)

from worker_sidecar.errors import (
    AlreadyRunningError,
    NotFoundError,
)
from worker_sidecar.launch import cgroup, shim
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site

SLICE = f"racestest{os.getpid()}.slice"


def test_kill_overtakes_a_stop_that_waits(launcher: CgroupfsLauncher, fifo: Fifo) -> None:
    code = f"""if True:
        import os, signal, time
        out = os.open({fifo.path!r}, os.O_WRONLY)
        signal.signal(signal.SIGTERM, lambda *_: os.write(out, b"deaf"))
        os.write(out, b"ready")
        while True:
            time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    fifo.line()
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.append(launcher.stop("llm", "8080", grace=600).forced)
    )
    thread.start()
    assert fifo.line() == "deaf"
    assert launcher.kill("llm", "8080").forced is True
    thread.join(20)
    assert results == [False]
    assert launcher.list() == []


def test_of_ten_starts_at_once_one_starts(launcher: CgroupfsLauncher, site: Site) -> None:
    code = """
    sys.stdin.read()
    try:
        launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000")))
        print("started")
    except AlreadyRunningError:
        print("already running")
    """
    for _ in range(3):
        starters = [in_a_process(site, code, stdin=subprocess.PIPE) for _ in range(10)]
        for starter in starters:
            assert starter.stdin is not None
            starter.stdin.close()
            starter.stdin = None
        said = [starter.communicate(timeout=60)[0].strip() for starter in starters]
        assert sorted(said) == ["already running"] * 9 + ["started"]
        assert len(pids(launcher, "llm/8080")) == 1
        # the next round finds what an ended worker left
        os.kill(pids(launcher, "llm/8080")[0], signal.SIGKILL)
        wait_until_empty(f"{launcher.directory}/llm/8080")


def test_threads_start_and_stop_at_once(launcher: CgroupfsLauncher) -> None:
    """Whatever the order, each answer is one of those that are right, and none is left running
    twice.
    """
    odd: list[Exception] = []

    def repeat(action: str) -> None:
        for _ in range(20):
            try:
                if action == "start":
                    launcher.start(WorkerSpec("llm", "8080", SLEEP))
                else:
                    launcher.stop("llm", "8080", 20)
            except (AlreadyRunningError, NotFoundError):
                pass
            except Exception as error:
                odd.append(error)
            if os.path.isdir(f"{launcher.directory}/llm/8080"):
                assert len(cgroup.pids(f"{launcher.directory}/llm/8080")) <= 1

    threads = [threading.Thread(target=repeat, args=(a,)) for a in ("start", "stop") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert odd == []
    launcher.down()
    assert not os.path.exists(launcher.directory)


def test_a_starter_that_is_killed_leaves_its_lock_to_the_shim(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    """Else the next starter would find an empty cgroup, start, and two would run in it."""
    directory = f"{launcher.directory}/llm/8080"
    os.makedirs(directory)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with cgroup.locked(directory) as hold:
        # the shim waits for its environment, as one does whose starter was killed just then
        command = [sys.executable, "-I", "-S", shim.__file__, f"--hold={hold}"]
        options = [f"--output={tmp_path / 'out'}", f"--cgroup={directory}"]
        reading = os.open(gate, os.O_RDWR)
        process = subprocess.Popen(
            [*command, *options, "--", "/bin/sleep", "1000"],
            stdin=os.open(gate, os.O_RDONLY),
            stdout=subprocess.PIPE,
            pass_fds=(hold,),
        )
    results: list[str] = []

    def second() -> None:
        try:
            launcher.start(WorkerSpec("llm", "8080", SLEEP))
            results.append("started")
        except AlreadyRunningError:
            results.append("already running")

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.2)
    assert results == []
    os.close(reading)  # the last writer: the shim reads the end of its environment
    assert process.wait(20) == 0
    thread.join(20)
    assert results == ["already running"]
    assert len(cgroup.pids(directory)) == 1


def test_a_launcher_killed_at_any_moment_leaves_the_truth(
    launcher: CgroupfsLauncher, site: Site
) -> None:
    code = """
    print("ready", flush=True)
    while True:
        for act in (
            lambda: launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000"))),
            lambda: launcher.stop("llm", "8080", 5),
        ):
            try:
                act()
            except (AlreadyRunningError, NotFoundError):
                pass
    """
    for attempt in range(20):
        process = in_a_process(site, code)
        assert process.stdout is not None
        process.stdout.readline()
        # the moment is what is tested: one after the other through the 60 ms of a round
        time.sleep(0.003 * attempt)
        process.kill()
        process.communicate()
        directory = f"{launcher.directory}/llm/8080"
        # a shim may still be at work: its lock says so
        if os.path.isdir(directory):
            with cgroup.locked(directory):
                pass
        running = cgroup.pids(directory)
        assert len(running) <= 1
        states = [(status.alive, status.pid) for status in launcher.list()]
        if running:
            assert states == [(True, running[0])]
        else:
            assert states in ([], [(False, None)])
        if attempt % 2 and states:
            launcher.stop("llm", "8080")
            assert launcher.list() == []
        elif not running:
            assert launcher.start(WorkerSpec("llm", "8080", SLEEP)).alive
            assert len(cgroup.pids(directory)) == 1


def test_a_start_that_was_cut_short_does_not_block_the_next(launcher: CgroupfsLauncher) -> None:
    directory = f"{launcher.directory}/llm/8080"
    os.makedirs(directory)
    assert launcher.start(WorkerSpec("llm", "8080", SLEEP)).alive
    launcher.stop("llm", "8080")
    os.makedirs(directory)
    os.setxattr(directory, "user.worker.started", b"1.0")
    os.setxattr(directory, "user.worker.stale", b"1")
    assert launcher.start(WorkerSpec("llm", "8080", SLEEP)).metadata == {}
