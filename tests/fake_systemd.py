"""A message bus with a manager of systemd on it, whose units and faults a test writes.

`python -m tests.fake_systemd SOCKET SPEC.json` serves the units of a file until SIGTERM, and reads
the file again at SIGHUP: {"version": 257, "units": {"a.service": {"ActiveState": "failed"}}}. It
says "listening" on standard output.
"""

import contextlib
import io
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

from dbus_fast import Message, MessageType, Variant
from dbus_fast._private.unmarshaller import Unmarshaller

from worker_exporter.systemd.manager import unit_path

ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
INFINITY = 2**64 - 1
NOW = 1_700_000_000_000_000
"""The time of the stand-in's events, in microseconds since the epoch."""

Answer = Callable[[Message], bytes | None]
"""What is sent for a call; None: nothing, ever."""

_PATIENCE = 60.0
_UNIT = "org.freedesktop.systemd1.Unit"
_KINDS = {
    "service": "org.freedesktop.systemd1.Service",
    "scope": "org.freedesktop.systemd1.Scope",
}
_OF_UNITS = {
    "ActiveState": "s",
    "SubState": "s",
    "StateChangeTimestampMonotonic": "t",
    "ActiveEnterTimestamp": "t",
}
_OF_SCOPES = {
    "Slice": "s",
    "ControlGroup": "s",
    "Result": "s",
    "CPUUsageNSec": "t",
    "MemoryPeak": "t",
}
_OF_SERVICES = {
    **_OF_SCOPES,
    "NRestarts": "u",
    "ExecMainStartTimestamp": "t",
    "ExecMainStartTimestampMonotonic": "t",
    "ExecMainExitTimestampMonotonic": "t",
    "ExecMainCode": "i",
    "ExecMainStatus": "i",
}
_SIGNATURES = {
    _UNIT: _OF_UNITS,
    _KINDS["service"]: _OF_SERVICES,
    _KINDS["scope"]: _OF_SCOPES,
}
_DEFAULTS: dict[str, Any] = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Job": 0,
    "StateChangeTimestampMonotonic": 1_000_000,
    "ActiveEnterTimestamp": NOW,
    "Slice": "worker.slice",
    "Result": "success",
    "CPUUsageNSec": INFINITY,
    "MemoryPeak": INFINITY,
    "NRestarts": 0,
    "ExecMainStartTimestamp": NOW,
    "ExecMainStartTimestampMonotonic": 1_000_000,
    "ExecMainExitTimestampMonotonic": 0,
    "ExecMainCode": 0,
    "ExecMainStatus": 0,
}


class Hangup(Exception):  # noqa: N818  (no error: what a test asked for)
    """The bus ends this connection."""


