"""The launcher for hosts without systemd, see Launcher."""

import os
from collections.abc import Iterator, MutableSequence, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from worker_exporter import log
from worker_exporter.cgroup.identity import slice_path
from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    InputOutputError,
    KillFailedError,
    NotFoundError,
    RefusedError,
    SidecarError,
)
from worker_sidecar.launch import applied, cgroup, secrets, spawn
from worker_sidecar.launch.cgroupfs import hierarchy, marks, shell
from worker_sidecar.launch.declaration import encode, image_of, limits_of
from worker_sidecar.launch.launcher import (
    GRACE,
    Ended,
    LogStream,
    Restart,
    State,
    Status,
    WorkerSpec,
)
from worker_sidecar.launch.limits import NO_LIMITS, Limits
from worker_sidecar.launch.names import check_names
from worker_sidecar.launch.output import FileLog
from worker_sidecar.launch.site import Site

_TRIES = 100
"""How often to begin again when others start, stop and remove the same worker meanwhile."""

_AT_ONCE = 64
"""Workers that down() stops at the same time."""


class CgroupfsLauncher:
    """Makes a directory for each worker, `<slice>/<service>/<instance>`, and starts it inside.

    Nothing supervises a worker afterwards. What is known of it is on its directory, which stays
    when the worker ends, until the next start, stop or down. Output goes to
    `<log_dir>/<service>/<instance>.log`, that of the run before to `.log.1`.

    Without root the slice lies below the sidecar's own delegated cgroup, see hierarchy.base_of;
    worker-exporter finds such workers by --worker.pattern, as in
    `system\\.slice/worker-sidecar\\.service/worker\\.slice/(?P<service>[^/]+)/(?P<instance>[^/]+)`.
    """

    name = "cgroupfs"

    def __init__(self, site: Site) -> None:
        if site.mount is None:
            raise InputError("no cgroup2 of this host is mounted here: no cgroup can be made")
        self._site = site
        self._mount = site.mount
        self._base = hierarchy.base_of(site.mount)
        self._slice = slice_path(site.slice_name)

    @property
    def directory(self) -> str:
        """The slice's directory."""
        return f"{self._base}/{self._slice}"

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        """See Launcher.commands."""
        start = self._prepared(spec)
        return shell.command_lines(self._base, self._path(spec.service, spec.instance), start)

    def start(self, spec: WorkerSpec) -> Status:
        """See Launcher.start."""
        start = self._prepared(spec)
        made: list[str] = []
        try:
            with self._fresh(spec, made) as (directory, hold):
                self._launch(start, directory, hold)
        except BaseException:
            hierarchy.remove_made(made)
            raise
        return self.status(spec.service, spec.instance)

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        """See Launcher.stop."""
        return self._end(service, instance, grace)

    def kill(self, service: str, instance: str) -> Ended:
        """See Launcher.kill."""
        return self._end(service, instance, None)

    def status(self, service: str, instance: str) -> Status:
        """See Launcher.status."""
        directory = self._directory(service, instance)
        try:
            os.stat(directory)
        except FileNotFoundError:
            raise self._not_found(service, instance) from None
        except OSError as error:
            raise InputOutputError(f"cannot read {directory}: {error.strerror}") from error
        alive = cgroup.populated(directory)
        attributes = cgroup.attributes(directory)
        declaration = attributes.get(marks.DECLARATION)
        return Status(
            service,
            instance,
            self.name,
            State.RUNNING if alive else State.ENDED,
            cgroup=directory.removeprefix(f"{self._mount}/"),
            pid=marks.main_process(directory, attributes) if alive else None,
            started=marks.started(attributes),
            result=None if alive else _result(directory),
            unapplied=applied.unapplied(directory, limits_of(declaration)),
            metadata=marks.metadata(attributes),
            declaration=declaration,
        )

    def list(self) -> Sequence[Status]:
        """See Launcher.list."""
        found = []
        for service, instance in self._names():
            with suppress(NotFoundError):
                found.append(self.status(service, instance))
        return found

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
        """See Launcher.down. The workers end side by side; one that does not is raised last.

        The cgroups of containers are left to the daemon, and so is the slice around them.
        """
        names = [name for name in self._names() if not self._is_container(*name)]
        with ThreadPoolExecutor(_AT_ONCE, "down") as threads:
            results = list(threads.map(lambda name: self._ended_or_why(name, grace), names))
        for service in _subdirectories(self.directory):
            with suppress(OSError):
                os.rmdir(f"{self.directory}/{service}")
        path = self.directory
        while path != self._base:
            with suppress(OSError):
                os.rmdir(path)
            path = os.path.dirname(path)
        for result in results:
            if isinstance(result, SidecarError):
                raise result
        return [result for result in results if isinstance(result, Ended)]

    def _prepared(self, spec: WorkerSpec) -> spawn.Start:
        """All that can be wrong with `spec` is found before anything is made."""
        if spec.image is not None:
            raise RefusedError(f"{spec.name} has an image: Docker starts it, not plain cgroups")
        if spec.restart is not Restart.NO:
            raise RefusedError(
                f"{spec.name} has restart: {spec.restart}, but nothing supervises a worker in a "
                "plain cgroup: leave it away, or use a host with systemd"
            )
        for limits in (spec.limits, spec.service_limits, spec.host_limits):
            applied.check(limits or NO_LIMITS)
        return spawn.prepare(spec, self._site)

    @contextmanager
    def _fresh(self, spec: WorkerSpec, made: MutableSequence[str]) -> Iterator[tuple[str, int]]:
        """The worker's new directory, and the lock on it that keeps others from starting it.

        `made` gets the directories above it that were made. Raises AlreadyRunningError.
        """
        directory = self._directory(spec.service, spec.instance)
        with ExitStack() as stack:
            for _ in range(_TRIES):
                made.extend(self._made(spec))
                with suppress(FileNotFoundError):  # somebody removed it at once
                    hold = stack.enter_context(cgroup.locked(directory))
                    if cgroup.populated(directory):
                        raise AlreadyRunningError(f"{spec.name} is already running")
                    if marks.STARTED not in cgroup.attributes(directory):
                        break
                    # counters begin anew with each run, so its directory is a new one
                    self._forget(spec.service, spec.instance, directory)
                    stack.close()
            else:
                raise CreationFailedError(f"cannot start {spec.name}: others remove its cgroup")
            yield directory, hold

    def _made(self, spec: WorkerSpec) -> Sequence[str]:
        """Make the worker's directory, and limit what is above it."""
        made = hierarchy.create_hierarchy(self._base, self._path(spec.service, spec.instance))
        service = f"{self.directory}/{spec.service}"
        _limit(self.directory, spec.host_limits, spec.name)
        _limit(service, spec.service_limits, spec.name)
        return made

    def _launch(self, start: spawn.Start, directory: str, hold: int) -> None:
        """Fill a new directory, and start the worker in it; else nothing is left of both."""
        spec = start.spec
        if self._base == self._mount and os.path.isdir("/run/systemd/system"):
            log.warn(
                "systemd runs here and may take limits away from cgroups that it did not make",
                cgroup=directory,
            )
        try:
            # the exporter may find the new directory at any moment: first the metadata
            marks.mark(directory, spec, encode(spec))
            applied.apply(directory, spec.limits)
            if spec.delegate and start.account.switch:
                marks.delegate(directory, start.account)
            pid = spawn.spawn(start, hold, directory)
        except BaseException as error:
            cgroup.kill(directory)
            cgroup.remove(directory)
            if not isinstance(error, OSError):
                raise
            raise CreationFailedError(
                f"cannot start {spec.name} in {directory}: {error.strerror}"
            ) from error
        log.info("worker started", service=spec.service, instance=spec.instance, pid=pid)

    def _end(self, service: str, instance: str, grace: float | None) -> Ended:
        """Stop a worker, or kill it (`grace` None), and remove its directory.

        The lock is not held while it ends: a kill overtakes a stop that waits.
        """
        directory = self._directory(service, instance)
        inode = _inode(directory)
        if inode is None:
            raise self._not_found(service, instance)
        forced = False
        for _ in range(_TRIES):
            if grace is None:
                forced = cgroup.populated(directory) or forced
                cgroup.kill(directory)
            else:
                forced = cgroup.end(directory, grace) or forced
            with suppress(FileNotFoundError), cgroup.locked(directory):
                if _inode(directory) != inode:
                    break  # somebody started it anew
                if cgroup.populated(directory):
                    continue  # a start was at work on it, and is done now
                result = _result(directory)
                self._forget(service, instance, directory)
                return Ended(service, instance, forced, result)
            break
        else:
            raise KillFailedError(f"{service}/{instance} is filled again each time it was ended")
        return Ended(service, instance, forced)

    def _ended_or_why(self, name: tuple[str, str], grace: float) -> Ended | SidecarError:
        try:
            return self._end(*name, grace)
        except SidecarError as error:
            return error

    def _forget(self, service: str, instance: str, directory: str) -> None:
        """Remove what a run left, once it is empty; its output stays."""
        log.debug("cgroup removed", cgroup=directory, result=_result(directory))
        cgroup.remove(directory)
        secrets.remove(spawn.credentials(self._site, service, instance))

    def _names(self) -> Sequence[tuple[str, str]]:
        """Service and instance of every directory that can be a worker's."""
        found = []
        for service in _subdirectories(self.directory):
            for instance in _subdirectories(f"{self.directory}/{service}"):
                with suppress(InputError):
                    check_names(service, instance)
                    found.append((service, instance))
        return found

    def _is_container(self, service: str, instance: str) -> bool:
        attributes = cgroup.attributes(self._directory(service, instance))
        return image_of(attributes.get(marks.DECLARATION)) is not None

    def _path(self, service: str, instance: str) -> str:
        check_names(service, instance)
        return f"{self._slice}/{service}/{instance}"

    def _directory(self, service: str, instance: str) -> str:
        return f"{self._base}/{self._path(service, instance)}"

    def _not_found(self, service: str, instance: str) -> NotFoundError:
        return NotFoundError(f"no worker {service}/{instance} below {self._slice}")


def _limit(directory: str, limits: Limits | None, worker: str) -> None:
    """Limits of all workers together, in place of those of before."""
    missing = applied.replace(directory, limits)
    if missing:
        log.warn(
            "limits above a worker that do not hold on this host",
            worker=worker,
            cgroup=directory,
            limits=", ".join(missing),
        )


def _result(directory: str) -> str | None:
    """How the run ended, as far as its cgroup tells: nobody waits for its processes."""
    with suppress(OSError), open(f"{directory}/memory.events", encoding="utf-8") as events:
        for line in events:
            if line.startswith("oom_kill ") and int(line.split()[1]):
                return "oom-kill"
    return None


def _inode(directory: str) -> int | None:
    try:
        return os.stat(directory).st_ino
    except FileNotFoundError:
        return None


def _subdirectories(directory: str) -> Sequence[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputOutputError(f"cannot read {directory}: {error.strerror}") from error
