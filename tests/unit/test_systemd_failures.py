"""Buses that hang, refuse, break off and talk nonsense, and what that costs a scrape."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant
from tests.fake_systemd import (
    ACCESS_DENIED,
    Answer,
    FakeSystemd,
    garbled,
    hang,
    hang_up,
    raw,
    refuse,
    reply,
)

from worker_exporter.backoff import Backoff
from worker_exporter.cgroup.identity import manager_path
from worker_exporter.systemd import client
from worker_exporter.systemd.managers import Managers, manager_addresses
from worker_exporter.systemd.unit import Report

LONG = 60.0
SHORT = 2.0
OWN = manager_path(7)
ROWS = "a(ssssssouso)"
LISTING = "ListUnitsByPatterns"


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[FakeSystemd]:
    with FakeSystemd(str(tmp_path / "bus"), {"a.service": {}}) as fake:
        yield fake


@contextmanager
def asking(
    addresses: Mapping[str, str] | str, clock: Callable[[], float], patience: float = LONG
) -> Iterator[Managers]:
    by_path = {"": addresses} if isinstance(addresses, str) else addresses
    managers = Managers(by_path, patience, clock)
    try:
        yield managers
    finally:
        managers.close()


def reports(managers: Managers) -> Mapping[str, Report | None]:
    managers.ask({"": {"a.service": 1}}, lambda _: True)
    return managers.reports()


def ask(managers: Managers) -> Report | None:
    return reports(managers)[""]


def attempts(systemd: FakeSystemd) -> tuple[int, int]:
    return systemd.calls["connections"], systemd.calls[LISTING]


def ask_until_answered(managers: Managers, clock: Clock) -> Report:
    """While an attempt is made beside, nobody says when it has ended."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        clock.now += 60
        report = ask(managers)
        if report is not None and not report.pending:
            return report
    raise AssertionError("systemd never answered again")


def huge(data: bytearray) -> None:
    struct.pack_into("<I", data, 4, 2**31)


def long(data: bytearray) -> None:
    struct.pack_into("<I", data, 4, 2**26)


def big_endian(data: bytearray) -> None:
    data[0] = ord("B")


def no_type(data: bytearray) -> None:
    data[1] = 77


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def scramble(data: bytearray) -> None:
    for place in range(16, len(data)):
        data[place] ^= 0xA5


rows = reply(ROWS, [["a.service", *["x"] * 5, "/", 0, "", "/"]])

FAULTS: dict[str, tuple[str, Answer]] = {
    "hangs in the handshake": ("AUTH", hang),
    "rejects": ("AUTH", raw(b"REJECTED EXTERNAL\r\n")),
    "talks nonsense in the handshake": ("AUTH", raw(b"\xff\xfe\r\n")),
    "sends an endless line": ("AUTH", raw(b"x" * 20_000)),
    "hangs up in the handshake": ("AUTH", hang_up),
    "hangs at Hello": ("Hello", hang),
    "hangs up at Hello": ("Hello", hang_up),
    "talks nonsense at Hello": ("Hello", raw(b"\0" * 64)),
    "hangs": (LISTING, hang),
    "hangs up": (LISTING, hang_up),
    "denies": (LISTING, refuse(ACCESS_DENIED)),
    "has no systemd": (LISTING, refuse("org.freedesktop.DBus.Error.ServiceUnknown")),
    "answers with a string": (LISTING, reply("s", "x")),
    "answers with nothing": (LISTING, reply("")),
    "answers with other rows": (LISTING, reply("a(ss)", [["a.service", "x"]])),
    "talks nonsense": (LISTING, raw(b"GET / HTTP/1.0\r\n\r\n" * 9)),
    "announces too much": (LISTING, garbled(huge, rows)),
    "announces much and hangs": (LISTING, garbled(long, rows)),
    "turns numbers round": (LISTING, garbled(big_endian, rows)),
    "sends no known message": (LISTING, garbled(no_type, rows)),
    "sends half a message": (LISTING, garbled(cut, rows)),
    "scrambles": (LISTING, garbled(scramble, rows)),
    "denies properties": ("Get", refuse(ACCESS_DENIED)),
    "hangs up at a property": ("Get", hang_up),
    "gives a number for a text": ("Get Slice", reply("v", Variant("u", 7))),
    "gives a text for a number": ("Get NRestarts", reply("v", Variant("s", "7"))),
    "gives a bare property": ("Get Result", reply("s", "success")),
}


