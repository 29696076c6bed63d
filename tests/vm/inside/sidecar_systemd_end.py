"""Checks on how workers end, and on what is left when the sidecar itself is killed."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from worker_sidecar.errors import (
    AlreadyRunningError,
    InputError,
    KillFailedError,
    NotFoundError,
)
from worker_sidecar.launch.launcher import Restart, State, WorkerSpec
from worker_sidecar.launch.limits import Limits

from .sidecar_systemd_scene import (
    CONTROL,
    LAUNCHER,
    TOP,
    await_signal,
    is_gone,
    marked,
    raised,
    remove,
    running,
    show,
    spec,
    unit_of,
)
from .workers import wait_for

MOMENTS = 20
FROZEN = Path("/mnt/frozen")


def polite_end() -> None:
    """SIGTERM is enough; nothing is left, and nothing looks failed."""
    worker = spec("polite", "rest")
    LAUNCHER.start(worker)
    ended = LAUNCHER.stop("t", "polite")
    assert (ended.forced, ended.result, ended.exit_status) == (
        False,
        "success",
        128 + signal.SIGTERM,
    )
    assert is_gone(worker)
    raised(NotFoundError, lambda: LAUNCHER.stop("t", "polite"))
    raised(NotFoundError, lambda: LAUNCHER.status("t", "polite"))


def deaf_worker_is_killed_after_the_grace() -> None:
    """It is told as forced, and does not look failed; a grace beyond the unit's own is refused."""
    worker = spec("deaf", "deaf", restart=Restart.ALWAYS)
    with running(worker) as started:
        raised(InputError, lambda: LAUNCHER.stop("t", "deaf", 91))
        await_signal(started.pid, "SigIgn", signal.SIGTERM)
        before = time.monotonic()
        ended = LAUNCHER.stop("t", "deaf", 1.5)
        assert time.monotonic() - before >= 1.5
        assert (ended.forced, ended.result, ended.exit_status) == (
            True,
            "signal",
            128 + signal.SIGKILL,
        )
        assert is_gone(worker)


def longer_grace_is_kept() -> None:
    """The unit itself gives the grace that the worker was started with."""
    with running(spec("patient", "rest", grace=300)) as started:
        assert show(str(started.unit), "TimeoutStopUSec") == "5min"


def kill_is_not_answered_by_a_restart() -> None:
    """Also for a worker that systemd always starts again."""
    worker = spec("killed", "deaf", restart=Restart.ALWAYS)
    started = LAUNCHER.start(worker)
    await_signal(started.pid, "SigIgn", signal.SIGTERM)
    assert LAUNCHER.kill("t", "killed").forced
    assert is_gone(worker)


def crash_loop_can_be_stopped() -> None:
    """Whatever it is doing at that moment."""
    loop = WorkerSpec("t", "loop", ("sh", "-c", "exit 3"), restart=Restart.ALWAYS)
    LAUNCHER.start(loop)
    wait_for(lambda: show(unit_of(loop), "NRestarts") != "0", "a restart")
    LAUNCHER.stop("t", "loop")
    assert is_gone(loop)


def bombs_and_daemons_leave_nothing() -> None:
    """Not one process, wherever it may have gone, and no cgroup."""
    for program, least in (("bomb", 30), ("daemon", 2)):
        mark = f"MARK_OF_{program}"
        worker = spec(program, program, env={mark: "1"}, limits=Limits(tasks=40))
        with running(worker):
            wait_for(partial(_has_marked, mark, least), f"{least} processes of {program}")
            assert LAUNCHER.stop("t", program, 0.5).forced
            assert marked(mark) == []
            assert is_gone(worker)


def stuck_worker_is_told() -> None:
    """A process in uninterruptible sleep is named, and no success; once it can, it ends."""
    worker = spec("stuck", "stick", str(FROZEN / "file"))
    with _frozen_file_system():
        started = LAUNCHER.start(worker)
        wait_for(lambda: _state_of(started.pid or 0) == "D", "the worker to be stuck")
        error = raised(KillFailedError, lambda: LAUNCHER.stop("t", "stuck", 0.5))
        assert str(started.pid) in str(error) and "zombie worker" in str(error), error
        stuck = LAUNCHER.status("t", "stuck")
        assert (stuck.state, stuck.pid) == (State.STOPPING, started.pid)
        raised(AlreadyRunningError, lambda: LAUNCHER.start(worker))
    remove(worker)
    assert is_gone(worker)


