"""Checks on workers in plain cgroups, below a slice that systemd knows nothing of."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from worker_sidecar.errors import KillFailedError, NotFoundError, RefusedError
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
from worker_sidecar.launch.launcher import Restart, State, Status, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.site import Site

from .scraped import BIN
from .workers import MOUNT, wait_for

PROGRAMS = Path(__file__).with_name("sidecar_programs.py")
SITE = Site("plain.slice", str(MOUNT), "/run/plain-sidecar", "/var/log/plain-sidecar")
TOP = MOUNT / "plain.slice"
LAUNCHER = CgroupfsLauncher(SITE)
MIB = 1 << 20
SECONDS = 6.0
BANDWIDTH = 2_000_000
DAEMON = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
else:
    os.wait()
signal.pause()
"""


def spec(instance: str, program: str, *arguments: str, **fields: Any) -> WorkerSpec:
    """A worker of the service `t` that runs one of sidecar_programs.py."""
    argv = ("/usr/bin/python3", str(PROGRAMS), program, *arguments)
    return WorkerSpec(service="t", instance=instance, argv=argv, **fields)


@contextmanager
def running(worker: WorkerSpec) -> Iterator[Status]:
    """The worker, and nothing of it afterwards."""
    status = LAUNCHER.start(worker)
    try:
        yield status
    finally:
        with suppress(NotFoundError):
            LAUNCHER.kill(worker.service, worker.instance)


def every_limit_is_in_the_kernel() -> None:
    """On the worker, its service and the slice; what is changed there is told."""
    limits = Limits(
        cpu=0.5,
        cpu_weight=50,
        cpus="0",
        memory=256 * MIB,
        memory_high=128 * MIB,
        swap=MIB,
        io=(IoLimit("/", 1_000_000, 2_000_000, 300, 400),),
        tasks=60,
    )
    worker = spec("all", "rest", limits=limits, service_limits=limits, host_limits=limits)
    disk = os.stat("/dev/vda").st_rdev
    numbers = f"{os.major(disk)}:{os.minor(disk)}"
    expected = {
        "cpu.max": "50000 100000",
        "cpu.weight": "50",
        "cpuset.cpus": "0",
        "memory.max": str(256 * MIB),
        "memory.high": str(128 * MIB),
        "memory.swap.max": str(MIB),
        "io.max": f"{numbers} rbps=1000000 wbps=2000000 riops=300 wiops=400",
        "pids.max": "60",
    }
    with running(worker) as started:
        assert started.unapplied == (), started.unapplied
        for folder in (TOP, TOP / "t", TOP / "t/all"):
            found = {name: (folder / name).read_text().strip() for name in expected}
            assert found == expected, (folder, found)
        (TOP / "t/all/pids.max").write_text("61")
        (TOP / "t/all/io.max").write_text(f"{numbers} wbps=max")
        assert LAUNCHER.status("t", "all").unapplied == ("io", "tasks")


def limits_above_are_replaced_and_kept() -> None:
    """What is no longer given is open again; None leaves all as it is, and no limits lift all."""
    host = Limits(memory=512 * MIB)
    with running(spec("one", "rest", service_limits=Limits(tasks=70), host_limits=host)):
        for _ in range(2):
            service = {name: (TOP / "t" / name).read_text().strip() for name in FILES}
            assert service == {**FILES, "pids.max": "70"}, service
            above = {name: (TOP / name).read_text().strip() for name in FILES}
            wanted = {"memory.max": str(512 * MIB), "memory.swap.max": "0"}
            assert above == {**FILES, **wanted}, above
            with running(spec("two", "rest")):
                pass
        with running(spec("two", "rest", service_limits=Limits(), host_limits=Limits())):
            for folder in (TOP, TOP / "t"):
                found = {name: (folder / name).read_text().strip() for name in FILES}
                assert found == FILES, (folder, found)


FILES = {
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "cpuset.cpus": "",
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "max",
    "io.max": "",
    "pids.max": "max",
}


def exporter_finds_the_worker() -> None:
    """By the slice, with its metadata and its limits; a worker that ended is down, not gone."""
    limits = Limits(cpu=0.5, memory=64 * MIB, tasks=7)
    with running(spec("8080", "rest", limits=limits, metadata={"model": "m", "port": "8080"})):
        names = 'service="t",instance="8080"'
        lines = once()
        assert f"worker_up{{{names}}} 1" in lines, lines
        assert f"worker_memory_limit_bytes{{{names}}} {64 * MIB}" in lines, lines
        assert f"worker_cpu_limit_cores{{{names}}} 0.5" in lines, lines
        assert f"worker_tasks_limit{{{names}}} 7" in lines, lines
        assert 'model="m"' in lines and 'port="8080"' in lines, lines
        os.kill(LAUNCHER.status("t", "8080").pid or 0, 9)
        cgroup.wait_empty(str(TOP / "t/8080"), 20)
        assert f"worker_up{{{names}}} 0" in once()
        assert LAUNCHER.status("t", "8080").state is State.ENDED


