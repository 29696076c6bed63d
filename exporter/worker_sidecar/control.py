"""What people and programs may do with workers: every check that is not one launcher's own."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from worker_exporter import log
from worker_sidecar.claims import ClaimedError, claimed
from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    InputOutputError,
    LaunchError,
    NotFoundError,
    RefusedError,
    StoppedError,
)
from worker_sidecar.launch import best
from worker_sidecar.launch.declaration import grace_of
from worker_sidecar.launch.launcher import GRACE, Ended, Launcher, LogStream, Status, WorkerSpec
from worker_sidecar.launch.names import check_names
from worker_sidecar.ownership import check_slice
from worker_sidecar.resources import check_port, with_gpus, with_port
from worker_sidecar.secret_rules import check_secrets
from worker_sidecar.spec import EMPTY, Config
from worker_sidecar.stopped import Stopped


@dataclass(slots=True)
class Control:
    """The workers below one slice. Thread-safe, and safe against other processes that do the same:
    of simultaneous equal starts one starts, the others raise AlreadyRunningError.

    `config` tells which workers are declared and who owns `slice_name`: to change something below
    a slice that is not ours raises PermissionDeniedError, unless `emergency` is a reason to do it
    nevertheless, which is logged. Without a `slice_name` nobody else can own it. Not `monitored`:
    the workers have no cgroup, so no exporter sees them.
    """

    launcher: Launcher
    stopped: Stopped
    emergency: str | None = None
    config: Config = EMPTY
    slice_name: str | None = None
    monitored: bool = True

    def start(self, declared_spec: WorkerSpec, *, strict: bool = False) -> Status:
        """Start a worker, with the GPUs it asks for. It is no longer stopped on purpose.

        Limits that do not hold afterwards are a warning; `strict` ends the worker again and raises
        CreationFailedError. Raises what Launcher.start raises, RefusedError for a port that another
        worker has, and StoppedError when somebody stops a declared worker meanwhile.
        """
        return self._start(declared_spec, self._take_back, strict)

    def restore(self, declared_spec: WorkerSpec, *, strict: bool = False) -> Status:
        """As start(), but a worker that is stopped on purpose stays so: StoppedError."""
        return self._start(declared_spec, self._check_wanted, strict)

    def replace(self, declared_spec: WorkerSpec, *, strict: bool = False) -> Status:
        """Stop a worker and start it again as `declared_spec` says. What can be seen to be wrong
        with the new one is found before the old one is stopped. Raises as restore().
        """
        self.check_writable("replace", declared_spec.name, declared_spec.service)
        spec = with_port(declared_spec)
        with self._claimed(spec):
            self.launcher.commands(self._prepared_beside_itself(spec))
            # no marker: after a SIGKILL in between, the next apply starts the worker
            with suppress(NotFoundError):
                grace = self._grace(spec.service, spec.instance)
                self.launcher.stop(spec.service, spec.instance, grace)
            with self._choosing(spec):
                spec = self._prepared_beside_itself(spec)
                self._check_wanted(spec)
                status = self._launched(spec)
        return self._judged(spec, status, strict)

    def commands(self, declared_spec: WorkerSpec) -> Sequence[str]:
        """The shell lines that do what start() does; nothing is done."""
        return self.launcher.commands(self._prepared_beside_itself(with_port(declared_spec)))

    def stop(self, service: str, instance: str, grace: float | None = None) -> Ended:
        """End a worker and stay with it: a declared one is marked as stopped on purpose, even when
        it does not run. `grace` None is the grace that the worker was started with.

        Raises what Launcher.stop raises.
        """
        check_names(service, instance)
        self.check_writable("stop", f"{service}/{instance}", service)
        with self._marked(service, instance):
            if grace is None:
                grace = self._grace(service, instance)
            return self.launcher.stop(service, instance, grace)

    def kill(self, service: str, instance: str) -> Ended:
        """As stop(), with SIGKILL at once."""
        check_names(service, instance)
        self.check_writable("kill", f"{service}/{instance}", service)
        with self._marked(service, instance):
            return self.launcher.kill(service, instance)

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        """Stop all workers and remove the slice; every declared worker is stopped on purpose."""
        self.check_writable("down", self.slice_name or "all workers")
        for declared in self.config.workers:
            self.stopped.mark(declared.spec.service, declared.spec.instance)
        return self.launcher.down(grace)

    def list(self) -> Sequence[Status]:
        """See Launcher.list."""
        return self.launcher.list()

    def status(self, service: str, instance: str) -> Status:
        """See Launcher.status."""
        check_names(service, instance)
        return self.launcher.status(service, instance)

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        """See Launcher.logs."""
        check_names(service, instance)
        return self.launcher.logs(service, instance, lines, follow=follow)

    def check_writable(self, doing: str, what: str, service: str | None = None) -> None:
        """Raises PermissionDeniedError when `doing` something to `what`, of that service or of the
        whole slice, is not for us to do.
        """
        if self.emergency is not None:
            fields = {"slice": self.slice_name, "reason": self.emergency, "uid": os.getuid()}
            log.warn("emergency: ownership is not asked", doing=doing, what=what, **fields)
        elif self.slice_name is not None:
            # somebody else may own the slice of one service below ours
            within = "" if service is None else f"-{service}"
            self.config.ownership.check(f"{self.slice_name.removesuffix('.slice')}{within}.slice")

    def _start(
        self, declared_spec: WorkerSpec, agree: Callable[[WorkerSpec], None], strict: bool
    ) -> Status:
        """start(), where `agree` is asked, last of all, whether it may be."""
        self.check_writable("start", declared_spec.name, declared_spec.service)
        spec = with_port(declared_spec)
        with self._claimed(spec), self._choosing(spec):
            living = self._living(spec)
            own = living.pop(spec.name, None)
            if own is not None:
                raise _running(own)
            spec = _prepared(spec, living)
            agree(spec)
            status = self._launched(spec)
        return self._judged(spec, status, strict)

    def _launched(self, spec: WorkerSpec) -> Status:
        """Start it, but not against a stop that came meanwhile, and that may have found nothing."""
        status = self.launcher.start(spec)
        try:
            self._check_wanted(spec)
        except StoppedError:
            with suppress(NotFoundError):
                self.launcher.stop(spec.service, spec.instance, spec.grace)
            raise
        return status

    def _check_wanted(self, spec: WorkerSpec) -> None:
        """Raises StoppedError for a worker that is stopped on purpose."""
        if (spec.service, spec.instance) in self.stopped.names():
            raise StoppedError(f"{spec.name} was not started: somebody stopped it on purpose")

    def _take_back(self, spec: WorkerSpec) -> None:
        """The worker is no longer stopped on purpose, unless its stop is still under way."""
        if (spec.service, spec.instance) not in self.stopped.names():
            return
        with suppress(NotFoundError, LaunchError):
            status = self.launcher.status(spec.service, spec.instance)
            if status.alive:
                raise _running(status)
        self.stopped.clear(spec.service, spec.instance)

    @contextmanager
    def _marked(self, service: str, instance: str) -> Iterator[None]:
        """Stopped on purpose from now on, unless the stop is one that is not even tried."""
        name = (service, instance)
        # An undeclared worker has nobody who would start it again; and if it is declared some day,
        # a marker of today must not keep it down.
        if self.config.find(*name) is None or name in self.stopped.names():
            yield
            return
        self.stopped.mark(*name)
        try:
            yield
        except (InputError, RefusedError):  # nothing was done
            self.stopped.clear(*name)
            raise

    def _grace(self, service: str, instance: str) -> float:
        return grace_of(self.launcher.status(service, instance).declaration)

    @contextmanager
    def _claimed(self, spec: WorkerSpec) -> Iterator[None]:
        """Nobody else starts this worker, or one with its port."""
        name = f"{spec.service}@{spec.instance}"
        ports = [f"port-{spec.metadata['port']}"] if "port" in spec.metadata else []
        try:
            with claimed(self.stopped.run_dir, [name, *ports]):
                yield
        except ClaimedError as error:
            if error.claim == name:
                raise AlreadyRunningError(_held_up(spec, error)) from None
            raise InputOutputError(_held_up(spec, error)) from None

    @contextmanager
    def _choosing(self, spec: WorkerSpec) -> Iterator[None]:
        """Nobody else chooses a GPU. To be claimed last: then nobody waits in a circle."""
        try:
            with claimed(self.stopped.run_dir, [] if spec.gpu is None else ["gpu"]):
                yield
        except ClaimedError as error:
            raise InputOutputError(_held_up(spec, error)) from None

    def _prepared_beside_itself(self, spec: WorkerSpec) -> WorkerSpec:
        """_prepared(), as if the worker itself did not run."""
        living = self._living(spec)
        living.pop(spec.name, None)
        return _prepared(spec, living)

    def _living(self, spec: WorkerSpec) -> dict[str, Status]:
        """The workers by name that could be in the way of `spec`; {} when nothing could collide."""
        if "port" not in spec.metadata and spec.gpu is None:
            return {}
        return {status.name: status for status in self.launcher.list() if status.alive}

    def _judged(self, spec: WorkerSpec, status: Status, strict: bool) -> Status:
        """`status`, once said what does not hold."""
        if not status.unapplied:
            return status
        limits = ", ".join(status.unapplied)
        if not strict:
            log.warn(
                "limits that do not hold on this host",
                service=spec.service,
                instance=spec.instance,
                limits=limits,
            )
            return status
        with suppress(NotFoundError):
            self.launcher.stop(spec.service, spec.instance, spec.grace)
        raise CreationFailedError(
            f"{spec.name} was ended again: its limits of {limits} do not hold on this host"
        )


def open_control(
    config: Config,
    slice_name: str | None = None,
    forced: str | None = None,
    emergency: str | None = None,
) -> Control:
    """Control over the workers below `slice_name` (None: the configuration's own) by the best
    launcher, or the one of best.FORCED.

    Raises PermissionDeniedError when that slice is not ours to change, and InputError.
    """
    if emergency is None:
        config.ownership.check(slice_name or config.slice_name)
    return open_reading(config, slice_name, forced, emergency)


def open_reading(
    config: Config,
    slice_name: str | None = None,
    forced: str | None = None,
    emergency: str | None = None,
) -> Control:
    """As open_control, whoever owns the slice: only a change asks."""
    name = slice_name or config.slice_name
    check_slice(name)
    site = best.site_for(name)
    choice = best.choose(site, forced)
    say = log.info if choice.monitored else log.warn
    say("launcher chosen", launcher=choice.launcher.name, reason=choice.reason)
    launcher = choice.launcher
    if choice.monitored and forced != "docker":
        launcher = best.with_docker(choice.launcher, site)
    return Control(launcher, Stopped(site.run_dir), emergency, config, name, choice.monitored)


def _running(status: Status) -> AlreadyRunningError:
    return AlreadyRunningError(f"{status.name} is already running ({status.state})")


def _held_up(spec: WorkerSpec, error: ClaimedError) -> str:
    return f"{spec.name} was not started: another start holds {error.claim}, without end"


def _prepared(spec: WorkerSpec, living: Mapping[str, Status]) -> WorkerSpec:
    """`spec` with its GPUs, once nothing is known to be against it."""
    check_secrets(spec)
    check_port(spec, living.values())
    return with_gpus(spec, living.values())