def output_is_read() -> None:
    """That of the last run, with systemd's words; and what comes, when asked for."""
    worker = spec("talk", "talk", "first")
    LAUNCHER.start(worker)
    _await_output("talk", b"first once")
    LAUNCHER.stop("t", "talk")
    assert b"first once" in _output("talk"), "also when nothing but the journal knows it"
    with running(spec("talk", "talk", "second")) as started:
        _await_output("talk", b"second once")
        assert b"first" not in _output("talk")
        assert b"Started" in _output("talk")
        stream = LAUNCHER.logs("t", "talk", 1, follow=True)
        stream.read()
        os.kill(started.pid or 0, signal.SIGUSR1)
        assert stream.read() == b"second again\n"
        stream.close()
        assert stream.read() == b""
    raised(NotFoundError, lambda: LAUNCHER.logs("t", "never", 1, follow=False))


def killed_sidecar_loses_nothing() -> None:
    """SIGKILL at random moments of a start or a stop: the list is true, a second run ends it."""
    worker = spec("moment", "rest", restart=Restart.ALWAYS)
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for number in range(MOMENTS):
        starts = number % 2 == 0
        if not starts:
            _start_again(worker)
        stop = partial(LAUNCHER.stop, "t", "moment")
        delay = moments.uniform(0, 0.8 if starts else 0.3)
        _killed(partial(LAUNCHER.start, worker) if starts else stop, delay)
        where = f"seed {seed}, number {number}, after {delay:.3f} s"
        _check_list(worker, where)
        if starts:
            _start_again(worker)
            assert LAUNCHER.status("t", "moment").state is State.RUNNING, where
        remove(worker)
        assert is_gone(worker), where


def down_leaves_nothing() -> None:
    """No unit, slice, cgroup or setting; and it may be said twice."""
    first, second = spec("one", "rest"), spec("two", "deaf", service="other")
    for worker in (first, second):
        LAUNCHER.start(replace(worker, host_limits=Limits(tasks=500)))
    LAUNCHER.start(WorkerSpec("t", "failed", ("false",)))
    wait_for(lambda: show("worker-t@failed.service", "ActiveState") == "failed", "the failure")
    assert (CONTROL / "worker.slice.d").exists()
    ended = LAUNCHER.down(1)
    assert [(each.service, each.instance) for each in ended] == [
        ("other", "two"),
        ("t", "failed"),
        ("t", "one"),
    ]
    assert LAUNCHER.down() == []
    units = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "worker*"]
    assert subprocess.check_output(units) == b""
    assert not TOP.exists()
    assert not list(CONTROL.glob("worker*"))


def _start_again(worker: WorkerSpec) -> None:
    """As a second run of the sidecar would: it runs already, or it is started."""
    try:
        LAUNCHER.start(worker)
    except AlreadyRunningError:
        wait_for(lambda: LAUNCHER.status("t", worker.instance).state is State.RUNNING, "it to run")


def _check_list(worker: WorkerSpec, where: str) -> None:
    """The list against systemctl, which must not change in between."""
    for _ in range(100):
        before = show(unit_of(worker), "ActiveState")
        listed = [each for each in LAUNCHER.list() if each.instance == worker.instance]
        if show(unit_of(worker), "ActiveState") == before:
            break
    expected = {
        "active": State.RUNNING,
        "activating": State.STARTING,
        "deactivating": State.STOPPING,
        "failed": State.FAILED,
    }
    assert [each.state for each in listed] == [
        expected[each] for each in [before] if each in expected
    ], f"{where}: systemctl says {before}, the list {listed}"


def _killed(act: Callable[[], object], delay: float) -> None:
    """Do it in a process that is killed after `delay` seconds."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _output(instance: str) -> bytes:
    stream = LAUNCHER.logs("t", instance, 50, follow=False)
    found = b""
    while piece := stream.read():
        found += piece
    stream.close()
    return found


def _await_output(instance: str, text: bytes) -> None:
    wait_for(lambda: text in _output(instance), f"{text!r} in the journal")


def _has_marked(mark: str, least: int) -> bool:
    return len(marked(mark)) >= least


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@contextmanager
def _frozen_file_system() -> Iterator[None]:
    """A small file system at FROZEN that takes no writes until the context ends."""
    image = Path("/var/tmp/frozen.img")
    with image.open("wb") as file:
        file.truncate(16 << 20)
    FROZEN.mkdir(exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(FROZEN)], check=True)
    try:
        subprocess.run(["fsfreeze", "--freeze", str(FROZEN)], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(FROZEN)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(FROZEN)], check=True)
