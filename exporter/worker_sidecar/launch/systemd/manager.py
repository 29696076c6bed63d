"""systemd's manager over D-Bus, see org.freedesktop.systemd1(5)."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from worker_sidecar.errors import InputOutputError, PermissionDeniedError
from worker_sidecar.launch.systemd.place import runtime_dir

DEADLINE = 25.0
"""Seconds for one answer, as libdbus gives. systemd answers nothing while it reloads."""

PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"

_SERVICE = "org.freedesktop.systemd1"
_JOB_REMOVED = f"type='signal',sender='{_SERVICE}',interface='{MANAGER}',member='JobRemoved'"
_GONE = (
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.NoSuchProcess",
)
_DENIED = (
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
)

Properties = Mapping[str, Any]
Answer = TypeVar("Answer")


class NoSuchUnitError(InputOutputError):
    """systemd knows no such unit, or the unit has no process."""


class Manager:
    """One connection to one manager. Raises InputOutputError when it does not answer in time, and
    PermissionDeniedError for what the caller may not do.
    """

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._removed: set[str] = set()
        self._job_removed = asyncio.Event()
        self._subscribing = asyncio.Lock()
        self._subscribed = False

    async def properties(self, unit: str) -> Properties:
        """All properties of a unit; LoadState is not-found where there is none."""
        (found,) = await self._call(unit_path(unit), PROPERTIES, "GetAll", "s", "")
        return {name: variant.value for name, variant in found.items()}

    async def units(self, pattern: str) -> Sequence[str]:
        """The names of all loaded units that match, see glob(7)."""
        arguments: tuple[Sequence[str], Sequence[str]] = ([], [pattern])
        (found,) = await self._call(PATH, MANAGER, "ListUnitsByPatterns", "asas", *arguments)
        return [unit[0] for unit in found]

    async def hold(self, unit: str) -> None:
        """Keep the unit and its result until let_go(), or the end of this connection."""
        with suppress(NoSuchUnitError):
            await self._call(PATH, MANAGER, "RefUnit", "s", unit)

    async def let_go(self, unit: str) -> None:
        """The counterpart of hold()."""
        with suppress(InputOutputError):
            await self._call(PATH, MANAGER, "UnrefUnit", "s", unit)

    async def stop(self, unit: str) -> str:
        """Stop a unit; returns the job, which is over when finished() says so."""
        await self._watch_jobs()
        (job,) = await self._call(PATH, MANAGER, "StopUnit", "ss", unit, "replace")
        return str(job)

    async def finished(self, job: str, patience: float) -> bool:
        """Wait at most `patience` seconds for the end of a job of this connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while job not in self._removed:
                    self._job_removed.clear()
                    await self._job_removed.wait()
        return job in self._removed

    async def kill(self, unit: str) -> None:
        """SIGKILL to all processes of a unit."""
        with suppress(NoSuchUnitError):
            await self._call(PATH, MANAGER, "KillUnit", "ssi", unit, "all", 9)

    async def reset_failed(self, unit: str) -> None:
        """Forget that a unit failed, and how often it was started."""
        with suppress(NoSuchUnitError):
            await self._call(PATH, MANAGER, "ResetFailedUnit", "s", unit)

    async def _watch_jobs(self) -> None:
        """Hear of the end of every job that is asked for from now on."""
        async with self._subscribing:
            if self._subscribed:
                return
            self._bus.add_message_handler(self._note)
            bus = ("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch")
            await self._call(*bus, "s", _JOB_REMOVED, destination="org.freedesktop.DBus")
            await self._call(PATH, MANAGER, "Subscribe")
            self._subscribed = True

    def _note(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "JobRemoved":
            self._removed.add(message.body[1])
            self._job_removed.set()

    async def _call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: object,
        destination: str = _SERVICE,
    ) -> list[Any]:
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(arguments),
        )
        try:
            async with asyncio.timeout(DEADLINE):
                reply = await self._bus.call(message)
        except TimeoutError as error:
            raise InputOutputError(
                f"systemd does not answer: {member} took more than {DEADLINE:.0f} s"
            ) from error
        except (OSError, EOFError, DBusFastError) as error:
            raise InputOutputError(f"the connection to systemd broke: {error}") from error
        if reply.message_type is MessageType.ERROR:
            raise _error(member, reply)
        return list(reply.body)


def ask(user: bool, question: Callable[[Manager], Awaitable[Answer]]) -> Answer:
    """What `question` answers, with a connection of its own to the system's manager, or with
    `user` to the caller's own.

    Not from within an event loop. Raises what Manager raises.
    """

    async def run() -> Answer:
        async with _connected(user) as manager:
            return await question(manager)

    return asyncio.run(run())


def bus_address(user: bool) -> str:
    """The socket of the message bus. DBUS_SESSION_BUS_ADDRESS may be another session's."""
    if user:
        return f"unix:path={runtime_dir()}/bus"
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"


def unit_path(unit: str) -> str:
    """The D-Bus object of a unit, loaded or not, see sd_bus_path_encode(3)."""
    name = "".join(
        character if character.isascii() and character.isalnum() else f"_{ord(character):02x}"
        for character in unit
    )
    if name[:1].isdigit():
        name = f"_{ord(name[0]):02x}{name[1:]}"
    return f"{PATH}/unit/{name}"


@asynccontextmanager
async def _connected(user: bool) -> AsyncIterator[Manager]:
    address = bus_address(user)
    try:
        async with asyncio.timeout(DEADLINE):
            bus = await MessageBus(bus_address=address).connect()
    except TimeoutError as error:
        raise InputOutputError(f"the message bus at {address} does not answer") from error
    except (OSError, EOFError, DBusFastError) as error:
        raise InputOutputError(f"no connection to systemd by {address}: {error}") from error
    try:
        yield Manager(bus)
    finally:
        bus.disconnect()


def _error(member: str, reply: Message) -> Exception:
    text = str(reply.body[0]) if reply.body else str(reply.error_name)
    if reply.error_name in _GONE:
        return NoSuchUnitError(f"systemd: {text}")
    if reply.error_name in _DENIED:
        return PermissionDeniedError(
            f"systemd lets uid {os.geteuid()} not do {member}: {text}; be root, or take the "
            "user's own manager (systemd-user)"
        )
    return InputOutputError(f"systemd refuses {member}: {text}")
