"""The cgroupfs launcher on this host's real cgroup2."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools import missing

from worker_exporter.cgroup.mount import find_mount
from worker_exporter.errors import UserError
from worker_sidecar.launch import cgroupfs, shim
from worker_sidecar.launch.best import best_launcher
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
from worker_sidecar.launch.launcher import (
    AlreadyRunningError,
    LaunchError,
    Limits,
    NotFoundError,
    WorkerSpec,
)

SLICE = f"launchtest{os.getpid()}.slice"
PYTHON = (sys.executable, "-I", "-S", "-c")
SLEEP = ("sleep", "1000")

OF_LIBC = 0b11 << 31
"""Signals 32 and 33: glibc's own. Its posix_spawn, make's way to start us, leaves them ignored."""


@pytest.fixture
def mount() -> str:
    try:
        path = find_mount().path
    except UserError as error:
        missing(str(error))
    refused = cgroupfs.unavailable(path, SLICE)
    if refused:
        missing(refused)
    return path


@pytest.fixture
def launcher(mount: str, tmp_path: Path) -> Iterator[CgroupfsLauncher]:
    launcher = CgroupfsLauncher(SLICE, mount, str(tmp_path / "log"))
    try:
        yield launcher
    finally:
        remove_by_hand(launcher.directory)


def wait_until_empty(directory: str) -> None:
    """Wait for `populated 0`, by the kernel's own notification."""
    descriptor = os.open(f"{directory}/cgroup.events", os.O_RDONLY)
    poll = select.poll()
    poll.register(descriptor, select.POLLPRI)
    try:
        while b"populated 1" in os.pread(descriptor, 4096, 0):
            assert poll.poll(20_000), f"{directory} does not become empty"
    finally:
        os.close(descriptor)


def remove_by_hand(directory: str) -> None:
    """End and remove what a test left, without the launcher, which may be what is broken."""
    if not os.path.isdir(directory):
        return
    Path(directory, "cgroup.kill").write_text("1")
    wait_until_empty(directory)
    for path, _, _ in os.walk(directory, topdown=False):
        os.rmdir(path)


