"""Operations on cgroup directories, on this host's real cgroup2."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.launch_support import (
    PYTHON,
    SLEEP,
    Fifo,
    real_mount,
    relay_bomb,
    remove_by_hand,
    runs,
    stuck_in_the_kernel,
    wait_until_empty,
)

from worker_sidecar.errors import InputOutputError, KillFailedError, RefusedError
from worker_sidecar.launch import cgroup

DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); {ready}; time.sleep(1000)"


@pytest.fixture
def directory() -> Iterator[str]:
    path = f"{real_mount()}/cgrouptest{os.getpid()}"
    os.mkdir(path)
    try:
        yield path
    finally:
        remove_by_hand(path)


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def put(
    directory: str, started: list["subprocess.Popen[bytes]"], argv: tuple[str, ...] = SLEEP
) -> "subprocess.Popen[bytes]":
    """A process in the cgroup before its first instruction."""
    join = f'echo 0 > {directory}/cgroup.procs && exec "$@"'
    process = subprocess.Popen(["sh", "-c", join, "sh", *argv])
    started.append(process)
    while process.pid not in cgroup.pids(directory):
        assert process.poll() is None
    return process


def test_populated_follows_the_kernel(
    directory: str, started: list["subprocess.Popen[bytes]"]
) -> None:
    assert not cgroup.populated(directory)
    os.mkdir(f"{directory}/below")
    process = put(f"{directory}/below", started)
    assert cgroup.populated(directory)
    assert cgroup.pids(directory) == [process.pid]
    process.kill()
    process.wait()
    assert cgroup.wait_empty(directory, 10)
    assert not cgroup.populated(directory)


def test_what_is_gone_is_empty(directory: str) -> None:
    gone = f"{directory}/gone"
    assert not cgroup.populated(gone)
    assert cgroup.wait_empty(gone, 0)
    assert cgroup.pids(gone) == []
    assert cgroup.attributes(gone) == {}
    assert cgroup.end(gone, 0) is False
    cgroup.kill(gone)
    cgroup.remove(gone)


def test_wait_empty_wakes_at_once_and_gives_up_in_time(
    directory: str, started: list["subprocess.Popen[bytes]"]
) -> None:
    process = put(directory, started)
    assert not cgroup.wait_empty(directory, 0.05)
    killer = threading.Timer(0.2, process.kill)
    killer.start()
    before = time.monotonic()
    assert cgroup.wait_empty(directory, 60)
    assert time.monotonic() - before < 30
    killer.join()


def test_wait_empty_ends_when_the_cgroup_is_removed_at_once(
    directory: str, started: list["subprocess.Popen[bytes]"]
) -> None:
    """The kernel says nothing then: its notification comes 10 ms late, to a file that is gone."""
    path = f"{directory}/worker"
    for _ in range(10):
        os.mkdir(path)
        process = put(path, started)
        waits = threading.Thread(target=cgroup.wait_empty, args=(path, 600), daemon=True)
        waits.start()
        process.kill()
        process.wait()
        cgroup.remove(path)
        waits.join(20)
        assert not waits.is_alive()


def test_end_is_polite_first(directory: str, started: list["subprocess.Popen[bytes]"]) -> None:
    process = put(directory, started)
    assert cgroup.end(directory, 20) is False
    assert process.wait() == -signal.SIGTERM


def test_end_kills_the_deaf(
    directory: str, started: list["subprocess.Popen[bytes]"], fifo: Fifo
) -> None:
    ready = f"open({fifo.path!r}, 'w').write('ready')"
    process = put(directory, started, (*PYTHON, DEAF.format(ready=ready)))
    fifo.line()
    assert cgroup.end(directory, 0.1) is True
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("inner", ["", "/below"])
def test_a_frozen_worker_still_ends_politely(
    directory: str, started: list["subprocess.Popen[bytes]"], fifo: Fifo, inner: str
) -> None:
    """A frozen process handles no TERM before it runs again."""
    os.makedirs(directory + inner, exist_ok=True)
    code = f"""if True:
        import os, signal, time
        out = os.open({fifo.path!r}, os.O_WRONLY)
        signal.signal(signal.SIGTERM, lambda *_: (os.write(out, b"asked"), os._exit(7)))
        os.write(out, b"ready")
        time.sleep(1000)
    """
    process = put(directory + inner, started, (*PYTHON, code))
    fifo.line()
    Path(directory + inner, "cgroup.freeze").write_text("1")
    assert cgroup.end(directory, 20) is False
    assert fifo.line() == "asked"
    assert process.wait() == 7


def test_a_stopped_process_still_ends_politely(
    directory: str, started: list["subprocess.Popen[bytes]"]
) -> None:
    process = put(directory, started)
    process.send_signal(signal.SIGSTOP)
    assert cgroup.end(directory, 20) is False
    assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("modern", [True, False])
def test_a_fork_bomb_loses(
    directory: str,
    started: list["subprocess.Popen[bytes]"],
    fifo: Fifo,
    monkeypatch: pytest.MonkeyPatch,
    modern: bool,
) -> None:
    """Processes that replace themselves all the time; also without cgroup.kill, as before Linux
    5.14.
    """
    if not modern:
        monkeypatch.setattr(cgroup, "KILL_FILE", "cgroup.no-such-file")
    bomb = relay_bomb(fifo, 60123, 20)
    put(directory, started, ("/usr/bin/python3", "-I", "-S", "-c", bomb))
    fifo.times("ready", 20)
    assert cgroup.end(directory, 0.1) is True
    assert not cgroup.populated(directory)
    cgroup.remove(directory)


def test_without_cgroup_kill_none_runs_while_each_is_killed(
    directory: str, started: list["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that forks could get away."""
    monkeypatch.setattr(cgroup, "KILL_FILE", "cgroup.no-such-file")
    process = put(directory, started)
    seen: list[str] = []
    real = cgroup._signal_each

    def signal_each(path: str) -> None:
        seen.append(Path(path, "cgroup.freeze").read_text().strip())
        real(path)

    monkeypatch.setattr(cgroup, "_signal_each", signal_each)
    cgroup.kill(directory)
    assert process.wait() == -signal.SIGKILL
    assert set(seen) == {"1"}
    assert Path(directory, "cgroup.freeze").read_text().strip() == "0"