class FakeSystemd:
    """Listens on the Unix socket `path` from entering the context on; every connection has a thread
    of its own, which answers one call after the other.

    `units` are properties by the unit's name; those not given are a running service's in
    worker.slice, and a Variant is sent as it is. Before `version` 254 there is no MemoryPeak.
    `answers` take the place of the stand-in's own, by "AUTH", by a call's member, or by "Get" and
    the property's name. Calls of the names in `hold` wait for release(). `calls` counts by the same
    names, and "connections". `delay` in seconds comes before each answer, and `on_call` before
    that.
    """

    def __init__(self, path: str, units: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.path = path
        self.units = {name: dict(properties) for name, properties in (units or {}).items()}
        self.version = 257
        self.answers: dict[str, Answer] = {}
        self.calls: Counter[str] = Counter()
        self.delay = 0.0
        self.hold: set[str] = set()
        self.on_call: Callable[[Message], None] | None = None
        self._called = threading.Condition()
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._held: list[tuple[socket.socket, Message]] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> "FakeSystemd":
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        _shut(self._listener)
        os.unlink(self.path)
        self._accepting.join()
        self.disconnect()
        for thread in self._threads:
            thread.join()

    @property
    def address(self) -> str:
        """The bus's address."""
        return f"unix:path={self.path}"

    @property
    def gets(self) -> int:
        """How many properties were asked for."""
        return sum(count for name, count in self.calls.items() if name.startswith("Get "))

    def change(self, name: str, **properties: Any) -> None:
        """Give a unit other properties, at a later time unless one is given."""
        now = self.units.setdefault(name, {})
        changed = "StateChangeTimestampMonotonic"
        later = now.get(changed, _DEFAULTS[changed]) + 1
        self.units[name] = {**now, changed: later, **properties}

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds, which is looked at after every call."""
        with self._called:
            assert self._called.wait_for(condition, _PATIENCE), dict(self.calls)

    def release(self) -> None:
        """Hold no calls any more, and answer those that are held."""
        self.hold = set()
        while self._held:
            with contextlib.suppress(OSError, Hangup):
                self._send(*self._held.pop(0))

    def disconnect(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            _shut(connection)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            self._connections.add(connection)
            self._count("connections")
            self._begin(connection)
        self._listener.close()

    def _begin(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        with contextlib.suppress(OSError, EOFError, Hangup):
            self._authenticate(connection, stream)
            while True:
                self._take(connection, _read(stream))
        self._connections.discard(connection)
        stream.close()
        connection.close()

    def _take(self, connection: socket.socket, message: Message) -> None:
        name = name_of(message)
        if self.on_call is not None:
            self.on_call(message)
        self._closing.wait(self.delay)
        is_held = bool({name, name.partition(" ")[0]} & self.hold)
        if is_held:
            self._held.append((connection, message))
        self._count(name)
        if not is_held:
            self._send(connection, message)

    def _send(self, connection: socket.socket, message: Message) -> None:
        name = name_of(message)
        answer = self.answers.get(name) or self.answers.get(name.partition(" ")[0])
        sent = (answer or self.answer)(message)
        if sent is not None:
            with self._sending:
                connection.sendall(sent)

    def _authenticate(self, connection: socket.socket, stream: io.BufferedReader) -> None:
        while (line := stream.readline().strip(b"\0\r\n")) != b"BEGIN":
            if not line:
                raise EOFError
            self._count("AUTH")
            if "AUTH" in self.answers:
                sent = self.answers["AUTH"](Message(path="/", member=line.decode().split()[0]))
            else:
                sent = b"OK 1234deadbeef\r\n"
            if sent is not None:
                connection.sendall(sent)

    def _count(self, name: str) -> None:
        with self._called:
            self.calls[name] += 1
            self._called.notify_all()

    def answer(self, message: Message) -> bytes:
        """The answer of a bus and a systemd that work."""
        if message.member == "Hello":
            return reply("s", ":1.7")(message) + _NAME_ACQUIRED
        if message.member == "ListUnitsByPatterns":
            return reply("a(ssssssouso)", self._rows(*message.body))(message)
        if message.member == "Get":
            return self._get(message)
        return refuse("org.freedesktop.DBus.Error.UnknownMethod")(message)

    def _rows(self, states: list[str], patterns: list[str]) -> list[list[Any]]:
        rows = []
        for name, given in list(self.units.items()):
            has = {**_DEFAULTS, **given}
            if states and not {has["LoadState"], has["ActiveState"], has["SubState"]} & {*states}:
                continue
            if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
                continue
            state = [has["LoadState"], has["ActiveState"], has["SubState"]]
            job = [has["Job"], "restart" if has["Job"] else "", "/"]
            text = has.get("Description", f"the unit {name}")
            rows.append([name, text, *state, "", unit_path(name), *job])
        return rows

    def _get(self, message: Message) -> bytes:
        interface, wanted = message.body
        name = unit_of(message)
        if name not in self.units:
            return refuse("org.freedesktop.DBus.Error.UnknownObject")(message)
        kind = _KINDS[name.rpartition(".")[2]]
        if interface not in (_UNIT, kind):
            return refuse("org.freedesktop.DBus.Error.UnknownInterface")(message)
        signature = _SIGNATURES[interface].get(wanted)
        if signature is None or (wanted == "MemoryPeak" and self.version < 254):
            return refuse("org.freedesktop.DBus.Error.UnknownProperty")(message)
        has = {**_DEFAULTS, "ControlGroup": _control_group(name, self.units[name])}
        value = {**has, **self.units[name]}[wanted]
        return reply("v", value if isinstance(value, Variant) else Variant(signature, value))(
            message
        )


def name_of(message: Message) -> str:
    """What a call is counted as."""
    return f"Get {message.body[1]}" if message.member == "Get" else str(message.member)


def unit_of(message: Message) -> str:
    """The unit that a call is about: of its name, bytes other than letters and digits are _xx."""
    name = (message.path or "").removeprefix("/org/freedesktop/systemd1/unit/")
    return re.sub("_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)


def reply(signature: str, *body: Any) -> Callable[[Message], bytes]:
    """An answer of that signature, right or wrong."""
    return lambda message: _bytes(Message.new_method_return(message, signature, list(body)))


def refuse(error: str) -> Callable[[Message], bytes]:
    """An error in place of an answer."""
    return lambda message: _bytes(Message.new_error(message, error, "so a test wants it"))


def hang(_: Message) -> None:
    """No answer, ever."""


def hang_up(_: Message) -> None:
    """The end of the connection in place of an answer."""
    raise Hangup


def raw(data: bytes) -> Answer:
    """These bytes in place of an answer."""
    return lambda _: data


def garbled(change: Callable[[bytearray], None], answer: Answer) -> Answer:
    """An answer whose bytes were changed on the way."""

    def garble(message: Message) -> bytes:
        data = bytearray(answer(message) or b"")
        change(data)
        return bytes(data)

    return garble


def _bytes(message: Message) -> bytes:
    message.serial = 1
    return bytes(message._marshall(False))


_NAME_ACQUIRED = _bytes(
    Message(
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="NameAcquired",
        message_type=MessageType.SIGNAL,
        signature="s",
        body=[":1.7"],
    )
)


def _read(stream: io.BufferedReader) -> Message:
    header = stream.read(16)
    if len(header) < 16:
        raise EOFError
    body, _, fields = struct.unpack_from("<III", header, 4)
    rest = stream.read(fields + -fields % 8 + body)
    message = Unmarshaller(cast(Any, io.BytesIO(header + rest))).unmarshall()
    assert message is not None
    return message


def _control_group(name: str, given: Mapping[str, Any]) -> str:
    if given.get("ActiveState", "active") not in ("active", "reloading", "deactivating"):
        return ""
    words = given.get("Slice", _DEFAULTS["Slice"]).removesuffix(".slice").split("-")
    slices = ["-".join(words[: depth + 1]) + ".slice" for depth in range(len(words)) if words[0]]
    return "/" + "/".join([*slices, name])


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _main(path: str, spec: str) -> None:
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with FakeSystemd(path) as systemd:
        while True:
            with open(spec) as file:
                content = json.load(file)
            systemd.units = content.get("units", {})
            systemd.version = content.get("version", systemd.version)
            print("listening", flush=True)
            if signal.sigwait(signals) != signal.SIGHUP:
                return


if __name__ == "__main__":
    _main(*sys.argv[1:])
