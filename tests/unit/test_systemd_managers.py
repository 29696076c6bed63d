"""What is asked of a manager of systemd, and what becomes of its answers."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message
from tests.fake_systemd import FakeSystemd, name_of, refuse, unit_of

from worker_exporter.systemd.managers import Managers
from worker_exporter.systemd.unit import Details, Report

CONNECTING = Counter({"connections": 1, "AUTH": 1, "Hello": 1})
LISTING = Counter({"ListUnitsByPatterns": 1})
OF_RUNNING = Counter(
    {
        "Get StateChangeTimestampMonotonic": 2,
        "Get SubState": 1,
        "Get Slice": 1,
        "Get ControlGroup": 1,
        "Get Result": 1,
        "Get NRestarts": 1,
        "Get ExecMainStartTimestamp": 1,
    }
)
FAILED: dict[str, Any] = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}
CHANGED = "StateChangeTimestampMonotonic"
LONG = 60.0
SHORT = 2.0

Systemd = Callable[[Mapping[str, Mapping[str, Any]]], FakeSystemd]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Systemd]:
    """Makes a systemd with units."""
    with FakeSystemd(str(tmp_path / "bus")) as fake:

        def with_units(units: Mapping[str, Mapping[str, Any]]) -> FakeSystemd:
            fake.units = {name: dict(properties) for name, properties in units.items()}
            return fake

        yield with_units


@contextmanager
def asking(systemd: FakeSystemd, patience: float = LONG) -> Iterator[Managers]:
    managers = Managers({"": systemd.address}, patience)
    try:
        yield managers
    finally:
        managers.close()


def is_worker(path: str) -> bool:
    return path.startswith("worker.slice/")


def ask(managers: Managers, **inodes: int) -> Report:
    """A report; the names of living units are given without ".service"."""
    alive = {f"{name}.service": inode for name, inode in inodes.items()}
    managers.ask({"": alive}, is_worker)
    report = managers.reports()[""]
    assert report is not None
    return report


def ask_until_told(managers: Managers, count: int, **inodes: int) -> Report:
    """The first report that has details of so many units: after a wait in vain none is made."""
    deadline = time.monotonic() + LONG
    while len((report := ask(managers, **inodes)).details) < count:
        assert time.monotonic() < deadline
    return report


def asked(systemd: FakeSystemd, scrape: Callable[[], Report]) -> tuple[Report, Counter[str]]:
    """A report, and the calls it took."""
    before = systemd.calls.copy()
    report = scrape()
    return report, systemd.calls - before


def test_without_a_question_there_is_no_report_and_no_thread() -> None:
    managers = Managers({"": "unix:path=/nonexistent/bus"}, LONG)
    assert managers.reports() == {}
    managers.close()


def test_services_and_scopes_are_listed(begin: Systemd) -> None:
    systemd = begin({"a.service": {"Job": 7}, "b.scope": FAILED, "c.timer": {}, "d.slice": {}})
    with asking(systemd) as managers:
        units = ask(managers).units
    found = {name: (unit.name, unit.active, unit.sub, unit.job) for name, unit in units.items()}
    assert found == {
        "a.service": ("a.service", "active", "running", 7),
        "b.scope": ("b.scope", "failed", "failed", 0),
    }


@pytest.mark.parametrize("change", [{"ActiveState": "failed"}, {"SubState": "dead"}, {"Job": 1}])
def test_a_unit_that_is_as_it_was_is_the_same_object(
    begin: Systemd, change: dict[str, Any]
) -> None:
    systemd = begin({"a.service": {}, "b.service": {}})
    with asking(systemd) as managers:
        before = ask(managers).units
        systemd.change("b.service", **change)
        now = ask(managers).units
    assert now["a.service"] is before["a.service"]
    assert now["b.service"] != before["b.service"]


def test_details_of_a_living_worker(begin: Systemd) -> None:
    run = {"CPUUsageNSec": 5, "MemoryPeak": 6, "ExecMainCode": 1, "NRestarts": 2}
    systemd = begin({"a.service": run, "other.service": {}})
    with asking(systemd) as managers:
        report, calls = asked(systemd, lambda: ask(managers, a=1))
    assert report.details == {
        "a.service": Details(
            slice="worker.slice",
            control_group="worker.slice/a.service",
            result="success",
            restarts=2,
            started=1_700_000_000.0,
        )
    }
    assert report.pending == frozenset()
    assert calls == LISTING + OF_RUNNING + CONNECTING


def test_details_of_a_dead_worker(begin: Systemd) -> None:
    systemd = begin(
        {
            "a.service": {
                **FAILED,
                "Slice": "worker-llm.slice",
                "Result": "oom-kill",
                "NRestarts": 3,
                "ExecMainStartTimestampMonotonic": 1_000_000,
                "ExecMainExitTimestampMonotonic": 3_000_000,
                "ExecMainCode": 2,
                "ExecMainStatus": 9,
                "CPUUsageNSec": 2_500_000_000,
                "MemoryPeak": 2**30,
            }
        }
    )
    with asking(systemd) as managers:
        report = ask(managers)
    assert report.details == {
        "a.service": Details(
            slice="worker-llm.slice",
            control_group="",
            result="oom-kill",
            restarts=3,
            started=1_700_000_000.0,
            exit_status=137,
            cpu_seconds=2.5,
            peak_memory_bytes=2**30,
            duration_seconds=2.0,
        )
    }


def test_details_of_a_dead_scope(begin: Systemd) -> None:
    systemd = begin({"a.scope": {**FAILED, "CPUUsageNSec": 10**9, "Result": "oom-kill"}})
    with asking(systemd) as managers:
        report = ask(managers)
    assert report.details["a.scope"] == Details(
        slice="worker.slice",
        control_group="",
        result="oom-kill",
        started=1_700_000_000.0,
        cpu_seconds=1.0,
    )


def test_the_dead_are_those_that_failed_or_are_on_their_way(begin: Systemd) -> None:
    states = ("failed", "activating", "deactivating", "inactive", "active", "reloading")
    systemd = begin({f"{state}.service": {"ActiveState": state} for state in states})
    with asking(systemd) as managers:
        details = ask(managers).details
    assert set(details) == {"failed.service", "activating.service", "deactivating.service"}


def test_whose_cgroup_is_a_workers_need_not_be_in_a_workers_slice(begin: Systemd) -> None:
    down = {"ActiveState": "deactivating", "SubState": "stop-sigterm", "Slice": "system.slice"}
    systemd = begin({"a.service": down})
    with asking(systemd) as managers:
        assert set(ask(managers, a=1).details) == {"a.service"}
        assert set(ask(managers, a=1).details) == {"a.service"}


def test_steady_workers_cost_one_call_a_scrape(begin: Systemd) -> None:
    systemd = begin(
        {
            "a.service": {},
            "b.service": {},
            "alien.service": {**FAILED, "Slice": "system.slice"},
            "idle.service": {"ActiveState": "inactive", "SubState": "dead"},
        }
    )
    with asking(systemd) as managers:
        first = ask(managers, a=1, b=2)
        for _ in range(3):
            report, calls = asked(systemd, lambda: ask(managers, a=1, b=2))
            assert calls == LISTING
            assert report == first


def test_one_that_does_not_run_costs_one_property(begin: Systemd) -> None:
    systemd = begin({"a.service": FAILED})
    with asking(systemd) as managers:
        first = ask(managers)
        report, calls = asked(systemd, lambda: ask(managers))
    assert calls == LISTING + Counter({f"Get {CHANGED}": 1})
    assert report == first


def test_a_stranger_is_asked_for_its_slice_only_once(begin: Systemd) -> None:
    systemd = begin({"alien.service": {**FAILED, "Slice": "system.slice"}})
    with asking(systemd) as managers:
        report, calls = asked(systemd, lambda: ask(managers))
        assert calls == LISTING + CONNECTING + Counter({"Get Slice": 1})
        assert (report.details, report.pending) == ({}, frozenset())
        systemd.change("alien.service", ActiveState="activating", SubState="auto-restart")
        assert asked(systemd, lambda: ask(managers))[1] == LISTING


def test_a_stranger_that_went_may_come_back_as_a_worker(begin: Systemd) -> None:
    systemd = begin({"a.service": {**FAILED, "Slice": "system.slice"}})
    with asking(systemd) as managers:
        ask(managers)
        del systemd.units["a.service"]
        ask(managers)
        systemd.change("a.service", **FAILED)
        assert "a.service" in ask(managers).details


def test_a_stranger_that_lived_as_a_worker_is_none_any_more(begin: Systemd) -> None:
    systemd = begin({"a.service": {**FAILED, "Slice": "system.slice"}})
    with asking(systemd) as managers:
        ask(managers)
        systemd.change("a.service", Slice="worker.slice", ActiveState="active", SubState="running")
        assert "a.service" in ask(managers, a=1).details
        systemd.change("a.service", **FAILED)
        assert "a.service" in ask(managers).details


def test_paths_lie_below_the_manager(begin: Systemd) -> None:
    systemd = begin({"a.service": {**FAILED, "Slice": "worker-llm.slice"}})
    own = "user.slice/user-7.slice/user@7.service"
    managers = Managers({own: systemd.address}, LONG)
    paths: list[str] = []

    def note(path: str) -> bool:
        paths.append(path)
        return False

    managers.ask({}, note)
    report = managers.reports()[own]
    managers.close()
    assert report is not None
    assert report.details == {}
    assert paths == [f"{own}/worker.slice/worker-llm.slice/a.service"]


@pytest.mark.parametrize(
    "change",
    [
        {"ActiveState": "reloading", "SubState": "running"},
        {"SubState": "reload"},
        {"Job": 4},
    ],
)
def test_a_unit_in_another_state_is_read_again(begin: Systemd, change: dict[str, Any]) -> None:
    systemd = begin({"a.service": {}, "b.service": {}})
    with asking(systemd) as managers:
        ask(managers, a=1, b=2)
        systemd.change("b.service", NRestarts=1, **change)
        report, calls = asked(systemd, lambda: ask(managers, a=1, b=2))
    assert report.details["b.service"].restarts == 1
    assert calls == LISTING + OF_RUNNING


def test_a_unit_with_another_cgroup_is_read_again(begin: Systemd) -> None:
    systemd = begin({"a.service": {}})
    with asking(systemd) as managers:
        ask(managers, a=1)
        systemd.change("a.service", NRestarts=1, ExecMainStartTimestamp=1_800_000_000_000_000)
        report, calls = asked(systemd, lambda: ask(managers, a=2))
    details = report.details["a.service"]
    assert (details.restarts, details.started) == (1, 1_800_000_000.0)
    assert calls == LISTING + OF_RUNNING


def test_a_unit_that_failed_again_is_read_again(begin: Systemd) -> None:
    systemd = begin({"a.service": {**FAILED, "ExecMainCode": 1, "ExecMainStatus": 3}})
    with asking(systemd) as managers:
        assert ask(managers).details["a.service"].exit_status == 3
        systemd.change("a.service", ExecMainStatus=4)
        assert ask(managers).details["a.service"].exit_status == 4


def test_a_unit_that_was_reset_while_it_waits_for_its_restart_is_read_again(
    begin: Systemd,
) -> None:
    waiting = {"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": 3}
    systemd = begin({"a.service": {**waiting, "Result": "exit-code"}})
    with asking(systemd) as managers:
        assert _told(ask(managers)) == (3, "exit-code")
        systemd.units["a.service"]["NRestarts"] = 0
        assert _told(ask(managers)) == (0, "exit-code")
        systemd.units["a.service"]["Result"] = "success"
        assert _told(ask(managers)) == (0, "success")


def _told(report: Report) -> tuple[int | None, str]:
    details = report.details["a.service"]
    return details.restarts, details.result


def test_a_unit_that_is_not_listed_is_forgotten(begin: Systemd) -> None:
    systemd = begin({"a.service": FAILED, "b.service": {}})
    with asking(systemd) as managers:
        assert set(ask(managers, b=1).details) == {"a.service", "b.service"}
        systemd.units.clear()
        report = ask(managers, b=1)
    assert report == Report({}, {}, frozenset())


def test_a_unit_that_changes_while_it_is_read_is_read_once_more(begin: Systemd) -> None:
    systemd = begin({"a.service": {**FAILED, "NRestarts": 1, "ExecMainStatus": 1}})

    def tear(message: Message) -> None:
        if name_of(message) == "Get ExecMainStatus" and systemd.calls["Get ExecMainStatus"] == 0:
            systemd.change("a.service", NRestarts=2, ExecMainCode=1, ExecMainStatus=2)

    systemd.on_call = tear
    with asking(systemd) as managers:
        details = ask(managers).details["a.service"]
    assert (details.restarts, details.exit_status) == (2, 2)
    assert systemd.calls["Get ExecMainStatus"] == 2


def test_a_unit_that_never_keeps_still_is_pending(begin: Systemd) -> None:
    systemd = begin({"a.service": FAILED, "b.service": {}})

    def tear(message: Message) -> None:
        if name_of(message) == "Get ExecMainStatus":
            systemd.change("a.service")

    systemd.on_call = tear
    with asking(systemd) as managers:
        report = ask(managers, b=1)
        assert report.pending == {"a.service"}
        assert set(report.details) == {"b.service"}
        assert systemd.calls["Get ExecMainStatus"] == 2
        systemd.on_call = None
        assert set(ask(managers, b=1).details) == {"a.service", "b.service"}


def test_a_unit_that_left_the_state_it_was_listed_in_is_pending(begin: Systemd) -> None:
    systemd = begin({"a.service": FAILED})

    def restart(message: Message) -> None:
        if name_of(message) == "Get Slice" and systemd.calls["Get Slice"] == 0:
            systemd.change("a.service", ActiveState="activating", SubState="auto-restart")

    systemd.on_call = restart
    with asking(systemd) as managers:
        report = ask(managers)
        assert (report.units["a.service"].active, report.details) == ("failed", {})
        assert report.pending == {"a.service"}
        report = ask(managers)
        assert (report.units["a.service"].active, report.pending) == ("activating", frozenset())


def test_a_unit_that_is_gone_when_it_is_read_is_pending(begin: Systemd) -> None:
    systemd = begin({"a.service": {}, "b.service": {}})

    def unload(message: Message) -> None:
        if name_of(message) == "Get Result" and unit_of(message) == "a.service":
            systemd.units.pop("a.service", None)

    systemd.on_call = unload
    with asking(systemd) as managers:
        report = ask(managers, a=1, b=2)
        assert (set(report.details), set(report.pending)) == ({"b.service"}, {"a.service"})
        assert ask(managers, a=1, b=2).pending == frozenset()


def test_memory_peak_is_asked_for_once_where_systemd_does_not_know_it(begin: Systemd) -> None:
    systemd = begin({"a.service": {**FAILED, "MemoryPeak": 5}})
    systemd.version = 252
    with asking(systemd) as managers:
        assert ask(managers).details["a.service"].peak_memory_bytes is None
        systemd.change("b.service", **FAILED, MemoryPeak=6, CPUUsageNSec=10**9)
        report = ask(managers)
    assert report.details["b.service"].peak_memory_bytes is None
    assert report.details["b.service"].cpu_seconds == 1.0
    assert systemd.calls["Get MemoryPeak"] == 1


def test_a_property_that_systemd_does_not_know_is_absent(begin: Systemd) -> None:
    systemd = begin({"a.service": {}})
    systemd.answers["Get NRestarts"] = refuse("org.freedesktop.DBus.Error.UnknownProperty")
    with asking(systemd) as managers:
        details = ask(managers, a=1).details["a.service"]
    assert (details.restarts, details.result) == (None, "success")


def test_a_thousand_workers(begin: Systemd) -> None:
    names = [f"worker-llm@{number}" for number in range(1000)]
    systemd = begin({f"{name}.service": {"NRestarts": n} for n, name in enumerate(names)})
    inodes = {name: number for number, name in enumerate(names, 1)}
    with asking(systemd) as managers:
        report = ask(managers, **inodes)
        assert {name: each.restarts for name, each in report.details.items()} == {
            f"{name}.service": n for n, name in enumerate(names)
        }
        assert systemd.gets == 1000 * OF_RUNNING.total()
        assert asked(systemd, lambda: ask(managers, **inodes))[1] == LISTING


def test_a_backlog_holds_neither_the_list_nor_is_it_thrown_away(begin: Systemd) -> None:
    systemd = begin({f"u{number}.service": {} for number in range(1, 301)})
    inodes = {f"u{number}": number for number in range(1, 301)}
    systemd.hold = {"Get"}
    with asking(systemd, SHORT) as managers:
        for _ in range(2):
            report = ask(managers, **inodes)
            assert len(report.units) == 300
            assert (report.details, len(report.pending)) == ({}, 300)
        systemd.release()
        # Nobody asks any more; all are read, and none twice.
        systemd.wait(lambda: systemd.gets >= 300 * OF_RUNNING.total())
        ask_until_told(managers, 300, **inodes)
        report, calls = asked(systemd, lambda: ask(managers, **inodes))
    assert len(report.details) == 300
    assert calls == LISTING
    assert systemd.gets == 300 * OF_RUNNING.total()


def test_only_so_many_calls_wait_for_an_answer_at_once(begin: Systemd) -> None:
    systemd = begin({f"u{number}.service": {} for number in range(100)})
    systemd.hold = {"Get"}
    with asking(systemd, SHORT) as managers:
        ask(managers, **{f"u{number}": number + 1 for number in range(100)})
    # The system bus of dbus-daemon refuses more than 128.
    assert 0 < systemd.gets <= 100


def test_those_that_do_not_run_are_read_first(begin: Systemd) -> None:
    units: dict[str, dict[str, Any]] = {f"u{number}.service": {} for number in range(50)}
    systemd = begin({**units, "failed.service": FAILED})
    order: list[str] = []
    systemd.on_call = lambda message: order.append(unit_of(message))
    with asking(systemd) as managers:
        ask(managers, **{f"u{number}": number + 1 for number in range(50)})
    assert next(name for name in order if name.endswith(".service")) == "failed.service"


def test_a_reading_that_takes_longer_than_the_pause_between_scrapes_counts(begin: Systemd) -> None:
    systemd = begin({"a.service": FAILED})
    systemd.hold = {"Get Result"}
    with asking(systemd, SHORT) as managers:
        for _ in range(3):
            assert ask(managers).pending == {"a.service"}
        systemd.release()
        systemd.wait(lambda: systemd.calls[f"Get {CHANGED}"] >= 3)
        assert set(ask_until_told(managers, 1).details) == {"a.service"}
    assert systemd.calls["Get Result"] == 1


def test_a_reading_of_an_older_cgroup_is_not_the_new_ones(begin: Systemd) -> None:
    systemd = begin({"a.service": {"NRestarts": 1}})
    systemd.hold = {"Get Result"}
    with asking(systemd, SHORT) as managers:
        ask(managers, a=1)
        systemd.change("a.service", NRestarts=2)
        ask(managers, a=2)
        systemd.release()
        systemd.wait(lambda: systemd.calls["Get NRestarts"] == 2)
        assert ask_until_told(managers, 1, a=2).details["a.service"].restarts == 2


def test_a_reading_before_a_restart_is_not_that_after_it(begin: Systemd) -> None:
    systemd = begin({"a.service": {"NRestarts": 1}})
    systemd.hold = {"Get Result"}
    with asking(systemd, SHORT) as managers:
        ask(managers, a=1)
        # A restart that is queued counts already, and the state has not changed.
        systemd.units["a.service"] = {"NRestarts": 2, "Job": 4}
        ask(managers, a=1)
        systemd.release()
        systemd.wait(lambda: systemd.calls["Get NRestarts"] == 2)
        assert ask_until_told(managers, 1, a=1).details["a.service"].restarts == 2


def test_a_unit_that_is_listed_anew_while_it_is_read_is_read_anew(begin: Systemd) -> None:
    systemd = begin({"a.service": FAILED})
    systemd.hold = {"Get SubState"}
    with asking(systemd, SHORT) as managers:
        ask(managers)
        systemd.change("a.service", ActiveState="activating", SubState="auto-restart")
        assert ask(managers).pending == {"a.service"}
        systemd.release()
        # Nobody asks any more.
        systemd.wait(lambda: systemd.calls["Get SubState"] == 2)


def test_two_questions_one_after_the_other(begin: Systemd) -> None:
    systemd = begin({"a.service": {}})
    with asking(systemd) as managers:
        managers.ask({"": {}}, is_worker)
        assert set(ask(managers, a=1).details) == {"a.service"}
        assert managers.reports() == managers.reports()
    assert systemd.calls["connections"] == 1


def test_a_mistake_about_one_unit_is_logged_and_leaves_the_others(
    begin: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    systemd = begin({"a.service": FAILED, "b.service": {}})

    def mistaken(path: str) -> bool:
        raise KeyError(path)

    with asking(systemd) as managers:
        managers.ask({"": {"b.service": 1}}, mistaken)
        report = managers.reports()[""]
    assert report is not None
    assert (set(report.details), set(report.pending)) == ({"b.service"}, {"a.service"})
    assert [record.message for record in caplog.records] == ["reading a unit failed"]


def test_the_stand_in_as_a_process(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"units": {"a.service": {"ActiveState": "failed"}}}))
    command = [sys.executable, "-m", "tests.fake_systemd", str(tmp_path / "bus"), str(spec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            managers = Managers({"": f"unix:path={tmp_path}/bus"}, LONG)
            assert list(ask(managers).units) == ["a.service"]
            spec.write_text(json.dumps({"units": {"b.service": {}}}))
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "listening\n"
            assert list(ask(managers).units) == ["b.service"]
            managers.close()
        finally:
            process.terminate()
            assert process.wait(LONG) == 0
    assert not (tmp_path / "bus").exists()