SILENT = {
    "hangs in the handshake",
    "hangs at Hello",
    "hangs",
    "announces much and hangs",
    "sends half a message",
}
"""After these nothing but patience ends a wait."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bus_that_fails_is_left_alone_and_tried_again(
    systemd: FakeSystemd, clock: Clock, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level("INFO")
    name, answer = FAULTS[fault]
    systemd.answers[name] = answer
    with asking(systemd.address, clock, SHORT if fault in SILENT else LONG) as managers:
        assert ask(managers) is None
        before = attempts(systemd)
        clock.now += 0.999
        assert [ask(managers) for _ in range(5)] == [None] * 5
        assert attempts(systemd) == before
        systemd.answers.clear()
        clock.now += 0.001
        assert ask(managers) is None
        report = ask_until_answered(managers, clock)
        assert set(report.units) == set(report.details) == {"a.service"}
    first, last = (record.message for record in caplog.records)
    assert first.partition(";")[0] == "systemd does not answer"
    assert ("passwd" in first) == (fault == "hangs up at Hello")
    assert last == "systemd answers again"
    fields = vars(caplog.records[0])["fields"]
    assert (fields["manager"], fields["address"]) == ("system", systemd.address)
    assert fields["err"]


def test_who_says_nothing_in_time_is_late_and_who_refuses_is_not(
    systemd: FakeSystemd, clock: Clock
) -> None:
    systemd.answers[LISTING] = hang
    with asking(systemd.address, clock, SHORT) as managers:
        assert ask(managers) is None
        assert managers.is_late("")
        systemd.answers[LISTING] = refuse(ACCESS_DENIED)
        deadline = time.monotonic() + LONG
        while managers.is_late("") and time.monotonic() < deadline:
            clock.now += 60
            assert ask(managers) is None
        assert not managers.is_late("")


def test_nobody_waits_for_an_attempt_beside(systemd: FakeSystemd, clock: Clock) -> None:
    systemd.answers[LISTING] = refuse(ACCESS_DENIED)
    with asking(systemd.address, clock) as managers:
        assert ask(managers) is None
        systemd.answers.clear()
        systemd.hold = {LISTING}
        clock.now += 1
        start = time.monotonic()
        assert ask(managers) is None
        systemd.wait(lambda: systemd.calls[LISTING] == 2)
        clock.now += 60
        assert ask(managers) is None
        assert time.monotonic() - start < LONG
        assert systemd.calls[LISTING] == 2
        systemd.release()
        ask_until_answered(managers, clock)


def test_a_bus_that_hangs_is_waited_for_only_once(systemd: FakeSystemd, clock: Clock) -> None:
    systemd.answers[LISTING] = hang
    with asking(systemd.address, clock, SHORT) as managers:
        start = time.monotonic()
        assert ask(managers) is None
        assert time.monotonic() - start >= SHORT
        for attempts in range(2, 5):
            clock.now += 60
            assert ask(managers) is None
            wait_for(systemd, LISTING, attempts)
            wait_until_idle(managers)
        assert systemd.calls["connections"] == 4


def wait_for(systemd: FakeSystemd, name: str, times: int) -> None:
    systemd.wait(lambda: systemd.calls[name] >= times)


def wait_until(condition: Callable[[], bool]) -> None:
    """For what happens in another thread and tells nobody."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_until_idle(managers: Managers) -> None:
    """Until no attempt is under way."""
    wait_until(lambda: not runs(managers, "_try_again"))


def runs(managers: Managers, coroutine: str) -> bool:
    return any(coroutine in repr(task.get_coro()) for task in tasks(managers))


