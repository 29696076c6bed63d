"""Processes that carry the mark of a worker, and their kin: found in /proc, ended, waited for."""

import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from worker_sidecar.errors import PermissionDeniedError

MARK = "WORKER_SIDECAR"
"""The variable that names a worker, in the environment of its processes."""

DECLARATION = "WORKER_SIDECAR_DECLARATION"
"""The variable that keeps what the worker was started with."""

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc has it. `began` is in clock ticks since the boot, `variables` what it has
    of MARK and DECLARATION.
    """

    pid: int
    parent: int
    session: int
    began: int
    variables: Mapping[str, str]

    @property
    def started(self) -> float:
        """When it began, in seconds since the epoch."""
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted + self.began / _TICK


def living() -> Sequence[Process]:
    """All that live and that we may look at, the oldest first."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                found.append(_look(int(name)))
    return sorted((process for process in found if process), key=lambda p: (p.began, p.pid))


def with_kin(
    processes: Sequence[Process], mark: str, known: Sequence[Process]
) -> Sequence[Process]:
    """Those with the mark and those `known`, those in the sessions of the marked, and the
    descendants of all these.
    """
    before = {(process.pid, process.began) for process in known}
    marked = {process.pid for process in processes if process.variables.get(MARK) == mark}
    sessions = {process.session for process in processes if process.pid in marked}
    found = marked | {p.pid for p in processes if (p.pid, p.began) in before}
    found |= {p.pid for p in processes if p.session in sessions}
    size = -1
    while len(found) != size:
        size = len(found)
        found |= {p.pid for p in processes if p.parent in found and MARK not in p.variables}
    return [process for process in processes if process.pid in found]


def send(processes: Sequence[Process], number: signal.Signals) -> None:
    """Send a signal to just these: a PID that another process has by now is left alone."""
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            now = _look(process.pid)
            if now is not None and now.began == process.began:
                signal.pidfd_send_signal(descriptor, number)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError as error:
            raise PermissionDeniedError(
                f"process {process.pid} belongs to another user: end it as that one, or root"
            ) from error
        finally:
            os.close(descriptor)


def wait_for(processes: Sequence[Process], patience: float) -> None:
    """Wait until each of them ended, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        for process in processes:
            try:
                descriptor = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, descriptor)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return


def _look(pid: int) -> Process | None:
    """See proc_pid_stat(5) and proc_pid_environ(5). None for a zombie."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        stat = file.read().rpartition(") ")[2].split()
    if stat[0] in "ZX":
        return None
    environ = b""
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as variables:
        environ = variables.read()
    return Process(pid, int(stat[1]), int(stat[3]), int(stat[19]), dict(_variables(environ)))


def _variables(environ: bytes) -> Iterator[tuple[str, str]]:
    for item in environ.split(b"\0"):
        name, _, value = item.partition(b"=")
        if name in (MARK.encode(), DECLARATION.encode()):
            yield name.decode(), os.fsdecode(value)
