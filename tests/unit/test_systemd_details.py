"""What systemd's properties say, by the words of org.freedesktop.systemd1(5)."""

from typing import Any

import pytest

from worker_exporter.cgroup.identity import unit_name
from worker_exporter.systemd.details import details_of, properties_of
from worker_exporter.systemd.manager import unit_path
from worker_exporter.systemd.unit import Details, Unit, cgroup_path

INFINITY = 2**64 - 1
EVERY = {"Slice": "worker-llm.slice", "ControlGroup": "", "Result": "success"}


def names(unit: str, active: str, sub: str) -> set[str]:
    return {each.name for each in properties_of(Unit(unit, active, sub, 0))}


def details(**values: Any) -> Details:
    found = details_of({**EVERY, **values})
    assert found is not None
    return found


def test_of_a_service_that_ended() -> None:
    assert details(
        ControlGroup="/worker.slice/worker-llm.slice/a.service",
        Result="exit-code",
        NRestarts=4,
        ExecMainStartTimestamp=1_700_000_000_250_000,
        ExecMainStartTimestampMonotonic=5_000_000,
        ExecMainExitTimestampMonotonic=7_500_000,
        ExecMainCode=1,
        ExecMainStatus=3,
        CPUUsageNSec=1_500_000_000,
        MemoryPeak=4096,
    ) == Details(
        slice="worker-llm.slice",
        control_group="worker.slice/worker-llm.slice/a.service",
        result="exit-code",
        restarts=4,
        started=1_700_000_000.25,
        exit_status=3,
        cpu_seconds=1.5,
        peak_memory_bytes=4096,
        duration_seconds=2.5,
    )


@pytest.mark.parametrize(
    ("code", "status", "exit_status"),
    [
        (0, 0, None),  # never ran
        (1, 0, 0),  # CLD_EXITED
        (1, 255, 255),
        (2, 9, 137),  # CLD_KILLED
        (3, 6, 134),  # CLD_DUMPED
        (4, 5, None),  # CLD_TRAPPED, which ends nothing
        (None, 3, None),
        (1, None, None),
    ],
)
def test_exit_status(code: int | None, status: int | None, exit_status: int | None) -> None:
    assert details(ExecMainCode=code, ExecMainStatus=status).exit_status == exit_status


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        (1_000_000, 1_000_000, 0.0),
        (0, 1_000_000, None),  # it adopted a process that it did not start
        (1_000_000, 0, None),
        (0, 0, None),
        (2_000_000, 1_000_000, None),
        (None, 1_000_000, None),
        (1_000_000, None, None),
    ],
)
def test_duration(start: int | None, end: int | None, seconds: float | None) -> None:
    found = details(ExecMainStartTimestampMonotonic=start, ExecMainExitTimestampMonotonic=end)
    assert found.duration_seconds == seconds


def test_what_is_infinite_or_never_is_absent() -> None:
    found = details(CPUUsageNSec=INFINITY, MemoryPeak=INFINITY, ExecMainStartTimestamp=0)
    assert (found.cpu_seconds, found.peak_memory_bytes, found.started) == (None, None, None)


def test_zero_is_a_figure() -> None:
    found = details(CPUUsageNSec=0, MemoryPeak=0, NRestarts=0)
    assert (found.cpu_seconds, found.peak_memory_bytes, found.restarts) == (0.0, 0, 0)


def test_what_systemd_does_not_have_is_absent() -> None:
    assert details() == Details(slice="worker-llm.slice", control_group="", result="success")


@pytest.mark.parametrize("name", EVERY)
def test_what_every_unit_has_must_be_there(name: str) -> None:
    assert details_of({**EVERY, name: None}) is None


def test_a_scope_began_when_it_became_active() -> None:
    assert details(ActiveEnterTimestamp=1_700_000_000_000_000).started == 1_700_000_000.0


OF_THE_RUN = {
    "ExecMainStartTimestampMonotonic",
    "ExecMainExitTimestampMonotonic",
    "ExecMainCode",
    "ExecMainStatus",
    "CPUUsageNSec",
    "MemoryPeak",
}


@pytest.mark.parametrize(
    ("active", "sub", "over"),
    [
        ("active", "running", False),
        ("reloading", "reload", False),
        ("activating", "start-pre", False),
        ("deactivating", "stop-sigterm", False),
        ("deactivating", "stop-post", False),
        ("activating", "auto-restart", True),
        ("activating", "auto-restart-queued", True),
        ("active", "exited", True),
        ("failed", "failed", True),
        ("inactive", "dead", True),
    ],
)
def test_figures_of_a_run_are_read_once_it_is_over(active: str, sub: str, over: bool) -> None:
    assert names("a.service", active, sub) & OF_THE_RUN == (OF_THE_RUN if over else set())


def test_a_scope_has_no_main_process() -> None:
    assert names("a.scope", "failed", "failed") == {
        *("Slice", "ControlGroup", "Result", "ActiveEnterTimestamp", "CPUUsageNSec", "MemoryPeak")
    }


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        # As busctl tree writes them.
        ("worker-llm@8080.service", "worker_2dllm_408080_2eservice"),
        ("0.scope", "_30_2escope"),
        ("a_b\\x2d.service", "a_5fb_5cx2d_2eservice"),
    ],
)
def test_the_object_of_a_unit(unit: str, path: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{path}"


@pytest.mark.parametrize(
    ("manager", "slice_name", "path"),
    [
        ("", "worker.slice", "worker.slice/a.service"),
        ("", "worker-llm.slice", "worker.slice/worker-llm.slice/a.service"),
        ("", "-.slice", "a.service"),
        ("user.slice/u", "worker.slice", "user.slice/u/worker.slice/a.service"),
        ("user.slice/u", "-.slice", "user.slice/u/a.service"),
        ("", "", ""),
        ("user.slice/u", "", ""),
    ],
)
def test_where_the_cgroup_of_a_unit_is(manager: str, slice_name: str, path: str) -> None:
    assert cgroup_path(manager, slice_name, "a.service") == path


@pytest.mark.parametrize(
    ("unit", "directory"),
    [
        ("_a.service", "__a.service"),
        ("memory.service", "_memory.service"),
        ("memory-a.service", "memory-a.service"),
        ("cgroup.service", "_cgroup.service"),
    ],
)
def test_a_unit_whose_name_looks_like_a_kernel_files_has_an_underscore_before_it(
    unit: str, directory: str
) -> None:
    assert cgroup_path("", "io-a.slice", unit) == f"_io.slice/io-a.slice/{directory}"
    assert unit_name(cgroup_path("", "io-a.slice", unit)) == unit
