"""Checks on limits, by their effect, and on what is left of workers in their slice."""

import os
import signal
import time
from pathlib import Path

from worker_sidecar.launch.launcher import Restart, State, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits

from .sidecar_systemd_scene import (
    LAUNCHER,
    MIB,
    TOP,
    await_signal,
    crash,
    dumped,
    dumper,
    read,
    remove,
    running,
    show,
    spec,
    unit_of,
)
from .workers import wait_for

SECONDS = 6.0
BANDWIDTH = 1_000_000


def every_limit_is_in_the_kernel() -> None:
    """What the launcher says holds is in the files of the worker and of both slices."""
    limits = Limits(
        cpu=0.5,
        cpu_weight=50,
        cpus="0",
        memory=256 * MIB,
        memory_high=128 * MIB,
        swap=MIB,
        io=(IoLimit("/", 1_000_000, 2_000_000, 300, 400),),
        io_weight=77,
        tasks=60,
    )
    worker = spec("all", "rest", service="lim", limits=limits, service_limits=limits)
    with running(worker) as started:
        assert started.unapplied == (), started.unapplied
        slice_folder = TOP / "worker-lim.slice"
        for folder in (slice_folder, slice_folder / unit_of(worker)):
            disk = os.stat("/dev/vda").st_rdev
            assert read(folder / "cpu.max") == "50000 100000"
            assert read(folder / "cpu.weight") == "50"
            assert read(folder / "cpuset.cpus") == "0"
            assert read(folder / "memory.max") == str(256 * MIB)
            assert read(folder / "memory.high") == str(128 * MIB)
            assert read(folder / "memory.swap.max") == str(MIB)
            assert read(folder / "io.max") == (
                f"{os.major(disk)}:{os.minor(disk)} rbps=1000000 wbps=2000000 riops=300 wiops=400"
            )
            assert read(folder / "io.weight") == "default 77"
            assert read(folder / "pids.max") == "60"
        (slice_folder / unit_of(worker) / "pids.max").write_text("61")
        assert LAUNCHER.status("lim", "all").unapplied == ("tasks",), "it reads the kernel"


def given_limits_replace_those_before() -> None:
    """On the slices of the service and of all; None leaves them, and no limits lift them."""
    folder = TOP / "worker-lim.slice"
    host = Limits(tasks=900)
    one = spec("all", "rest", service="lim", service_limits=Limits(tasks=70), host_limits=host)
    with running(one):
        assert read(folder / "pids.max") == "70"
        assert read(folder / "memory.max") == "max"
        assert show("worker-lim.slice", "CPUQuotaPerSecUSec") == "infinity"
        assert show("worker-lim.slice", "AllowedCPUs") == ""
        with running(spec("other", "rest", service="lim")):
            assert (read(folder / "pids.max"), read(TOP / "pids.max")) == ("70", "900")
        none = spec("none", "rest", service="lim", service_limits=Limits(), host_limits=Limits())
        with running(none):
            assert (read(folder / "pids.max"), read(TOP / "pids.max")) == ("max", "max")
            assert show("worker-lim.slice", "TasksAccounting") == "yes"


def cpu_hog_gets_its_quota() -> None:
    """30 % of a core within 10 % of that, by the kernel's own count: never more, and all of it in
    one of some windows, for the machine itself may be short of CPU.
    """
    shares: list[float] = []
    with running(spec("burn", "burn", limits=Limits(cpu=0.3))) as started:
        stat = _folder(started.cgroup) / "cpu.stat"
        wait_for(lambda: _usage(stat) > 0.3, "the hog to be throttled")
        while max(shares, default=0.0) < 0.27 and len(shares) < 8:
            used, since = _usage(stat), time.monotonic()
            time.sleep(SECONDS)
            shares.append((_usage(stat) - used) / (time.monotonic() - since))
    assert 0.27 <= max(shares) <= 0.33, f"it got {shares} of a core"