class Fifo:
    """What a worker says, waited for without polling."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._descriptor = os.open(path, os.O_RDWR)

    def line(self) -> str:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        assert poll.poll(20_000), "the worker said nothing"
        return os.read(self._descriptor, 65536).decode().strip()

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "said")
    yield fifo
    fifo.close()


def pids(launcher: CgroupfsLauncher, worker: str) -> list[int]:
    return [
        int(pid) for pid in Path(launcher.directory, worker, "cgroup.procs").read_text().split()
    ]


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie (nobody may have waited for it yet)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_a_started_worker_is_its_command_in_its_own_cgroup(launcher: CgroupfsLauncher) -> None:
    arguments = ("1000", "-n", "$HOME ${PATH} %i", "\n", "ü")
    code = "import time; time.sleep(1000)"
    launched = launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code, *arguments)))

    assert launched.cgroup == f"{SLICE}/llm/8080"
    assert launched.running
    [pid] = pids(launcher, "llm/8080")
    cmdline = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    assert cmdline == [*PYTHON, code, *arguments]
    assert f"0::/{SLICE}/llm/8080\n" in Path(f"/proc/{pid}/cgroup").read_text()
    assert [worker.cgroup for worker in launcher.list()] == [launched.cgroup]

    launcher.stop("llm", "8080")
    assert not runs(pid)
    assert not os.path.exists(f"{launcher.directory}/llm/8080")
    assert launcher.list() == []


def test_a_worker_belongs_to_nobody(launcher: CgroupfsLauncher, tmp_path: Path) -> None:
    """The shim alone, started in this very session: what it starts is not in it."""
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    command = [sys.executable, "-I", "-S", shim.__file__]
    place = [f"{launcher.directory}/llm/8080", str(tmp_path / "output")]
    done = subprocess.run([*command, *place, *SLEEP], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    assert pid in pids(launcher, "llm/8080")
    assert os.getsid(pid) != os.getsid(0)
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()


def test_metadata_is_there_before_the_first_instruction(
    launcher: CgroupfsLauncher, mount: str, fifo: Fifo
) -> None:
    code = f"""if True:
        import os
        cgroup = [l[3:-1] for l in open("/proc/self/cgroup") if l.startswith("0::")][0]
        place = {mount!r} + cgroup
        said = "|".join(f"{{n}}={{os.getxattr(place, n).decode()}}" for n in os.listxattr(place))
        with open({fifo.path!r}, "w") as out:
            out.write(said)
    """
    before = time.time()
    launcher.start(
        WorkerSpec("llm", "8080", (*PYTHON, code), metadata={"model": "ä 7b", "port": "8080"})
    )
    said = dict(item.split("=") for item in fifo.line().split("|"))
    started = float(said.pop("user.worker.started"))
    assert said == {"user.worker.model": "ä 7b", "user.worker.port": "8080"}
    assert before - 0.001 <= started <= time.time()


def test_a_missing_program_is_one_line_and_leaves_no_directory(launcher: CgroupfsLauncher) -> None:
    with pytest.raises(LaunchError) as caught:
        launcher.start(WorkerSpec("llm", "8080", ("/no/such/program",)))
    assert str(caught.value) == "cannot start llm/8080: /no/such/program: No such file or directory"
    assert not os.path.exists(launcher.directory)


def test_a_failed_start_leaves_the_other_workers_alone(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    with pytest.raises(LaunchError, match="Permission denied"):
        launcher.start(WorkerSpec("llm", "8081", (str(tmp_path),)))
    assert [worker.instance for worker in launcher.list()] == ["8080"]


def test_a_running_worker_is_not_started_twice(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    before = pids(launcher, "llm/8080")
    with pytest.raises(AlreadyRunningError, match="llm/8080 is already running"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP))
    assert pids(launcher, "llm/8080") == before


def test_an_ended_worker_stays_visible_until_the_next_start(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("job", "1", ("true",)))
    directory = f"{launcher.directory}/job/1"
    wait_until_empty(directory)
    [worker] = launcher.list()
    assert not worker.running
    inode = os.stat(directory).st_ino

    launcher.start(WorkerSpec("job", "1", SLEEP))
    assert os.stat(directory).st_ino != inode
    assert launcher.list()[0].running


def test_stop_of_nothing_is_an_error_of_its_own(launcher: CgroupfsLauncher) -> None:
    with pytest.raises(NotFoundError, match="no worker llm/8080"):
        launcher.stop("llm", "8080")


def test_stop_is_polite_first(launcher: CgroupfsLauncher, fifo: Fifo) -> None:
    code = f"""if True:
        import os, signal, time
        out = os.open({fifo.path!r}, os.O_WRONLY)
        def end(number, frame):
            os.write(out, b"asked to end")
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
        os.write(out, b"ready")
        while True:
            time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    assert fifo.line() == "ready"
    launcher.stop("llm", "8080", grace=20)
    assert fifo.line() == "asked to end"


