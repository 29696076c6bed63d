"""Workers without a cgroup: found, told and ended by what their processes carry."""

import logging
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
    environ_of,
    runs,
    stuck_in_the_kernel,
)

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    KillFailedError,
    NotFoundError,
    RefusedError,
)
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.detached import DetachedLauncher
from worker_sidecar.launch.launcher import Launcher, Restart, State, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site

SLICE = f"detachedtest{os.getpid()}.slice"


def carriers() -> list[int]:
    """Processes that say in their environment that they are of this test, found without the
    launcher.
    """
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"WORKER_SIDECAR={SLICE}/" in Path(f"/proc/{name}/environ").read_text("latin-1"):
                found.append(int(name))
        except OSError:
            continue
    return [pid for pid in found if runs(pid)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(SLICE, None, str(tmp_path / "run"), str(tmp_path / "log"))


@pytest.fixture
def launcher(site: Site) -> Iterator[DetachedLauncher]:
    try:
        yield DetachedLauncher(site)
    finally:
        while left := carriers():
            for pid in left:
                os.kill(pid, signal.SIGKILL)


def test_a_worker_runs_and_is_said_to_be_unmonitored(
    launcher: DetachedLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(cpu=1.0, memory=2**30, tasks=5)
    spec = WorkerSpec("llm", "8080", SLEEP, metadata={"port": "8080"}, limits=limits)
    before = time.time()
    with caplog.at_level(logging.WARNING):
        status = launcher.start(spec)
    [warning] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "nothing monitors it" in warning.getMessage()

    protocol: Launcher = launcher
    assert protocol.name == status.launcher == "detached"
    assert status.pid is not None
    assert (status.state, status.cgroup, status.unit) == (State.RUNNING, None, None)
    assert set(status.unapplied) == {"cpu", "memory", "tasks", "swap"}
    assert status.metadata == {"port": "8080"}
    assert status.declaration == encode(spec)
    assert status.started is not None
    assert before - 0.02 <= status.started <= time.time()
    cmdline = Path(f"/proc/{status.pid}/cmdline").read_bytes()
    assert cmdline == b"sleep\0" + b"1000\0"
    assert os.getsid(status.pid) != os.getsid(0)
    assert environ_of(status.pid)["WORKER_SIDECAR"] == f"{SLICE}/llm@8080"
    assert [(s.name, s.pid) for s in launcher.list()] == [("llm/8080", status.pid)]
    assert launcher.status("llm", "8080").pid == status.pid

    assert launcher.stop("llm", "8080").forced is False
    assert not runs(status.pid)
    assert launcher.list() == []


def test_another_launcher_finds_it_again(launcher: DetachedLauncher, site: Site) -> None:
    """Nothing is kept in between: another process, after the first is gone."""
    code = f"""if True:
        from worker_sidecar.launch.detached import DetachedLauncher
        from worker_sidecar.launch.launcher import WorkerSpec
        from worker_sidecar.launch.site import Site
        launcher = DetachedLauncher({site!r})
        print(launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000"))).pid)
    """
    pid = int(subprocess.check_output([sys.executable, "-c", code]))
    assert [status.pid for status in launcher.list()] == [pid]
    with pytest.raises(AlreadyRunningError, match="llm/8080 is already running"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP))
    other = DetachedLauncher(Site(f"other-{SLICE}", None, site.run_dir, site.log_dir))
    assert other.list() == []
    launcher.kill("llm", "8080")
    assert not runs(pid)


def test_children_that_left_session_or_environment_are_ended_too(
    launcher: DetachedLauncher, fifo: Fifo
) -> None:
    code = f"""if True:
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rest = "import time; open(" + repr({fifo.path!r}) + ", 'w').write('ready '); "
        rest += "time.sleep(1000)"
        program = [sys.executable, "-I", "-S", "-c", rest]
        if os.fork() == 0:  # a daemon: another session, no parent, but our environment
            os.setsid()
            if os.fork() == 0:
                os.execv(program[0], program)
            os._exit(0)
        os.wait()
        if os.fork() == 0:  # without our environment, in our session, no parent
            if os.fork() == 0:
                os.execve(program[0], program, {{}})
            os._exit(0)
        os.wait()
        if os.fork() == 0:  # without our environment, another session, but our child
            os.setsid()
            os.execve(program[0], program, {{}})
        os.execv(program[0], program)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    fifo.times("ready", 4)
    found = [process.pid for process in launcher._members("llm", "8080")]
    assert len(found) == 4
    assert launcher.stop("llm", "8080", grace=0.1).forced is True
    assert not any(runs(pid) for pid in found)


def test_a_fork_bomb_loses(launcher: DetachedLauncher, fifo: Fifo) -> None:
    """One of which some process stays for a while; without a cgroup none faster can be caught."""
    bomb = f"""if True:
        import os, resource, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        out = os.open({fifo.path!r}, os.O_WRONLY | os.O_NONBLOCK)
        os.setgid(60124); os.setuid(60124)
        resource.setrlimit(resource.RLIMIT_NPROC, (50, 50))
        os.write(out, b"ready")
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
                elif os.getpid() % 2:
                    os._exit(0)
            except BlockingIOError:
                os.sched_yield()
    """
    launcher.start(WorkerSpec("bomb", "1", ("/usr/bin/python3", "-I", "-S", "-c", bomb)))
    fifo.line()
    while len(carriers()) < 25:
        pass
    assert launcher.kill("bomb", "1").forced is True
    assert carriers() == []


def test_what_loses_its_parent_while_it_ends_is_still_known(
    launcher: DetachedLauncher, fifo: Fifo
) -> None:
    """A deaf child without our environment in a session of its own: only its parent told of it."""
    code = f"""if True:
        import os, signal, sys, time
        rest = "import time; open(" + repr({fifo.path!r}) + ", 'w').write('ready'); "
        rest += "time.sleep(1000)"
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.setsid()
            os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", rest], {{}})
        time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    fifo.line()
    found = [process.pid for process in launcher._members("llm", "8080")]
    assert len(found) == 2
    assert launcher.stop("llm", "8080", grace=0.2).forced is True
    assert not any(runs(pid) for pid in found)


def test_stop_is_polite_first(launcher: DetachedLauncher, fifo: Fifo) -> None:
    code = f"""if True:
        import os, signal, time
        out = os.open({fifo.path!r}, os.O_WRONLY)
        signal.signal(signal.SIGTERM, lambda *_: (os.write(out, b"asked"), os._exit(0)))
        os.write(out, b"ready")
        while True:
            time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    fifo.line()
    assert launcher.stop("llm", "8080", grace=20).forced is False
    assert fifo.line() == "asked"


def test_one_that_cannot_be_killed_is_named(
    launcher: DetachedLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "KILL_PATIENCE", 0.2)
    pid = launcher.start(WorkerSpec("llm", "8080", SLEEP)).pid
    assert pid is not None
    with stuck_in_the_kernel(pid):
        with pytest.raises(KillFailedError, match=f"zombie worker: {pid} of llm/8080"):
            launcher.stop("llm", "8080", 0.1)
        assert launcher.status("llm", "8080").alive
    # thawed now, the signals that wait for it end it
    while runs(pid):
        os.sched_yield()
    with pytest.raises(NotFoundError):
        launcher.status("llm", "8080")


def test_what_is_not_there_is_not_found(launcher: DetachedLauncher) -> None:
    for action in (launcher.stop, launcher.kill, launcher.status):
        with pytest.raises(NotFoundError, match="no worker llm/8080 runs"):
            action("llm", "8080")
    with pytest.raises(NotFoundError, match="has written anything"):
        launcher.logs("llm", "8080", 10, follow=False)


def test_a_mark_that_names_no_worker_is_passed_over(launcher: DetachedLauncher) -> None:
    """Anybody can write one, and what `ps` shows goes to root's terminal."""
    for name in ("llm@\x1b[2J", "llm@a\nb", "LLM@1", "llm", "../x@1"):
        given = {**os.environ, "WORKER_SIDECAR": f"{SLICE}/{name}"}
        pipe = subprocess.PIPE
        with subprocess.Popen(["cat"], env=given, stdin=pipe, stdout=pipe, bufsize=0) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"x")
            assert process.stdout.read(1) == b"x"
            assert carriers() == [process.pid]
            assert launcher.list() == []