def memory_hog_is_killed_and_told() -> None:
    """By the kernel, and the worker's result is oom-kill; the next start is not held up."""
    hog = spec("hog", "hoard", service="mem", limits=Limits(memory=48 * MIB))
    started = LAUNCHER.start(hog)
    await_signal(started.pid, "SigCgt", signal.SIGUSR1)
    os.kill(started.pid or 0, signal.SIGUSR1)
    wait_for(lambda: show(unit_of(hog), "ActiveState") == "failed", "the end of the hog")
    failed = LAUNCHER.status("mem", "hog")
    assert (failed.state, failed.result) == (State.FAILED, "oom-kill"), failed
    assert failed.cgroup is None
    with running(spec("hog", "rest", service="mem")) as again:
        assert again.state is State.RUNNING


def disk_hog_gets_its_bandwidth() -> None:
    """Within 20 % in one of some windows, by io.stat, for writes past the page cache."""
    rates: list[float] = []
    limits = Limits(io=(IoLimit("/", write_bandwidth=BANDWIDTH),))
    worker = spec("disk", "write", "/var/tmp/disk-hog", service="disk", limits=limits)
    with running(worker) as started:
        assert started.unapplied == ()
        stat = _folder(started.cgroup) / "io.stat"
        wait_for(lambda: _written(stat) > BANDWIDTH / 2, "the hog to write")
        while max(rates, default=0.0) < 0.8 * BANDWIDTH and len(rates) < 8:
            written, since = _written(stat), time.monotonic()
            time.sleep(SECONDS)
            rates.append((_written(stat) - written) / (time.monotonic() - since))
    assert 0.8 * BANDWIDTH <= max(rates) <= 1.2 * BANDWIDTH, f"it wrote {rates} bytes a second"


def totals_outlive_their_workers() -> None:
    """The slices of the two hogs still account what they did."""
    for service in ("disk", "mem"):
        assert not [each for each in LAUNCHER.list() if each.service == service]
    assert _written(TOP / "worker-disk.slice" / "io.stat") > BANDWIDTH * SECONDS * 0.8
    events = read(TOP / "worker-mem.slice" / "memory.events").split()
    assert int(events[events.index("oom_kill") + 1]) >= 1


def restarts_are_counted() -> None:
    """By systemd; each has another process and metadata of its own."""
    worker = dumper("phoenix", metadata={"model": "m"}, restart=Restart.ALWAYS)
    with running(worker) as started:
        first = dumped("phoenix")
        for count in (1, 2):
            crash(worker)
            again = dumped("phoenix")
            assert again["attributes"]["user.worker.model"] == "m"
            assert float(again["attributes"]["user.worker.started"]) > float(
                first["attributes"]["user.worker.started"]
            )
            found = LAUNCHER.status("t", "phoenix")
            assert (found.restarts, found.state) == (count, State.RUNNING)
            assert found.pid == again["pid"] != started.pid


def crash_loop_ends_as_a_failure() -> None:
    """systemd gives up after some restarts, and the launcher tells how the last run ended."""
    loop = WorkerSpec("t", "loop", ("sh", "-c", "exit 3"), restart=Restart.ON_FAILURE)
    LAUNCHER.start(loop)
    wait_for(lambda: show(unit_of(loop), "ActiveState") == "failed", "the end of the loop")
    failed = LAUNCHER.status("t", "loop")
    assert (failed.state, failed.result, failed.exit_status) == (State.FAILED, "exit-code", 3)
    assert str(failed.restarts) == show(unit_of(loop), "NRestarts") != "0"
    ended = LAUNCHER.stop("t", "loop")
    assert (ended.forced, ended.result, ended.exit_status) == (False, "exit-code", 3)
    remove(loop)


def _folder(cgroup: str | None) -> Path:
    assert cgroup is not None
    return TOP.parent / cgroup


def _usage(stat: Path) -> float:
    words = stat.read_text().split()
    return int(words[words.index("usage_usec") + 1]) / 1e6


def _written(stat: Path) -> int:
    words = [word for word in stat.read_text().split() if word.startswith("wbytes=")]
    return sum(int(word.partition("=")[2]) for word in words)
