"""Workers without a cgroup, for hosts with neither cgroup2 nor systemd.

Such a worker cannot be monitored, nor limited, and all the kernel knows of it are processes. It is
found again, without any state of ours, by what its processes carry: the variable WORKER_SIDECAR in
their environment (/proc/PID/environ), which a child inherits; and for those that dropped it, their
session (the shim makes one for each worker) and their parents. A process that drops all three
escapes, and one that takes the variable on is believed, which is what cgroups are for.
"""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields

from worker_exporter import log
from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    KillFailedError,
    NotFoundError,
    RefusedError,
)
from worker_sidecar.launch import cgroup, marked, secrets, spawn
from worker_sidecar.launch.declaration import encode, limits_of
from worker_sidecar.launch.launcher import (
    GRACE,
    Ended,
    LogStream,
    Restart,
    State,
    Status,
    WorkerSpec,
)
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.marked import Process
from worker_sidecar.launch.names import check_names
from worker_sidecar.launch.output import FileLog
from worker_sidecar.launch.site import Site

_LONGEST_STRING = 131_072
"""Bytes of one string that execve(2) takes, its NUL included."""

_ROUNDS = 20
_ROUND = 0.1
"""Seconds between two looks for processes that were forked meanwhile."""


class DetachedLauncher:
    """Starts workers in sessions of their own, as nohup would, and says loudly what they lack."""

    name = "detached"

    def __init__(self, site: Site) -> None:
        self._site = site

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        """See Launcher.commands."""
        return spawn.command_lines(self._prepared(spec), None)

    def start(self, spec: WorkerSpec) -> Status:
        """See Launcher.start; only that there is no cgroup."""
        start = self._prepared(spec)
        directory = os.path.dirname(start.log)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            raise CreationFailedError(
                f"cannot start {spec.name}: {directory}: {error.strerror}"
            ) from error
        with cgroup.locked(directory) as hold:
            if self._members(spec.service, spec.instance):
                raise AlreadyRunningError(f"{spec.name} is already running")
            pid = spawn.spawn(start, hold, None)
        log.warn(
            "this worker has no cgroup: nothing monitors it and no limit holds",
            service=spec.service,
            instance=spec.instance,
            pid=pid,
        )
        found = self._statuses().get((spec.service, spec.instance))
        return found or self._status(spec.service, spec.instance, State.ENDED, encode(spec))

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        """See Launcher.stop."""
        members = self._living(service, instance)
        marked.send(members, signal.SIGTERM)
        marked.send(members, signal.SIGCONT)
        left = self._left(service, instance, members, grace)
        if left:
            self._kill(service, instance, left)
        return self._forgotten(service, instance, forced=bool(left))

    def kill(self, service: str, instance: str) -> Ended:
        """See Launcher.kill."""
        self._kill(service, instance, self._living(service, instance))
        return self._forgotten(service, instance, forced=True)

    def status(self, service: str, instance: str) -> Status:
        """See Launcher.status."""
        check_names(service, instance)
        found = self._statuses().get((service, instance))
        if found is None:
            raise _not_found(service, instance)
        return found

    def list(self) -> Sequence[Status]:
        """See Launcher.list."""
        return [status for _, status in sorted(self._statuses().items())]

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        """See Launcher.logs."""
        check_names(service, instance)
        path = spawn.log_file(self._site, service, instance)
        try:
            return FileLog(path, lines, follow)
        except FileNotFoundError:
            raise NotFoundError(
                f"no worker {service}/{instance} has written anything: there is no {path}"
            ) from None

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        """See Launcher.down. The grace is one for all workers together."""
        names = [(status.service, status.instance) for status in self.list()]
        members = {name: self._members(*name) for name in names}
        for name in names:
            marked.send(members[name], signal.SIGTERM)
            marked.send(members[name], signal.SIGCONT)
        deadline = time.monotonic() + grace
        ended = []
        for name in names:
            left = self._left(*name, members[name], max(0.0, deadline - time.monotonic()))
            if left:
                self._kill(*name, left)
            ended.append(self._forgotten(*name, forced=bool(left)))
        return ended

    def _prepared(self, spec: WorkerSpec) -> spawn.Start:
        if spec.image is not None:
            raise RefusedError(f"{spec.name} has an image: Docker starts it, not this launcher")
        if spec.restart is not Restart.NO:
            raise RefusedError(
                f"{spec.name} has restart: {spec.restart}, but nothing supervises a detached "
                "worker: leave it away, or use a host with systemd"
            )
        marks = {marked.MARK: self._mark(spec.service, spec.instance)}
        declaration = encode(spec)
        if len(declaration) < _LONGEST_STRING - len(marked.DECLARATION) - 1:
            marks[marked.DECLARATION] = declaration
        return spawn.prepare(spec, self._site, marks)

    def _mark(self, service: str, instance: str) -> str:
        return f"{self._site.slice_name}/{service}@{instance}"

    def _living(self, service: str, instance: str) -> Sequence[Process]:
        check_names(service, instance)
        members = self._members(service, instance)
        if not members:
            raise _not_found(service, instance)
        if any(process.pid == os.getpid() for process in members):
            raise RefusedError(f"this very process is part of {service}/{instance}")
        return members

    def _members(
        self, service: str, instance: str, known: Sequence[Process] = ()
    ) -> Sequence[Process]:
        """The worker's processes, the oldest first: those `known` before that live, and all that
        can be told from the rest.
        """
        return marked.with_kin(marked.living(), self._mark(service, instance), known)

    def _left(
        self, service: str, instance: str, known: Sequence[Process], patience: float
    ) -> Sequence[Process]:
        """Wait for the worker's last process to end, at most `patience` seconds; what is left."""
        deadline = time.monotonic() + patience
        while known := self._members(service, instance, known):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            marked.wait_for(known, left)
        return known

    def _kill(self, service: str, instance: str, known: Sequence[Process]) -> None:
        deadline = time.monotonic() + cgroup.KILL_PATIENCE
        while known:
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in known)
                raise KillFailedError(
                    f"zombie worker: {pids} of {service}/{instance} cannot be killed"
                )
            known = self._halted(service, instance, known)
            marked.send(known, signal.SIGKILL)
            known = self._left(service, instance, known, _ROUND)

    def _halted(self, service: str, instance: str, known: Sequence[Process]) -> Sequence[Process]:
        """Stop its processes, so that none forks away while each is killed."""
        halted: set[int] = set()
        for _ in range(_ROUNDS):
            known = self._members(service, instance, known)
            new = [process for process in known if process.pid not in halted]
            if not new:
                break
            marked.send(new, signal.SIGSTOP)
            halted |= {process.pid for process in new}
        return known

    def _forgotten(self, service: str, instance: str, *, forced: bool) -> Ended:
        secrets.remove(spawn.credentials(self._site, service, instance))
        return Ended(service, instance, forced)

    def _statuses(self) -> dict[tuple[str, str], Status]:
        """Every worker below the slice that has a process."""
        found: dict[tuple[str, str], Status] = {}
        for process in marked.living():
            name = self._name_in(process.variables.get(marked.MARK, ""))
            if name is None or name in found:
                continue
            declaration = process.variables.get(marked.DECLARATION)
            found[name] = self._status(*name, State.RUNNING, declaration, process)
        return found

    def _name_in(self, mark: str) -> tuple[str, str] | None:
        """The worker below the slice that a mark names; anybody can write one."""
        service, _, instance = mark.removeprefix(f"{self._site.slice_name}/").partition("@")
        if mark != self._mark(service, instance):
            return None
        with suppress(InputError):
            check_names(service, instance)
            return service, instance
        return None

    def _status(
        self,
        service: str,
        instance: str,
        state: State,
        declaration: str | None,
        process: Process | None = None,
    ) -> Status:
        return Status(
            service,
            instance,
            self.name,
            state,
            pid=process.pid if process else None,
            started=process.started if process else None,
            unapplied=_asked(limits_of(declaration)),
            metadata=_metadata(declaration),
            declaration=declaration,
        )


def _not_found(service: str, instance: str) -> NotFoundError:
    return NotFoundError(f"no worker {service}/{instance} runs")


def _asked(limits: Limits) -> tuple[str, ...]:
    """Every limit that was asked for: none of them holds."""
    names = [
        field.name for field in fields(limits) if getattr(limits, field.name) not in (None, ())
    ]
    if limits.swap_max is not None and "swap" not in names:
        names.append("swap")
    return tuple(names)


def _metadata(declaration: str | None) -> Mapping[str, str]:
    with suppress(ValueError, AttributeError, RecursionError):
        found = json.loads(declaration or "{}").get("metadata", {})
        return {str(key): str(value) for key, value in found.items()}
    return {}