def test_what_cannot_be_is_refused(launcher: DetachedLauncher) -> None:
    with pytest.raises(RefusedError, match=r"restart: on-failure.*systemd"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, restart=Restart.ON_FAILURE))
    with pytest.raises(RefusedError, match="has an image"):
        launcher.start(WorkerSpec("llm", "8080", (), image="debian"))


def test_a_failed_start_leaves_nothing(launcher: DetachedLauncher, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(CreationFailedError, match="its interpreter"):
        launcher.start(WorkerSpec("llm", "8080", (str(script),)))
    assert carriers() == []
    assert launcher.list() == []


def test_output_and_secrets(launcher: DetachedLauncher, site: Site, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    token.chmod(0o600)
    argv = ("sh", "-c", 'cat "$CREDENTIALS_DIRECTORY/token"; exec sleep 1000')
    launcher.start(WorkerSpec("llm", "8080", argv, secrets={"token": str(token)}))
    stream = launcher.logs("llm", "8080", 10, follow=True)
    assert stream.read() == b"hunter2\n"
    stream.close()
    os.kill(launcher.list()[0].pid or 0, signal.SIGKILL)
    while launcher.list():
        os.sched_yield()
    launcher.start(WorkerSpec("llm", "8080", SLEEP, secrets={"other": str(token)}))
    assert os.listdir(f"{site.run_dir}/secrets/llm@8080") == ["other"]
    launcher.stop("llm", "8080")
    assert not os.path.exists(f"{site.run_dir}/secrets/llm@8080")


def test_down_ends_all(launcher: DetachedLauncher) -> None:
    found = [launcher.start(WorkerSpec("llm", name, SLEEP)).pid for name in ("1", "2", "3")]
    ended = launcher.down()
    assert [one.instance for one in ended] == ["1", "2", "3"]
    assert not any(runs(pid) for pid in found if pid)
    assert launcher.down() == []


def test_of_starts_at_once_one_starts(launcher: DetachedLauncher) -> None:
    results: list[str] = []

    def start() -> None:
        try:
            launcher.start(WorkerSpec("llm", "8080", SLEEP))
            results.append("started")
        except AlreadyRunningError:
            results.append("already running")

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == ["already running"] * 9 + ["started"]
    assert len(carriers()) == 1


def test_the_shell_lines_do_the_same(launcher: DetachedLauncher) -> None:
    spec = WorkerSpec("llm", "8080", ("sleep", "1000"), env={"A": "it's"})
    subprocess.run(["sh", "-ec", "\n".join(launcher.commands(spec))], check=True, timeout=60)
    status = launcher.status("llm", "8080")
    assert status.declaration is not None and status.pid is not None
    assert environ_of(status.pid)["A"] == "it's"
    assert status.declaration == encode(spec)
