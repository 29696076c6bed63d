"""What a start, an end and the settings of slices ask of systemd, with another in its place."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.systemd_support import FakeManager

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    InputOutputError,
    NotFoundError,
    PermissionDeniedError,
)
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site
from worker_sidecar.launch.systemd import SystemdLauncher, ending, manager, slices, starting
from worker_sidecar.launch.systemd.command import DECLARATION
from worker_sidecar.launch.systemd.place import Place

PLACE = Place("worker.slice", None, user=False)
SPEC = WorkerSpec("llm", "8080", ("/bin/true",))
UNIT = "worker-llm@8080.service"
EXISTS = ("sh", "-c", "echo Unit x was already loaded or has a fragment file. >&2; exit 1")
SILENT = ("sh", "-c", "exit 1")
ACTIVE: dict[str, Any] = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running"}
FAILED: dict[str, Any] = {
    "LoadState": "loaded",
    "ActiveState": "failed",
    "SubState": "failed",
    "Result": "exit-code",
    "ExecMainCode": 1,
    "ExecMainStatus": 203,
    "ExecStartPre": [["/python", ["python", DECLARATION + encode(SPEC)]]],
}


def start(systemd: FakeManager, *commands: tuple[str, ...]) -> None:
    asyncio.run(starting.start(systemd.real, SPEC, PLACE, commands))


def test_a_living_worker_is_left_alone() -> None:
    systemd = FakeManager({UNIT: ACTIVE})
    with pytest.raises(AlreadyRunningError, match="is running"):
        start(systemd, ("false",))
    assert systemd.calls == []


def test_a_failed_unit_is_reset_before_the_start() -> None:
    systemd = FakeManager({UNIT: FAILED})
    start(systemd, ("true",))
    assert systemd.calls == [("reset_failed", UNIT)]


def test_a_start_that_lost_the_race_says_that_the_worker_runs(tmp_path: Path) -> None:
    """systemd-run finds the unit of somebody who was faster."""
    systemd = FakeManager({})
    seen = []

    async def properties(unit: str) -> dict[str, Any]:
        seen.append(unit)
        return {} if len(seen) == 1 else ACTIVE

    systemd.properties = properties  # type: ignore[method-assign]
    with pytest.raises(AlreadyRunningError):
        start(systemd, EXISTS)
    assert systemd.calls == []


def test_a_start_is_tried_again_while_systemd_forgets_the_last_unit(tmp_path: Path) -> None:
    mark = tmp_path / "tried"
    once = ("sh", "-c", f"test -e {mark} && exit 0; touch {mark}; {EXISTS[2]}")
    start(FakeManager({}), once)
    assert mark.exists()


def test_a_name_that_stays_taken_is_told_in_systemds_words() -> None:
    with pytest.raises(CreationFailedError, match=r"cannot start llm/8080: .*fragment file"):
        start(FakeManager({}), EXISTS)


def test_a_program_that_cannot_be_executed_is_named_by_the_units_exit_status() -> None:
    systemd = FakeManager({})

    async def properties(unit: str) -> dict[str, Any]:
        return FAILED if ran else {}

    ran: list[bool] = []
    systemd.properties = properties  # type: ignore[method-assign]
    original = starting.run_client

    def client(command: Any) -> Any:
        ran.append(True)
        return original(command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "run_client", client)
        with pytest.raises(CreationFailedError, match="cannot be executed"):
            start(systemd, SILENT)
    assert systemd.calls == [("reset_failed", UNIT)], "nothing is left of it"


def test_a_program_that_failed_at_once_was_started() -> None:
    """systemd-run says no when the program ends before systemd knows that it began."""
    systemd = FakeManager({})
    ended = {**FAILED, "ExecMainStatus": 7}
    mark: list[str] = []

    async def properties(unit: str) -> dict[str, Any]:
        mark.append(unit)
        return {} if len(mark) == 1 else ended

    systemd.properties = properties  # type: ignore[method-assign]
    start(systemd, SILENT)
    assert systemd.calls == [], "its result is kept"


def test_a_stop_in_the_midst_of_a_start_is_told() -> None:
    with pytest.raises(CreationFailedError, match="was stopped before"):
        start(FakeManager({}), SILENT)


def test_what_another_one_started_meanwhile_survives_our_failure() -> None:
    theirs = {**ACTIVE, "ActiveState": "activating", "SubState": "start"}
    for unit in (ACTIVE, theirs):
        systemd = FakeManager({UNIT: unit})
        asyncio.run(starting._clear(systemd.real, SPEC, UNIT, PLACE))
        assert systemd.calls == []


def test_a_restart_of_what_failed_to_start_is_ended() -> None:
    ours = {**FAILED, "ActiveState": "activating", "SubState": "auto-restart"}
    systemd = FakeManager({UNIT: ours})
    asyncio.run(starting._clear(systemd.real, SPEC, UNIT, PLACE))
    assert ("stop", UNIT) in systemd.calls
    assert systemd.units == {}


def test_a_preparation_that_fails_starts_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    with pytest.raises(CreationFailedError, match="no such property"):
        start(
            FakeManager({}), ("sh", "-c", "echo no such property >&2; exit 1"), ("touch", str(mark))
        )
    assert not mark.exists()


def test_a_refusal_is_a_refusal() -> None:
    denied = ("sh", "-c", "echo Failed to start transient service unit: Access denied >&2; exit 1")
    with pytest.raises(PermissionDeniedError, match="Access denied"):
        start(FakeManager({}), denied)


def test_a_missing_client_is_told() -> None:
    with pytest.raises(InputOutputError, match="cannot run /nowhere/systemd-run"):
        start(FakeManager({}), ("/nowhere/systemd-run",))


def test_a_client_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "PATIENCE", 0.05)
    with pytest.raises(InputOutputError, match="does not answer"):
        starting.run_client(("sleep", "60"))


def end(systemd: FakeManager, grace: float) -> ending.End:
    return asyncio.run(ending.end(systemd.real, UNIT, grace, PLACE))


def test_a_polite_end_keeps_the_result_until_it_was_read() -> None:
    systemd = FakeManager({UNIT: {**ACTIVE, "TimeoutStopUSec": 90_000_000}})
    systemd.on_stop = lambda unit: systemd.units.update({unit: FAILED})
    found = end(systemd, 5)
    assert (found.forced, found.properties) == (False, FAILED)
    assert [call[0] for call in systemd.calls] == ["hold", "stop", "reset_failed", "let_go"]


def test_a_grace_that_systemd_would_not_wait_is_refused_before_anything_is_done() -> None:
    systemd = FakeManager({UNIT: {**ACTIVE, "TimeoutStopUSec": 90_000_000}})
    with pytest.raises(InputError, match=r"90\.5 s: systemd kills .* after 90 s"):
        end(systemd, 90.5)
    assert systemd.calls == []


def test_without_a_grace_it_is_killed_after_the_stop_was_asked_for() -> None:
    """In this order: else Restart= would bring it back."""
    systemd = FakeManager({UNIT: {**ACTIVE}})
    systemd.on_stop = lambda unit: systemd.units.update({unit: FAILED})
    assert end(systemd, 0).forced
    assert [call[0] for call in systemd.calls][:3] == ["hold", "stop", "kill"]


def test_a_unit_that_was_started_again_meanwhile_is_not_reset() -> None:
    systemd = FakeManager({UNIT: {**ACTIVE}})
    systemd.on_stop = lambda unit: None
    with pytest.raises(InputOutputError, match="started again"):
        end(systemd, 5)
    assert [call[0] for call in systemd.calls] == ["hold", "stop", "let_go"]


def a_launcher(systemd: manager.Manager, monkeypatch: pytest.MonkeyPatch) -> SystemdLauncher:
    monkeypatch.setattr(
        "worker_sidecar.launch.systemd.launcher.ask",
        lambda user, question: asyncio.run(question(systemd)),
    )
    return SystemdLauncher(Site("worker.slice", None, "", ""), user=False)


def test_a_worker_that_ended_a_moment_before_its_stop_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    systemd = FakeManager({UNIT: {**ACTIVE, "Slice": "worker-llm.slice"}})

    def forgotten(unit: str) -> None:
        raise manager.NoSuchUnitError(f"systemd: Unit {unit} not loaded.")

    systemd.on_stop = forgotten
    with pytest.raises(NotFoundError, match="no worker llm/8080"):
        a_launcher(systemd.real, monkeypatch).stop("llm", "8080")


def test_a_long_list_is_asked_for_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for at once, the last of 2000 answers would come after its deadline."""
    asked = most = 0

    class Slow:
        async def units(self, pattern: str) -> list[str]:
            return [f"worker-llm@{number}.service" for number in range(9)]

        async def properties(self, unit: str) -> dict[str, Any]:
            nonlocal asked, most
            asked += 1
            most = max(most, asked)
            await asyncio.sleep(0)
            asked -= 1
            return {**ACTIVE, "Slice": "worker-llm.slice"}

    assert len(a_launcher(cast(manager.Manager, Slow()), monkeypatch).list()) == 9
    assert most == 1


