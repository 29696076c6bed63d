"""A probe by a command: a process of its own session, as the worker's user, never two at once."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import Any

from worker_exporter.web.thread import DaemonThread
from worker_sidecar.errors import SidecarError
from worker_sidecar.health.answer import Answer
from worker_sidecar.launch.account import account_of

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: argument list, the worker's environment, user and working directory."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    directory: str | None = None


class CommandProbe:
    """Runs one command time and again. Its thread, and no other probe, waits for a program on a
    dead network file system, or for a process that the kernel does not let go.
    """

    def __init__(self, command: Command, name: str) -> None:
        self._command = command
        self._thread = DaemonThread(f"probe {name}")
        self._abandoned = os.eventfd(0)

    async def ask(self, timeout: float) -> Answer:
        """Run it once, for at most `timeout` seconds: exit code 0 is ready.

        Raises TimeoutError when it takes longer, or when the one before it has not ended yet.
        """
        async with asyncio.timeout(timeout):
            return await self._thread.run(partial(_run, self._command, timeout, self._abandoned))

    def close(self) -> None:
        """Kill what runs, and let the thread end; does not wait for them."""
        os.eventfd_write(self._abandoned, 1)
        self._thread.submit(partial(os.close, self._abandoned))
        self._thread.close()


def _run(command: Command, timeout: float, abandoned: int) -> Answer:
    try:
        process = _spawn(command)
    except (OSError, SidecarError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Answer("error", f"{command.argv[0]} cannot be run: {reason}")
    try:
        _wait(process.pid, timeout, abandoned)
    finally:
        code = _end(process)
    return Answer("ready" if code == 0 else "not_ready", _ending(code))


def _spawn(command: Command) -> "subprocess.Popen[bytes]":
    account = account_of(command.user)
    who: dict[str, Any] = {}
    if account.switch:
        who = {"user": account.uid, "group": account.gid, "extra_groups": account.groups}
    return subprocess.Popen(
        command.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=command.directory or "/",
        env={"PATH": _PATH, **account.environment, **dict(command.env)},
        start_new_session=True,
        **who,
    )


def _wait(pid: int, timeout: float, abandoned: int) -> None:
    """Until the process ended, which leaves it a zombie. Raises TimeoutError."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(abandoned, select.POLLIN)
        ready = poll.poll(timeout * 1000)
    finally:
        os.close(pidfd)
    if pidfd not in (descriptor for descriptor, _ in ready):
        raise TimeoutError


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Kill what is left of the process group, then reap its leader: while that is a zombie, the
    group's number is nobody else's.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}"