def tasks(managers: Managers) -> set["asyncio.Task[Any]"]:
    assert managers._thread is not None
    return asyncio.all_tasks(managers._thread._loop)


def test_the_wait_doubles_up_to_a_minute(clock: Clock) -> None:
    backoff = Backoff(clock)
    assert backoff.is_over
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        backoff.failed()
        clock.now += seconds - 0.001
        assert not backoff.is_over
        clock.now += 0.001
        assert backoff.is_over
    backoff.succeeded()
    backoff.failed()
    clock.now += 1
    assert backoff.is_over


def test_a_bus_that_only_lists_is_not_back(
    systemd: FakeSystemd, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.answers["Get"] = refuse(ACCESS_DENIED)
    with asking(systemd.address, clock) as managers:
        assert ask(managers) is None
        for seconds in (1, 2, 4):
            clock.now += seconds - 0.001
            before = attempts(systemd)
            assert ask(managers) is None
            assert attempts(systemd) == before
            clock.now += 0.001
            assert ask(managers) is None
            wait_for(systemd, LISTING, before[1] + 1)
            wait_until_idle(managers)
            gets = systemd.gets
            assert ask(managers) is None
            assert systemd.gets > gets
    assert [record.message for record in caplog.records] == ["systemd does not answer"]


def test_attempts_beside_become_rare(systemd: FakeSystemd, clock: Clock) -> None:
    systemd.answers[LISTING] = refuse(ACCESS_DENIED)
    with asking(systemd.address, clock) as managers:
        assert ask(managers) is None
        for seconds in (1, 2, 4):
            before = attempts(systemd)
            clock.now += seconds - 0.001
            assert ask(managers) is None
            assert attempts(systemd) == before
            clock.now += 0.001
            assert ask(managers) is None
            wait_for(systemd, LISTING, before[1] + 1)
            wait_until_idle(managers)


def test_a_failure_in_two_places_is_one(systemd: FakeSystemd, clock: Clock) -> None:
    systemd.hold = {"Get"}
    with asking(systemd.address, clock, SHORT) as managers:
        report = ask(managers)
        assert report is not None
        assert report.pending == {"a.service"}
        systemd.answers = {LISTING: hang, "Get": refuse(ACCESS_DENIED)}
        managers.ask({}, lambda _: True)
        wait_for(systemd, LISTING, 2)
        systemd.release()
        assert managers.reports() == {"": None}
        clock.now += 1
        assert ask(managers) is None
        wait_for(systemd, "connections", 2)


def test_what_was_read_outlives_a_failure(systemd: FakeSystemd, clock: Clock) -> None:
    with asking(systemd.address, clock) as managers:
        before = ask(managers)
        assert before is not None
        gets = systemd.gets
        systemd.answers[LISTING] = refuse(ACCESS_DENIED)
        assert ask(managers) is None
        systemd.answers.clear()
        clock.now += 1
        assert ask_until_answered(managers, clock) == before
    assert systemd.gets == gets


def test_a_bus_that_was_restarted_between_two_scrapes_is_no_failure(
    systemd: FakeSystemd, clock: Clock
) -> None:
    with asking(systemd.address, clock) as managers:
        first = ask(managers)
        systemd.disconnect()
        wait_until(lambda: not runs(managers, "_hear_of_end"))
        assert ask(managers) == first
    assert systemd.calls["connections"] == 2


def test_properties_that_never_come_end_the_connection(
    systemd: FakeSystemd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_READING_PATIENCE", SHORT)
    systemd.answers["Get"] = hang
    with asking(systemd.address, clock, LONG) as managers:
        assert ask(managers) is None
        systemd.answers.clear()
        clock.now += 1
        assert set(ask_until_answered(managers, clock).details) == {"a.service"}


def test_properties_that_never_come_are_waited_for_only_once(
    systemd: FakeSystemd,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(client, "_READING_PATIENCE", SHORT)
    caplog.set_level("INFO")
    systemd.answers["Get"] = hang
    with asking(systemd.address, clock, SHORT) as managers:
        ask(managers)
        managers._patience = LONG
        for seconds in (1, 2, 4):
            wait_until(lambda: ask(managers) is None)
            assert managers._clients[""]._backoff._wait == seconds
            clock.now += 60
            wait_until(lambda: ask(managers) is not None)
        assert [each.levelname for each in caplog.records] == ["WARNING"]
        systemd.answers.clear()
        ask_until_answered(managers, clock)
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]


def test_no_system_bus(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with asking(f"unix:path={tmp_path}/none", clock) as managers:
        assert [ask(managers) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "--no-collector.units" in record.message
    assert "mount /run/dbus/system_bus_socket" in record.message
    assert "No such file" in vars(record)["fields"]["err"]


def test_nobody_listens_at_the_system_bus(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "bus"))
    with asking(f"unix:path={tmp_path}/bus", clock) as managers:
        assert ask(managers) is None
    (record,) = caplog.records
    assert "--no-collector.units" in record.message


def test_nobody_listens_at_the_bus_of_a_user(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "bus"))
    with asking({OWN: f"unix:path={tmp_path}/bus"}, clock) as managers:
        assert reports(managers) == {OWN: None}
    (record,) = caplog.records
    assert record.message == "systemd does not answer"
    assert vars(record)["fields"]["manager"] == "user@7.service"


@pytest.mark.parametrize("address", ["", "nonsense", "unix:tmpdir=/tmp", "unix:path=/a b", "x:y=z"])
def test_a_bad_address_is_a_failure(
    clock: Clock, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    with asking(address, clock) as managers:
        assert ask(managers) is None
    assert [record.message for record in caplog.records] == ["systemd does not answer"]


def test_a_user_without_a_manager_is_left_out(
    systemd: FakeSystemd, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = {"": systemd.address, OWN: f"unix:path={tmp_path}/own"}
    with asking(addresses, clock) as managers:
        assert set(reports(managers)) == {""}
        with FakeSystemd(f"{tmp_path}/own", {"mine.service": {}}):
            found = reports(managers)
            assert {path: report and set(report.units) for path, report in found.items()} == {
                "": {"a.service"},
                OWN: {"mine.service"},
            }
        assert set(reports(managers)) == {""}
    assert caplog.records == []


def test_what_befell_a_users_last_session_is_over(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with asking({OWN: f"unix:path={tmp_path}/own"}, clock) as managers:
        for _ in range(2):
            with FakeSystemd(f"{tmp_path}/own", {"mine.service": {}}) as own:
                assert reports(managers)[OWN] is not None
                own.answers[LISTING] = refuse(ACCESS_DENIED)
                assert reports(managers)[OWN] is None
            assert reports(managers) == {}
    assert [record.message for record in caplog.records] == ["systemd does not answer"] * 2


def test_one_manager_that_hangs_does_not_take_the_other_along(
    systemd: FakeSystemd, clock: Clock, tmp_path: Path
) -> None:
    with FakeSystemd(f"{tmp_path}/own", {"mine.service": {}}) as own:
        systemd.answers[LISTING] = hang
        with asking({"": systemd.address, OWN: own.address}, clock, SHORT) as managers:
            found = reports(managers)
    assert found[""] is None
    assert found[OWN] is not None


def test_a_slow_manager_is_waited_for(systemd: FakeSystemd, clock: Clock) -> None:
    systemd.delay = 0.02
    with asking(systemd.address, clock) as managers:
        report = ask(managers)
    assert report is not None
    assert set(report.details) == {"a.service"}


def test_questions_to_a_bus_that_hangs_without_waiting_for_the_reports(
    systemd: FakeSystemd, clock: Clock
) -> None:
    systemd.answers[LISTING] = hang
    with asking(systemd.address, clock, SHORT) as managers:
        for _ in range(5):
            managers.ask({}, lambda _: True)
        systemd.wait(lambda: systemd.calls[LISTING] == 1)
        assert managers.reports() == {"": None}
    assert systemd.calls[LISTING] == 1


def test_a_thread_that_does_not_answer_is_left_alone(systemd: FakeSystemd, clock: Clock) -> None:
    stuck = threading.Event()

    def is_worker(_: str) -> bool:
        return stuck.wait(LONG)

    systemd.units = {"b.service": {"ActiveState": "failed"}}
    with asking(systemd.address, clock, SHORT) as managers:
        try:
            managers.ask({}, is_worker)
            assert managers.reports() == {"": None}
            assert managers.is_late("")
        finally:
            stuck.set()


def open_files() -> set[int]:
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    return {descriptor for descriptor in listed if os.path.exists(f"/proc/self/fd/{descriptor}")}


def test_a_thread_that_cannot_be_started_is_a_failure_and_leaves_nothing_behind(
    systemd: FakeSystemd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with asking(systemd.address, clock) as managers:
        before = open_files()
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", no_more)
            managers.ask({}, bool)
            assert managers.reports() == {"": None}
        assert open_files() == before
        managers.ask({}, bool)
        assert managers.reports()[""] is not None


def test_closing_ends_the_thread_and_the_connections(systemd: FakeSystemd, clock: Clock) -> None:
    before = open_files()
    with asking(systemd.address, clock) as managers:
        ask(managers)
        opened = open_files() - before
        assert not [descriptor for descriptor in opened if os.get_inheritable(descriptor)]
        (thread,) = [each for each in threading.enumerate() if each.name == "systemd"]
    thread.join(LONG)
    assert not thread.is_alive()
    # The stand-in's end of the connection is closed by a thread of its own.
    wait_until(lambda: open_files() <= before)


def test_closing_does_not_wait_for_a_bus_that_hangs(systemd: FakeSystemd, clock: Clock) -> None:
    systemd.answers["AUTH"] = hang
    with asking(systemd.address, clock) as managers:
        managers.ask({}, lambda _: True)
        systemd.wait(lambda: systemd.calls["connections"] == 1)
        (thread,) = [each for each in threading.enumerate() if each.name == "systemd"]
    thread.join(LONG / 2)
    assert not thread.is_alive()


def test_a_bus_that_hangs_does_not_hold_the_exit(systemd: FakeSystemd) -> None:
    systemd.answers[LISTING] = hang
    program = (
        "from worker_exporter.systemd.managers import Managers\n"
        f"managers = Managers({{'': {systemd.address!r}}}, 3600)\n"
        "managers.ask({}, bool)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            systemd.wait(lambda: systemd.calls[LISTING] == 1)
            _, said = process.communicate(b"\n", LONG)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    "fault", ["rejects", "hangs up at Hello", "hangs up", "denies", "scrambles"]
)
def test_failures_leave_nothing_behind(
    systemd: FakeSystemd, clock: Clock, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    name, answer = FAULTS[fault]
    systemd.answers[name] = answer
    with asking(systemd.address, clock) as managers:

        def fail(times: int) -> None:
            for _ in range(times):
                clock.now += 60
                before = systemd.calls[name]
                assert ask(managers) is None
                wait_for(systemd, name, before + 1)
                wait_until_idle(managers)

        assert ask(managers) is None
        fail(3)
        before = (len(open_files()), len(tasks(managers)), threading.active_count())
        fail(300)
        after = (len(open_files()), len(tasks(managers)), threading.active_count())
    assert all(now <= then + 2 for now, then in zip(after, before, strict=True)), (before, after)
    assert len(caplog.records) == 1


def test_where_the_buses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else tests would ask the systemd of this machine.
    assert manager_addresses(7)[""].startswith("unix:path=/nonexistent/")
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    assert manager_addresses(7) == {
        "": "unix:path=/run/dbus/system_bus_socket",
        "user.slice/user-7.slice/user@7.service": "unix:path=/run/user/7/bus",
    }
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/there")
    assert manager_addresses(7)[""] == "unix:path=/there"
