"""One connection to a message bus, see the D-Bus specification."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

# What it has to say of a broken connection reaches the caller as an error too.
logging.getLogger("dbus_fast").setLevel(logging.CRITICAL)


class BusError(Exception):
    """A question got no answer, or none of use. `name` is that of a D-Bus error, else ""."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.name = name


class NoConnectionError(BusError):
    """There is no bus, or it lets nobody in."""


class Bus:
    """A connection that connect() made."""

    def __init__(self, connection: MessageBus) -> None:
        self._connection = connection
        self._end = asyncio.ensure_future(_hear_of_end(connection))

    @property
    def is_connected(self) -> bool:
        """Whether no end was heard of."""
        return self._connection.connected

    async def call(self, question: Message, expect: str) -> list[Any]:
        """The body of the answer, whose signature must be `expect`.

        Raises BusError for an error, a lost connection and any other answer. Waits without limit.
        """
        # A call on a lost connection would wait for ever.
        if not self.is_connected:
            raise BusError("the connection broke")
        try:
            answer = await self._connection.call(question)
        # Malformed bytes end the connection with whatever error they led to.
        except Exception as error:
            raise BusError(f"the connection broke: {_words(error)}") from error
        return _body(question.member or "", answer, expect)

    def close(self) -> None:
        """End the connection; whoever waits for an answer gets a BusError."""
        self._connection.disconnect()

    async def closed(self) -> None:
        """Wait until the connection has ended, and its descriptor is given back."""
        await self._end


async def connect(address: str) -> Bus:
    """A new connection to the bus at `address`. Raises NoConnectionError; waits without limit."""
    try:
        return Bus(await MessageBus(bus_address=address).connect())
    except Exception as error:
        raise NoConnectionError(f"no connection: {_words(error)}") from error


async def _hear_of_end(connection: MessageBus) -> None:
    """Take notice of the connection's end: asyncio complains of errors that nobody heard of."""
    with suppress(Exception):
        await connection.wait_for_disconnect()  # type: ignore[no-untyped-call]


def _body(member: str, answer: Message | None, expect: str) -> list[Any]:
    if answer is None:
        raise BusError("the connection broke")
    if answer.message_type is MessageType.ERROR:
        name = str(answer.error_name)
        text = answer.body[0] if answer.signature == "s" else ""
        raise BusError(f"{member}: {name}: {text}", name)
    if answer.signature != expect:
        raise BusError(f"{member}: malformed answer of type {answer.signature!r}, not {expect!r}")
    return list(answer.body)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
