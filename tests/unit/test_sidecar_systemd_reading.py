"""What systemd says of units, and what it is told of slices, by recorded properties."""

import os
from pathlib import Path
from typing import Any

import pytest

from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import State, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.systemd import properties, reading
from worker_sidecar.launch.systemd.command import run_command
from worker_sidecar.launch.systemd.manager import unit_path
from worker_sidecar.launch.systemd.place import Place

PLACE = Place("worker.slice", "/nowhere", user=False)
SPEC = WorkerSpec("llm", "8080", ("/bin/true",), metadata={"model": "a $b; =c"})
RUNNING: dict[str, Any] = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Slice": "worker-llm.slice",
    "ControlGroup": "/worker.slice/worker-llm.slice/worker-llm@8080.service",
    "MainPID": 42,
    "ExecMainStartTimestamp": 1_767_225_600_500_000,
    "ExecMainCode": 0,
    "ExecMainStatus": 0,
    "NRestarts": 3,
    "Result": "success",
    "ExecStartPre": [],
}


def status(**changes: object) -> Any:
    return reading.status_of("llm", "8080", {**RUNNING, **changes}, PLACE, "systemd")


def test_a_running_worker() -> None:
    found = status()
    assert (found.state, found.pid, found.started, found.restarts) == (
        State.RUNNING,
        42,
        1767225600.5,
        3,
    )
    assert found.cgroup == "worker.slice/worker-llm.slice/worker-llm@8080.service"
    assert found.unit == "worker-llm@8080.service"
    assert (found.result, found.exit_status, found.declaration) == (None, None, None)


@pytest.mark.parametrize(
    ("active", "sub", "state"),
    [
        ("active", "running", State.RUNNING),
        ("reloading", "reload", State.RUNNING),
        ("activating", "start", State.STARTING),
        ("activating", "start-pre", State.STARTING),
        ("activating", "auto-restart", State.RESTARTING),
        ("activating", "auto-restart-queued", State.RESTARTING),
        ("deactivating", "stop-sigterm", State.STOPPING),
        ("failed", "failed", State.FAILED),
    ],
)
def test_states(active: str, sub: str, state: State) -> None:
    assert status(ActiveState=active, SubState=sub).state is state


def test_what_is_not_loaded_or_about_to_be_forgotten_is_no_worker() -> None:
    assert status(LoadState="not-found", ActiveState="inactive", SubState="dead") is None
    assert status(ActiveState="inactive", SubState="dead") is None


def test_a_unit_in_another_slice_is_no_worker() -> None:
    assert status(Slice="system.slice") is None


