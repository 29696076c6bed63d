"""The questions to one manager of systemd over D-Bus, see org.freedesktop.systemd1(5)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbus_fast import Message, MessageFlag

from worker_exporter.systemd.bus import Bus, BusError
from worker_exporter.systemd.details import (
    NEWER,
    STATE_CHANGED,
    SUB_STATE,
    Property,
    details_of,
    properties_of,
    resettable,
    slice_property,
)
from worker_exporter.systemd.unit import Details, Unit

_SERVICE = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_NO_PROPERTY = (
    "org.freedesktop.DBus.Error.UnknownProperty",
    "org.freedesktop.DBus.Error.InvalidArgs",
)
_NO_UNIT = (
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.LoadFailed",
    "org.freedesktop.DBus.Error.UnknownObject",
    "org.freedesktop.DBus.Error.UnknownInterface",
    "org.freedesktop.DBus.Error.UnknownMethod",
)


class UnreadableError(Exception):
    """One unit cannot be read: it is gone, or is no longer as it was listed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a unit; `changed` is its StateChangeTimestampMonotonic, in microseconds."""

    changed: int
    details: Details


class Manager:
    """The manager behind `bus`. All questions raise BusError, and wait without limit.

    systemd answers the questions of one connection in their order.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._unknown: set[Property] = set()

    async def units(self, before: Mapping[str, Unit]) -> dict[str, Unit]:
        """All loaded services and scopes by name; one that is as it was `before` is that object.

        A call of ListUnitsByPatterns.
        """
        question = _question(
            _PATH,
            f"{_SERVICE}.Manager",
            "ListUnitsByPatterns",
            "asas",
            [[], ["*.service", "*.scope"]],
        )
        (rows,) = await self.bus.call(question, "a(ssssssouso)")
        return {row[0]: _unit(row, before.get(row[0])) for row in rows}

    async def slice_of(self, unit: str) -> str:
        """The slice that a service or scope is in. Raises UnreadableError."""
        return str(await self._required(unit, slice_property(unit)))

    async def is_as_read(self, unit: Unit, reading: Reading) -> bool:
        """Whether a unit has not changed since the reading. Raises UnreadableError.

        StateChangeTimestampMonotonic tells, but for `systemctl reset-failed` of one that did not
        fail: that sets Result and NRestarts back without a change of state.
        """
        wanted = () if unit.failed else resettable(unit.name)
        changed, *values = await asyncio.gather(
            self._required(unit.name, STATE_CHANGED),
            *(self._get(unit.name, each) for each in wanted),
        )
        known = (reading.details.result, reading.details.restarts)
        return changed == reading.changed and tuple(values) == known[: len(wanted)]

    async def read(self, unit: Unit) -> Reading:
        """The details of a unit in the state that it was listed with.

        Raises UnreadableError when it left that state, or changed twice while it was read.
        """
        for _ in range(2):
            if (reading := await self._read_once(unit)) is not None:
                return reading
        raise UnreadableError(unit.name)

    async def _read_once(self, unit: Unit) -> Reading | None:
        """None when the unit changed meanwhile: each property is an answer of its own."""
        wanted = (STATE_CHANGED, SUB_STATE, *properties_of(unit), STATE_CHANGED)
        values = await asyncio.gather(*(self._get(unit.name, each) for each in wanted))
        before, sub, *_, after = values
        if before != after:
            return None
        details = details_of({each.name: value for each, value in zip(wanted, values, strict=True)})
        # A unit's kind and its SubState decide its ActiveState.
        if before is None or sub != unit.sub or details is None:
            raise UnreadableError(unit.name)
        return Reading(before, details)

    async def _required(self, unit: str, wanted: Property) -> Any:
        value = await self._get(unit, wanted)
        if value is None:
            raise UnreadableError(unit)
        return value

    async def _get(self, unit: str, wanted: Property) -> Any:
        """The value of a property, None where systemd has no such property."""
        if wanted in self._unknown:
            return None
        question = _question(
            unit_path(unit),
            "org.freedesktop.DBus.Properties",
            "Get",
            "ss",
            [wanted.interface, wanted.name],
        )
        try:
            (variant,) = await self.bus.call(question, "v")
        except BusError as error:
            return self._without(unit, wanted, error)
        if variant.signature != wanted.signature:
            raise BusError(f"{wanted.name}: malformed answer of type {variant.signature!r}")
        return variant.value

    def _without(self, unit: str, wanted: Property, error: BusError) -> None:
        """Raise what an error to a Get means, if not that there is no such property."""
        if error.name in _NO_UNIT:
            raise UnreadableError(unit) from error
        if error.name not in _NO_PROPERTY:
            raise error
        if wanted in NEWER:
            self._unknown.add(wanted)


def unit_path(unit: str) -> str:
    """The D-Bus object of a unit, loaded or not, see sd_bus_path_encode(3)."""
    name = "".join(
        character if character.isascii() and character.isalnum() else f"_{ord(character):02x}"
        for character in unit
    )
    if name[:1].isdigit():
        name = f"_{ord(name[0]):02x}{name[1:]}"
    return f"{_PATH}/unit/{name}"


def _unit(row: Sequence[Any], before: Unit | None) -> Unit:
    """A unit of a row: name, description, load state, active state, sub state, followed unit,
    object, job id, job type, job object.
    """
    name, active, sub, job = row[0], row[3], row[4], row[7]
    if before and before.active == active and before.sub == sub and before.job == job:
        return before
    return Unit(name, active, sub, job)


def _question(
    path: str, interface: str, member: str, signature: str, arguments: list[Any]
) -> Message:
    return Message(
        destination=_SERVICE,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=arguments,
        flags=MessageFlag.NO_AUTOSTART,
    )