def test_slices_are_told_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_sidecar.launch.systemd.place.SYSTEM_CONTROL", str(tmp_path))
    kept = tmp_path / "worker-llm.slice.d"
    kept.mkdir()
    (kept / "50-MemoryMax.conf").write_text("")
    all_on = {f"{name}Accounting": True for name in ("CPU", "Memory", "IO", "Tasks")}
    systemd = FakeManager({
        "worker.slice": {"CPUQuotaPerSecUSec": 1_500_000},
        "worker-llm.slice": {**all_on, "MemoryMax": 4096, "CPUWeight": 50},
    })  # fmt: skip

    def commands(spec: WorkerSpec) -> list[tuple[str, ...]]:
        found = asyncio.run(slices.preparations(systemd.real, spec, PLACE))
        return [tuple(command[4:]) for command in found]

    assert commands(SPEC) == []
    same = WorkerSpec(
        *("llm", "1", ("/bin/true",)),
        host_limits=Limits(cpu=1.5),
        service_limits=Limits(memory=4096),
    )
    # swap 0 goes with every limit of memory; a weight that was not set here is not ours to lift
    assert commands(same) == [("worker-llm.slice", "MemorySwapMax=0")]
    other = WorkerSpec(*("llm", "1", ("/bin/true",)), service_limits=Limits(tasks=9))
    assert commands(other) == [("worker-llm.slice", "MemoryMax=infinity", "TasksMax=9")]
    none = WorkerSpec(*("llm", "1", ("/bin/true",)), service_limits=Limits(), host_limits=Limits())
    # on the slice of all nothing was set here, so what limits it is somebody else's
    assert commands(none) == [("worker-llm.slice", "MemoryMax=infinity")]
    above = tmp_path / "worker.slice.d"
    above.mkdir()
    (above / "50-CPUQuota.conf").write_text("")
    assert commands(none)[0] == ("worker.slice", "CPUQuota=")
    assert commands(SPEC) == []
    systemd.units["worker.slice"] = {}
    systemd.units["worker-llm.slice"] = {**all_on}
    assert commands(none) == [], "it is lifted already"
    systemd.units["worker-llm.slice"] = {**all_on, "IOAccounting": False}
    assert commands(SPEC) == [("worker-llm.slice", "IOAccounting=yes")]


def test_what_was_set_is_forgotten_for_our_slices_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_sidecar.launch.systemd.place.SYSTEM_CONTROL", str(tmp_path))
    for name in ("worker.slice.d", "worker-llm.slice.d", "workers.slice.d", "worker-x.service.d"):
        (tmp_path / name).mkdir()
    slices.forget(PLACE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "worker-x.service.d",
        "workers.slice.d",
    ]


def test_a_bus_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    with pytest.raises(InputOutputError, match="no connection to systemd by unix:path=/nowhere"):
        manager.ask(False, lambda systemd: systemd.properties("x.service"))


def test_a_bus_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "DEADLINE", 0.2)
    with _silent_socket(tmp_path / "bus") as path:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
        before = time.monotonic()
        with pytest.raises(InputOutputError, match="does not answer"):
            manager.ask(False, lambda systemd: systemd.properties("x.service"))
        assert time.monotonic() - before >= 0.2


class _silent_socket:  # noqa: N801
    """A socket whose connections are taken, and then nothing comes."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._path = path

    def __enter__(self) -> Path:
        self._socket.bind(str(self._path))
        self._socket.listen()
        return self._path

    def __exit__(self, *error: object) -> None:
        self._socket.close()