def test_double_forked_and_deaf_processes_are_ended_too(
    launcher: CgroupfsLauncher, fifo: Fifo
) -> None:
    code = f"""if True:
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                break
            os.wait()
        out = os.open({fifo.path!r}, os.O_WRONLY)
        os.write(out, b"ready ")
        while True:
            time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    said = ""
    while said.count("ready") < 4:
        said += fifo.line()
    found = pids(launcher, "llm/8080")
    assert len(found) == 4
    launcher.stop("llm", "8080", grace=0.1)
    assert not any(runs(pid) for pid in found)
    assert not os.path.exists(f"{launcher.directory}/llm/8080")


def test_cgroups_a_worker_made_below_its_own_go_with_it(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    nested = f"{launcher.directory}/llm/8080/a/b"
    os.makedirs(nested)
    sleeper = subprocess.Popen(SLEEP)
    try:
        Path(nested, "cgroup.procs").write_text(str(sleeper.pid))
        launcher.stop("llm", "8080", grace=5)
        assert sleeper.wait(10) == -signal.SIGTERM
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not os.path.exists(f"{launcher.directory}/llm/8080")


def test_nothing_of_the_callers_state_reaches_the_worker(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    """The worker is started by a process that ignores, blocks and has raised what can be."""
    code = f"""if True:
        import os, resource, signal
        from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
        from worker_sidecar.launch.launcher import WorkerSpec
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.umask(0o077)
        os.environ["SECRET"] = "x"
        leaked = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(leaked, True)
        launcher = CgroupfsLauncher({SLICE!r}, {launcher._mount!r}, {str(tmp_path)!r})
        launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000"), env={{"GIVEN": "$x"}}))
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    [pid] = pids(launcher, "llm/8080")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["SigIgn"], 16) & ~OF_LIBC == 0
    assert int(status["SigBlk"], 16) == 0
    assert status["Umask"] == "0022"
    limits = Path(f"/proc/{pid}/limits").read_text()
    soft = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft.split()[3] == "1024"
    environ = set(Path(f"/proc/{pid}/environ").read_text().split("\0")) - {""}
    assert "GIVEN=$x" in environ
    assert not any(item.startswith("SECRET") for item in environ)
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_output_goes_to_a_file(launcher: CgroupfsLauncher, tmp_path: Path) -> None:
    launcher.start(WorkerSpec("job", "1", ("sh", "-c", "echo out; echo err >&2")))
    wait_until_empty(f"{launcher.directory}/job/1")
    assert (tmp_path / "log/job/1.log").read_text() == "out\nerr\n"


def test_limits_the_host_cannot_set_are_named(launcher: CgroupfsLauncher) -> None:
    limits = Limits(cpu_cores=0.5, memory_bytes=2**26, tasks=10)
    launched = launcher.start(WorkerSpec("llm", "8080", SLEEP, limits=limits))
    files = {
        "cpu": "cpu.max",
        "memory": "memory.max",
        "swap": "memory.swap.max",
        "tasks": "pids.max",
    }
    values = {"cpu": "50000 100000", "memory": "67108864", "swap": "0", "tasks": "10"}
    for limit, file in files.items():
        path = Path(launcher.directory, "llm/8080", file)
        if path.exists():
            assert path.read_text().strip() == values[limit]
        assert (limit in launched.unapplied) == (not path.exists())


def test_down_ends_all_and_removes_the_slice(launcher: CgroupfsLauncher) -> None:
    for instance in ("8080", "8081"):
        launcher.start(WorkerSpec("llm", instance, SLEEP))
    launcher.start(WorkerSpec("idle", "1", SLEEP))
    everyone = [
        pid
        for worker in launcher.list()
        for pid in pids(launcher, worker.cgroup[len(SLICE) :].strip("/"))
    ]
    launcher.down()
    assert len(everyone) == 3
    assert not any(runs(pid) for pid in everyone)
    assert not os.path.exists(launcher.directory)
    launcher.down()  # nothing left to do is no error


def test_the_best_launcher_of_this_host_starts_a_worker(mount: str, tmp_path: Path) -> None:
    choice = best_launcher(SLICE, str(tmp_path))
    assert choice.launcher is not None
    assert choice.reason
    if not os.path.isdir("/run/systemd/system"):
        assert choice.launcher.name == "cgroupfs"
        assert choice.reason.startswith("systemd does not run here; directories can be made in")
    try:
        launched = choice.launcher.start(WorkerSpec("llm", "8080", SLEEP))
        assert os.path.isdir(f"{mount}/{launched.cgroup}")
    finally:
        choice.launcher.down()


def test_a_host_without_cgroup2_has_no_launcher(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
    choice = best_launcher(SLICE, str(tmp_path), procfs=str(tmp_path))
    assert choice.launcher is None
    assert "no cgroup2 is mounted" in choice.reason
