"""One manager of systemd: its connection, what is kept of it, and what becomes of its failures."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker_exporter import log
from worker_exporter.backoff import Backoff
from worker_exporter.systemd.backlog import Backlog
from worker_exporter.systemd.bus import BusError, NoConnectionError, connect
from worker_exporter.systemd.following import Followed, Following
from worker_exporter.systemd.manager import Manager, UnreadableError
from worker_exporter.systemd.unit import Report, Unit, cgroup_path

_READING_PATIENCE = 10.0
"""Seconds that all properties of one unit may take."""

_ADVICE: Mapping[type[BaseException], str] = {
    OSError: "on a host without systemd give --no-collector.units, "
    "in a container mount /run/dbus/system_bus_socket",
    EOFError: "the bus takes only users that the host's passwd knows: run the exporter as one of "
    "them, or with DynamicUser= install libnss-systemd",
}
"""What to do about a connection that the system's bus does not give, by the error."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a pass wants to know: details of the units in `alive` (with the inodes of their
    cgroups), and of those down whose cgroup would be a worker's, until `deadline` (loop time).
    """

    alive: Mapping[str, Mapping[str, int]]
    is_worker: Callable[[str], bool]
    deadline: float


class LateError(BusError):
    """The manager said nothing in time; it may yet."""


class Client:
    """Asks the manager whose units lie below the cgroup path `prefix`, by its bus at `address`.

    Belongs to one event loop. After a failure nobody waits until an attempt beside has succeeded,
    and after a wait for properties of which none came nobody waits until one has; `is_late` is
    whether the last failure was only that nothing came in time.
    """

    def __init__(
        self, prefix: str, address: str, patience: float, clock: Callable[[], float]
    ) -> None:
        self._prefix = prefix
        self._address = address
        self._patience = patience
        self._backoff = Backoff(clock)
        self._asking = asyncio.Lock()
        self.is_late = False
        self._manager: Manager | None = None
        self._is_broken = False
        self._said_it_fails = False
        self._retry: asyncio.Task[None] | None = None
        self._is_worker: Callable[[str], bool] = bool
        self._following = Following()
        self._backlog = Backlog(self._read)
        self._read_so_far = 0
        self._read_before_failure = 0
        self._read_in_vain: int | None = None

    @property
    def is_absent(self) -> bool:
        """Whether this is a user's manager that does not run."""
        path = self._address.removeprefix("unix:path=")
        return self._prefix != "" and path.startswith("/") and not os.path.exists(path)

    async def close(self) -> None:
        """End the connection; does not wait for anybody else."""
        manager = self._manager
        self.forget()
        if manager is not None:
            await manager.bus.closed()

    def forget(self) -> None:
        """Begin anew, as if it had never been asked."""
        self._disconnect()
        if self._retry is not None:
            self._retry.cancel()
        self._is_broken = False
        self._said_it_fails = False
        self._backoff.succeeded()
        self._following = Following()

    async def report(self, question: Question) -> Report | None:
        """What the manager says, with what could be read until the deadline; None if it failed."""
        if not await self._see(question):
            return None
        await self._wait_until(question.deadline)
        if self._is_broken:
            return None
        report = self._following.report()
        if not report.pending or self._read_so_far > self._read_before_failure:
            self._say_it_is_back()
        return report

    async def _wait_until(self, deadline: float) -> None:
        """Wait until all that is due is read; not while the last wait was in vain."""
        before = self._read_so_far
        if self._read_in_vain == before:
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._backlog.emptied()
        except TimeoutError:
            self._read_in_vain = before if self._read_so_far == before else None

    async def _see(self, question: Question) -> bool:
        """List all units and begin to read what is due; False where that failed."""
        async with self._asking:
            if self._is_broken:
                self._try_beside()
                return False
            try:
                units = await self._list_until(question.deadline)
            except BusError as error:
                self._fail(error)
                return False
            self._is_worker = question.is_worker
            self._following.see(units, question.alive.get(self._prefix, {}))
            self._backlog.replace(self._following.due())
            return True

    async def _list_until(self, deadline: float) -> dict[str, Unit]:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._list()
        except TimeoutError as error:
            raise LateError("no list of units in time") from error

    async def _list(self) -> dict[str, Unit]:
        # A bus that was restarted between two scrapes is no failure.
        if self._manager is not None and not self._manager.bus.is_connected:
            self._disconnect()
        if self._manager is None:
            self._manager = Manager(await connect(self._address))
        return await self._manager.units(self._following.units)

    async def _read(self, name: str) -> None:
        """Bring what is known of one unit up to date; what cannot be read stays pending."""
        manager = self._manager
        if manager is None:
            return
        try:
            async with asyncio.timeout(_READING_PATIENCE):
                await self._bring_up_to_date(manager, name)
            self._read_so_far += 1
        except TimeoutError:
            self._fail(LateError(f"no properties of {name} within {_READING_PATIENCE:g} s"))
        except BusError as error:
            self._fail(error)

    async def _bring_up_to_date(self, manager: Manager, name: str) -> None:
        while (unit := self._following.stale(name)) is not None:
            try:
                await self._update(manager, unit)
            except UnreadableError:
                # Unless it was listed anew meanwhile, perhaps in another state.
                if self._following.stale(name) is unit:
                    return

    async def _update(self, manager: Manager, unit: Followed) -> None:
        name = unit.unit.name
        if not unit.is_worker:
            path = cgroup_path(self._prefix, await manager.slice_of(name), name)
            if not self._is_worker(path):
                self._following.is_stranger(name)
                return
            unit.is_worker = True
        reading = unit.reading
        if reading is None or not await manager.is_as_read(unit.unit, reading):
            reading = await manager.read(unit.unit)
        self._following.take(unit, reading)

    def _fail(self, error: BusError) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        self._read_before_failure = self._read_so_far
        self.is_late = isinstance(error, LateError)
        self._disconnect()
        self._backoff.failed()
        if self._said_it_fails:
            return
        self._said_it_fails = True
        log.warn(f"systemd does not answer{self._advice(error)}", **self._fields, err=str(error))

    def _advice(self, error: BusError) -> str:
        if self._prefix or not isinstance(error, NoConnectionError):
            return ""
        fitting = (text for kind, text in _ADVICE.items() if isinstance(error.__cause__, kind))
        return "".join(f"; {text}" for text in fitting)

    def _say_it_is_back(self) -> None:
        self._backoff.succeeded()
        if self._said_it_fails:
            self._said_it_fails = False
            log.info("systemd answers again", **self._fields)

    def _try_beside(self) -> None:
        if self._backoff.is_over and (self._retry is None or self._retry.done()):
            self._retry = asyncio.ensure_future(self._try_again())

    async def _try_again(self) -> None:
        try:
            await self._list_until(asyncio.get_running_loop().time() + self._patience)
        except BusError as error:
            self.is_late = isinstance(error, LateError)
            self._disconnect()
            self._backoff.failed()
        else:
            self._is_broken = False

    def _disconnect(self) -> None:
        self._backlog.clear()
        if self._manager is not None:
            self._manager.bus.close()
            self._manager = None

    @property
    def _fields(self) -> dict[str, str]:
        return {"manager": self._prefix.rpartition("/")[2] or "system", "address": self._address}
