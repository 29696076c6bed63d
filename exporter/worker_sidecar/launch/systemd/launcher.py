"""Workers as transient units of systemd."""

import asyncio
import os
import shlex
import shutil
from collections.abc import Sequence

from worker_sidecar.errors import InputError, NotFoundError
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import (
    GRACE,
    Ended,
    LogStream,
    State,
    Status,
    WorkerSpec,
)
from worker_sidecar.launch.names import check_names
from worker_sidecar.launch.site import Site
from worker_sidecar.launch.systemd import ending, journal, reading, slices, starting
from worker_sidecar.launch.systemd.command import run_command
from worker_sidecar.launch.systemd.manager import (
    Manager,
    NoSuchUnitError,
    Properties,
    ask,
    bus_address,
)
from worker_sidecar.launch.systemd.place import Place, runtime_dir


class SystemdLauncher:
    """Runs each worker as `<stem>-<service>@<instance>.service` in `<stem>-<service>.slice`.

    `user` takes the caller's own manager instead of the system's.
    """

    def __init__(self, site: Site, *, user: bool) -> None:
        self._place = Place(site.slice_name, site.mount, user)

    @property
    def name(self) -> str:
        """See Launcher.name."""
        return "systemd --user" if self._place.user else "systemd"

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        """See Launcher.commands. Properties of slices that are set already are not among them."""
        run = run_command(spec, self._place)

        async def look(manager: Manager) -> list[Sequence[str]]:
            return [*await slices.preparations(manager, spec, self._place), run]

        return [shlex.join(command) for command in ask(self._place.user, look)]

    def start(self, spec: WorkerSpec) -> Status:
        """See Launcher.start. A worker that ended well at once is ENDED."""
        run = run_command(spec, self._place)
        unit = self._place.unit(spec.service, spec.instance)

        async def launch(manager: Manager) -> Status | None:
            before = await slices.preparations(manager, spec, self._place)
            await starting.start(manager, spec, self._place, [*before, run])
            return self._status(spec.service, spec.instance, await manager.properties(unit))

        found = ask(self._place.user, launch)
        if found is None:
            return Status(
                spec.service,
                spec.instance,
                self.name,
                State.ENDED,
                unit=unit,
                metadata=spec.attributes,
                declaration=encode(spec),
            )
        if found.cgroup is not None:
            slices.warn_of_unapplied(spec, found.cgroup, self._place)
        return found

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        """See Launcher.stop. Raises InputError for a grace above the unit's own TimeoutStopSec=."""
        check_names(service, instance)
        if grace < 0:
            raise InputError(f"grace is {grace}; give a number of seconds, 0 or more")
        return ask(self._place.user, lambda manager: self._end(manager, service, instance, grace))

    def kill(self, service: str, instance: str) -> Ended:
        """See Launcher.kill. A stop is asked for first, so that no restart follows: SIGTERM may
        reach the worker a moment before SIGKILL does.
        """
        return self.stop(service, instance, 0)

    def status(self, service: str, instance: str) -> Status:
        """See Launcher.status."""
        check_names(service, instance)
        unit = self._place.unit(service, instance)
        found = ask(self._place.user, lambda manager: manager.properties(unit))
        status = self._status(service, instance, found)
        if status is None:
            raise self._not_found(service, instance)
        return status

    def list(self) -> Sequence[Status]:
        """See Launcher.list."""
        return ask(self._place.user, self._all)

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        """See Launcher.logs: what the worker wrote, and systemd's own lines about it."""
        check_names(service, instance)
        unit = self._place.unit(service, instance)
        place = self._place
        invocation = ask(place.user, lambda manager: journal.invocation_of(manager, unit))
        if invocation is None:
            invocation = journal.last_invocation(unit, place)
        return journal.follow(invocation, lines, place, follow=follow)

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        """See Launcher.down. Whatever else is in the slice ends with it. When a worker does not
        end, the others do, and the slice stays.
        """
        return ask(self._place.user, lambda manager: self._down(manager, grace))

    async def _down(self, manager: Manager, grace: float) -> Sequence[Ended]:
        workers = await self._all(manager)
        ends = await asyncio.gather(
            *(self._end(manager, each.service, each.instance, grace) for each in workers),
            return_exceptions=True,
        )
        # one that ended meanwhile is as gone as it should be
        failures = [
            end
            for end in ends
            if isinstance(end, BaseException) and not isinstance(end, NotFoundError)
        ]
        if failures:
            raise failures[0]
        found = await manager.properties(self._place.slice_name)
        if found.get("ActiveState") not in ("inactive", "failed"):
            await ending.end(manager, self._place.slice_name, grace, self._place)
        slices.forget(self._place)
        return [end for end in ends if isinstance(end, Ended)]

    async def _end(self, manager: Manager, service: str, instance: str, grace: float) -> Ended:
        unit = self._place.unit(service, instance)
        if self._status(service, instance, await manager.properties(unit)) is None:
            raise self._not_found(service, instance)
        try:
            end = await ending.end(manager, unit, grace, self._place)
        except NoSuchUnitError:  # it ended by itself a moment before
            raise self._not_found(service, instance) from None
        result, exit_status = reading.end_of(end.properties)
        return Ended(service, instance, end.forced, result, exit_status)

    async def _all(self, manager: Manager) -> Sequence[Status]:
        names = {
            unit: names
            for unit in await manager.units(self._place.units)
            if (names := self._place.names_of(unit)) is not None
        }
        # in turn: each answer costs us 10 ms, and has a deadline that begins when it is asked for
        found = [await manager.properties(unit) for unit in names]
        statuses = [
            self._status(*its_names, its)
            for its_names, its in zip(names.values(), found, strict=True)
        ]
        return sorted(
            (status for status in statuses if status is not None),
            key=lambda status: (status.service, status.instance),
        )

    def _status(self, service: str, instance: str, found: Properties) -> Status | None:
        return reading.status_of(service, instance, found, self._place, self.name)

    def _not_found(self, service: str, instance: str) -> NotFoundError:
        unit = self._place.unit(service, instance)
        return NotFoundError(f"no worker {service}/{instance}: there is no unit {unit}")


def unavailable(*, user: bool | None = None) -> str | None:
    """Why no transient unit can be made here, None when one can. `user` asks about the caller's
    own manager; None takes the one that is usual: root the system's, others their own.
    """
    if not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here"
    if shutil.which("systemd-run") is None:
        return "systemd-run is not installed"
    own = os.geteuid() != 0 if user is None else user
    if own and not os.path.exists(f"{runtime_dir()}/systemd/private"):
        return f"uid {os.geteuid()} has no user manager (loginctl enable-linger makes one)"
    kind, _, path = bus_address(own).partition("unix:path=")
    if not kind and not os.path.exists(path.split(",")[0]):
        return f"systemd has no message bus at {path} (install dbus and dbus-user-session)"
    return None