def test_how_a_run_ended_shows_when_it_is_over() -> None:
    killed = {"Result": "oom-kill", "ExecMainCode": 2, "ExecMainStatus": 9}
    failed = status(ActiveState="failed", SubState="failed", ControlGroup="", MainPID=0, **killed)
    assert (failed.result, failed.exit_status) == ("oom-kill", 137)
    assert (failed.cgroup, failed.pid) == (None, None)
    waiting = status(ActiveState="activating", SubState="auto-restart", **killed)
    assert (waiting.result, waiting.exit_status) == ("oom-kill", 137)
    exited = {"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 9}
    left = status(ActiveState="failed", SubState="failed", **exited)
    assert (left.result, left.exit_status) == ("exit-code", 9)
    never_ran = status(ActiveState="failed", SubState="failed", Result="resources")
    assert (never_ran.result, never_ran.exit_status) == ("resources", None)


def test_what_systemd_does_not_know_is_absent() -> None:
    found = status(NRestarts=2**64 - 1, ExecMainStartTimestamp=0, MainPID=0)
    assert (found.restarts, found.started, found.pid) == (None, None, None)
    older = status(NRestarts=None)
    assert older.restarts is None


def test_the_declaration_comes_back_from_the_helpers_arguments() -> None:
    command = run_command(SPEC, PLACE)
    (helper,) = [word for word in command if "ExecStartPre" in word]
    words = [word.replace('\\"', '"').replace("\\\\", "\\") for word in helper[:-1].split('" "')]
    pre = [["/usr/bin/python3", words, True, 0, 0, 0, 0, 0, 0, 0]]
    assert status(ExecStartPre=pre).declaration == encode(SPEC)


def test_metadata_is_without_the_declaration(tmp_path: Path) -> None:
    place = Place("worker.slice", str(tmp_path), user=False)
    directory = tmp_path / "worker.slice"
    directory.mkdir()
    for name, value in {"model": b"m", "declaration": b"{}", "started": b"1.5"}.items():
        os.setxattr(directory, f"user.worker.{name}", value)
    found = {**RUNNING, "ControlGroup": "/worker.slice"}
    worker = reading.status_of("llm", "8080", found, place, "systemd")
    assert worker is not None
    assert worker.metadata == {"model": "m", "started": "1.5"}
    assert worker.declaration is None


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("worker-llm@8080.service", ("llm", "8080")),
        ("worker-llm@a.b_c.service", ("llm", "a.b_c")),
        ("worker-my-llm@1.service", None),
        ("worker-llm@.service", None),
        ("worker-llm@a\\x2db.service", None),
        ("worker-llm@1.scope", None),
        ("llm@8080.service", None),
        ("demo-llm@8080.service", None),
    ],
)
def test_units_that_are_workers(unit: str, names: tuple[str, str] | None) -> None:
    assert PLACE.names_of(unit) == names


def test_where_a_unit_is() -> None:
    assert PLACE.directory("/worker.slice") == "/nowhere/worker.slice"
    assert PLACE.directory("") is None
    assert Place("worker.slice", None, user=False).directory("/worker.slice") is None


def test_object_paths_are_systemds() -> None:
    assert unit_path("worker-llm@8080.service").endswith("/unit/worker_2dllm_408080_2eservice")
    assert unit_path("9p.slice").endswith("/unit/_39p_2eslice")


def test_what_a_slice_is_set_to_reads_as_it_was_written() -> None:
    limits = Limits(
        cpu=1.5,
        cpu_weight=50,
        cpus="0-1,9",
        memory=2**30,
        memory_high=2**29,
        swap=0,
        io_weight=77,
        tasks=9,
    )
    recorded = {
        "CPUAccounting": True,
        "MemoryAccounting": True,
        "IOAccounting": False,
        "TasksAccounting": True,
        "CPUQuotaPerSecUSec": 1_500_000,
        "CPUWeight": 50,
        "AllowedCPUs": b"\x03\x02",
        "MemoryMax": 2**30,
        "MemoryHigh": 2**29,
        "MemorySwapMax": 0,
        "IOWeight": 77,
        "TasksMax": 9,
        "IOReadBandwidthMax": [["/", 1]],
        "IOWriteBandwidthMax": [["/", 2]],
        "IOReadIOPSMax": [["/", 3]],
        "IOWriteIOPSMax": [["/", 4]],
    }
    assert set(properties.in_force(recorded)) == {
        "CPUAccounting=yes",
        "MemoryAccounting=yes",
        "TasksAccounting=yes",
        *properties.settings(limits),
        "IOReadBandwidthMax=/ 1",
        "IOWriteBandwidthMax=/ 2",
        "IOReadIOPSMax=/ 3",
        "IOWriteIOPSMax=/ 4",
    }


def test_what_is_not_set_is_not_in_force() -> None:
    absent = 2**64 - 1
    assert properties.in_force({"MemoryMax": absent, "CPUWeight": absent, "AllowedCPUs": b""}) == ()


def test_lifting() -> None:
    assert properties.lifted("MemoryMax") == "MemoryMax=infinity"
    assert properties.lifted("CPUQuota") == "CPUQuota="
    assert properties.name_of("IOReadBandwidthMax=/dev/a=b 1") == "IOReadBandwidthMax"
