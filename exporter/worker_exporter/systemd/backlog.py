"""Units whose properties are to be read, some at once, until none is left."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from worker_exporter import log

# The system bus of dbus-daemon allows 128 calls without an answer, of which a unit needs up to 14,
# and the next list of all units is only answered after them.
_AT_ONCE = 4


class Backlog:
    """Belongs to one event loop. `read` brings one unit up to date."""

    def __init__(self, read: Callable[[str], Awaitable[None]]) -> None:
        self._read = read
        self._due: dict[str, None] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._empty = asyncio.Event()

    def replace(self, units: Iterable[str]) -> None:
        """Read these units next, in this order, and of the others only those that are begun."""
        self._due = dict.fromkeys(unit for unit in units if unit not in self._under_way)
        self._empty.clear()
        self._go_on()

    def clear(self) -> None:
        """Read nothing more, and end what is begun."""
        self._due = {}
        for task in self._under_way.values():
            task.cancel()

    async def emptied(self) -> None:
        """Wait until nothing is left to read."""
        await self._empty.wait()

    def _go_on(self) -> None:
        while self._due and len(self._under_way) < _AT_ONCE:
            unit = next(iter(self._due))
            del self._due[unit]
            task = self._under_way[unit] = asyncio.ensure_future(self._read(unit))
            task.add_done_callback(partial(self._ended, unit))
        if not self._under_way:
            self._empty.set()

    def _ended(self, unit: str, task: "asyncio.Task[None]") -> None:
        del self._under_way[unit]
        if not task.cancelled() and (error := task.exception()):
            log.error("reading a unit failed", unit=unit, **log.describe(error))
        self._go_on()