def test_processes_in_uninterruptible_sleep_are_named(
    directory: str, started: list["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = put(directory, started)
    monkeypatch.setattr(cgroup, "KILL_PATIENCE", 0.2)
    with stuck_in_the_kernel(process.pid) as release:
        assert cgroup.stuck(directory) == [process.pid]
        with pytest.raises(KillFailedError, match=f"zombie worker: {process.pid} .*sleep"):
            cgroup.end(directory, 0.1)
        assert cgroup.populated(directory)
        release()
        wait_until_empty(directory)
    assert process.wait() in (-signal.SIGTERM, -signal.SIGKILL)


def test_nobody_ends_itself(directory: str) -> None:
    code = f"""if True:
        from worker_sidecar.launch import cgroup
        try:
            cgroup.end({directory!r}, 1)
        except Exception as error:
            print(type(error).__name__)
    """
    join = f'echo 0 > {directory}/cgroup.procs && exec "$@"'
    said = subprocess.check_output(["sh", "-c", join, "sh", sys.executable, "-c", code], text=True)
    assert said.strip() == RefusedError.__name__


def test_remove_takes_the_whole_tree(directory: str) -> None:
    os.makedirs(f"{directory}/a/b")
    os.makedirs(f"{directory}/c")
    cgroup.remove(directory)
    assert not os.path.exists(directory)


def test_remove_refuses_what_lives(
    directory: str, started: list["subprocess.Popen[bytes]"]
) -> None:
    os.mkdir(f"{directory}/below")
    process = put(f"{directory}/below", started)
    with pytest.raises(InputOutputError, match=f"processes {process.pid} live in it"):
        cgroup.remove(directory)
    assert runs(process.pid)


def test_attributes_are_ours_alone(directory: str) -> None:
    os.setxattr(directory, "user.worker.model", "ä".encode())
    os.setxattr(directory, "user.other", b"x")
    os.setxattr(directory, "user.worker.bad", b"\xff")
    assert cgroup.attributes(directory) == {"model": "ä", "bad": "�"}


def test_a_lock_keeps_others_out(directory: str) -> None:
    """Another descriptor, as another thread or process has."""
    with cgroup.locked(directory):
        other = os.open(directory, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
    with cgroup.locked(directory):
        pass


def test_a_lock_waits_for_its_turn(directory: str) -> None:
    order: list[str] = []

    def second() -> None:
        with cgroup.locked(directory):
            order.append("second")

    with cgroup.locked(directory):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_a_lock_on_a_directory_made_anew_is_on_the_new_one(directory: str) -> None:
    path = f"{directory}/worker"
    os.mkdir(path)
    old = os.stat(path).st_ino
    found: list[int] = []

    def second() -> None:
        with cgroup.locked(path) as descriptor:
            found.append(os.fstat(descriptor).st_ino)

    with cgroup.locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        os.rmdir(path)
        os.mkdir(path)
        new = os.stat(path).st_ino
    thread.join(20)
    assert found == [new]
    assert new != old


def test_a_directory_made_anew_between_open_and_lock_is_noticed(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{directory}/worker"
    os.mkdir(path)
    real, calls = fcntl.flock, [path]

    def flock(descriptor: int, operation: int) -> None:
        if calls:
            os.rmdir(path)
            os.mkdir(calls.pop())
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with cgroup.locked(path) as descriptor:
        assert os.fstat(descriptor).st_ino == os.stat(path).st_ino
    assert calls == []


def test_a_lock_that_is_never_let_go_of_is_an_error(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "LOCK_PATIENCE", 0.1)
    with (
        cgroup.locked(directory),
        pytest.raises(InputOutputError, match="stays locked by another process"),
        cgroup.locked(directory),
    ):
        pass


def test_a_lock_on_nothing_is_file_not_found(directory: str) -> None:
    with pytest.raises(FileNotFoundError), cgroup.locked(f"{directory}/gone"):
        pass