def cpu_hog_gets_its_quota() -> None:
    """30 % of a core within 10 % of that, by the kernel's own count: never more, and all of it in
    one of some windows, for the machine itself may be short of CPU.
    """
    shares: list[float] = []
    with running(spec("burn", "burn", limits=Limits(cpu=0.3))):
        stat = TOP / "t/burn/cpu.stat"
        wait_for(lambda: _usage(stat) > 0.3, "the hog to be throttled")
        while max(shares, default=0.0) < 0.27 and len(shares) < 8:
            used, since = _usage(stat), time.monotonic()
            time.sleep(SECONDS)
            shares.append((_usage(stat) - used) / (time.monotonic() - since))
    assert 0.27 <= max(shares) <= 0.33, f"it got {shares} of a core"


def cpuset_is_kept() -> None:
    """By the scheduler's own word."""
    for cpu in (0, 1):
        with running(spec("set", "rest", limits=Limits(cpus=str(cpu)))) as started:
            assert started.pid is not None
            assert os.sched_getaffinity(started.pid) == {cpu}
    with running(spec("set", "rest", limits=Limits(cpus="0,7"))) as started:
        assert started.unapplied in ((), ("cpus",)), started.unapplied


def memory_hog_is_killed_and_told() -> None:
    """By the kernel; the result is oom-kill, and the next start is not held up."""
    hoard = f"hoarded = []\nwhile True: hoarded.append(b'x' * {MIB})"
    argv = ("/usr/bin/python3", "-c", hoard)
    LAUNCHER.start(WorkerSpec("t", "hog", argv, limits=Limits(memory=48 * MIB)))
    assert cgroup.wait_empty(str(TOP / "t/hog"), 60)
    ended = LAUNCHER.status("t", "hog")
    assert (ended.state, ended.result) == (State.ENDED, "oom-kill"), ended
    with running(spec("hog", "rest")) as again:
        assert (again.state, again.result) == (State.RUNNING, None)


def disk_hog_gets_its_bandwidth() -> None:
    """Within 20 % in one of some windows, by io.stat, for writes past the page cache."""
    rates: list[float] = []
    limits = Limits(io=(IoLimit("/", write_bandwidth=BANDWIDTH),))
    with running(spec("disk", "write", "/var/tmp/disk-hog", limits=limits)) as started:
        assert started.unapplied == ()
        stat = TOP / "t/disk/io.stat"
        wait_for(lambda: _written(stat) > BANDWIDTH / 2, "the hog to write")
        while max(rates, default=0.0) < 0.8 * BANDWIDTH and len(rates) < 8:
            written, since = _written(stat), time.monotonic()
            time.sleep(SECONDS)
            rates.append((_written(stat) - written) / (time.monotonic() - since))
    assert 0.8 * BANDWIDTH <= max(rates) <= 1.2 * BANDWIDTH, f"it wrote {rates} bytes a second"


def oom_score_is_lowered() -> None:
    """Which takes a capability, so before the user is switched."""
    with running(spec("score", "rest", oom_score_adjust=-500, user="nobody")) as started:
        path = Path(f"/proc/{started.pid}/oom_score_adj")
        assert path.read_text() == "-500\n"


def restart_is_refused() -> None:
    """Nobody would do it; and nothing was made."""
    try:
        LAUNCHER.start(spec("again", "rest", restart=Restart.ALWAYS))
    except RefusedError as error:
        assert "systemd" in str(error)
    else:
        raise AssertionError("it was not refused")
    assert not (TOP / "t/again").exists()


def deaf_worker_is_killed_after_the_grace() -> None:
    """And a polite one is not."""
    LAUNCHER.start(spec("deaf", "deaf"))
    stream = LAUNCHER.logs("t", "deaf", 10, follow=True)
    assert stream.read() == b"deaf\n"
    stream.close()
    assert LAUNCHER.stop("t", "deaf", 0.5).forced is True
    LAUNCHER.start(spec("deaf", "rest"))
    assert LAUNCHER.stop("t", "deaf", 60).forced is False
    assert not (TOP / "t/deaf").exists()


def bomb_and_daemon_leave_nothing() -> None:
    """A fork bomb that filled its limit, and a daemon in a session of its own."""
    _ends_with_all(spec("bomb", "bomb", limits=Limits(tasks=40)), 40)
    argv = ("/usr/bin/python3", "-c", DAEMON)
    _ends_with_all(WorkerSpec("t", "daemon", argv), 2)


def bomb_loses_without_cgroup_kill() -> None:
    """As on a kernel before 5.14."""
    known, cgroup.KILL_FILE = cgroup.KILL_FILE, "cgroup.no-such-file"
    try:
        bomb_and_daemon_leave_nothing()
    finally:
        cgroup.KILL_FILE = known


def stuck_worker_is_told() -> None:
    """One in uninterruptible sleep, here by the freezer of cgroup v1, is no success."""
    freezer = Path("/run/freezer")
    freezer.mkdir()
    mount = ["mount", "-t", "cgroup", "-o", "freezer", "none", str(freezer)]
    subprocess.run(mount, check=True)
    place = freezer / "stuck"
    place.mkdir()
    patience, cgroup.KILL_PATIENCE = cgroup.KILL_PATIENCE, 1.0
    try:
        pid = LAUNCHER.start(spec("stuck", "rest")).pid
        (place / "cgroup.procs").write_text(str(pid))
        (place / "freezer.state").write_text("FROZEN")
        wait_for(lambda: "FROZEN" in (place / "freezer.state").read_text(), "the frost")
        try:
            LAUNCHER.stop("t", "stuck", 0.1)
        except KillFailedError as error:
            assert f"zombie worker: {pid} " in str(error), str(error)
        else:
            raise AssertionError("it was said to have ended")
        assert LAUNCHER.status("t", "stuck").state is State.RUNNING
        (place / "freezer.state").write_text("THAWED")
        LAUNCHER.stop("t", "stuck")
    finally:
        cgroup.KILL_PATIENCE = patience
        (place / "freezer.state").write_text("THAWED")
        wait_for(lambda: not (place / "cgroup.procs").read_text(), "the end of who was stuck")
        place.rmdir()
        subprocess.run(["umount", str(freezer)], check=True)


def delegated_worker_divides_its_limits() -> None:
    """It may make cgroups, move itself into one, and pass on what it was given; not more."""
    script = """
    set -e
    cd /sys/fs/cgroup$(grep ^0:: /proc/self/cgroup | cut -d: -f3)
    mkdir part
    echo 0 > part/cgroup.procs
    echo +memory > cgroup.subtree_control
    echo 16M > part/memory.max
    echo max > memory.max || echo denied
    exec sleep infinity
    """
    worker = WorkerSpec(
        "t",
        "delegated",
        ("/bin/sh", "-c", script),
        user="nobody",
        delegate=True,
        limits=Limits(memory=64 * MIB),
    )
    with running(worker) as started:
        said = Path(SITE.log_dir, "t/delegated.log")
        wait_for(lambda: "enied" in said.read_text(), "what it may not")
        part = TOP / "t/delegated/part/memory.max"
        assert part.exists(), said.read_text()
        assert part.read_text().strip() == str(16 * MIB)
        assert (TOP / "t/delegated/memory.max").read_text().strip() == str(64 * MIB)
        assert started.unapplied == ()
    assert not (TOP / "t/delegated").exists()


def down_leaves_nothing() -> None:
    """Neither directories nor processes."""
    for instance in ("1", "2", "3"):
        LAUNCHER.start(spec(instance, "rest"))
    found = [status.pid for status in LAUNCHER.list()]
    assert len(found) == 3
    LAUNCHER.down()
    assert not TOP.exists()
    assert not any(_is(pid or 0, "rest") for pid in found)


def once(*options: str) -> str:
    """One scrape of the installed exporter."""
    command = [str(BIN / "worker-exporter"), "--worker.slice=plain.slice", *options, "once"]
    return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)


def _ends_with_all(worker: WorkerSpec, count: int) -> None:
    """One that grows to `count` processes, none of which hears SIGTERM."""
    folder = TOP / worker.service / worker.instance
    with running(worker):
        # not pids.current, which counts the dead that nobody waited for
        wait_for(lambda: len(cgroup.pids(str(folder))) == count, f"{count} of {worker.name}")
        found = cgroup.pids(str(folder))
        assert LAUNCHER.stop(worker.service, worker.instance, 0.5).forced is True
    assert not folder.exists()
    assert not any(_is(pid, worker.argv[-1]) for pid in found)


def _is(pid: int, program: str) -> bool:
    """Whether a process of that PID runs this program."""
    with suppress(OSError):
        return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def _usage(stat: Path) -> float:
    words = stat.read_text().split()
    return int(words[words.index("usage_usec") + 1]) / 1e6


def _written(stat: Path) -> int:
    words = [word for word in stat.read_text().split() if word.startswith("wbytes=")]
    return sum(int(word.partition("=")[2]) for word in words)
