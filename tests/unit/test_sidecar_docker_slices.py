"""The commands that prepare slices around containers, and what systemctl's failures become."""

import shlex
from pathlib import Path

import pytest

from worker_sidecar.errors import CreationFailedError, InputOutputError
from worker_sidecar.launch.docker import parent, slices
from worker_sidecar.launch.docker.place import in_slice
from worker_sidecar.launch.limits import NO_LIMITS, Limits

ACCOUNTING = "CPUAccounting=yes MemoryAccounting=yes IOAccounting=yes TasksAccounting=yes"
SET = "systemctl set-property --runtime"


@pytest.fixture(autouse=True)
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where set-property would keep what it was told."""
    folder = tmp_path / "system.control"
    monkeypatch.setattr(slices, "_CONTROL", str(folder))
    return folder


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that says and ends as its file tells."""
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def says(program: Path, text: str, code: int) -> None:
    program.write_text(f"#!/bin/sh\necho {shlex.quote(text)} >&2\nexit {code}\n")
    program.chmod(0o755)


def test_a_worker_has_its_slice_and_those_above_prepared() -> None:
    place = in_slice("my-team.slice", "llm", "8090")
    limits = Limits(cpu=1.5, memory=1 << 30)
    commands = parent.slice_commands(place, limits, Limits(tasks=9), None)
    assert [shlex.join(command) for command in commands] == [
        f"{SET} my-team.slice {ACCOUNTING}",
        f"{SET} my-team-llm.slice {ACCOUNTING} TasksMax=9",
        f"{SET} my-team-llm-8090.slice {ACCOUNTING} CPUQuota=150% MemoryMax=1073741824 "
        "MemorySwapMax=0",
        "systemctl start my-team-llm-8090.slice",
    ]


def test_a_service_has_its_own_slice_prepared() -> None:
    place = in_slice("worker.slice", "llm", None)
    commands = parent.slice_commands(place, None)
    assert [shlex.join(command) for command in commands] == [
        f"{SET} worker-llm.slice {ACCOUNTING}",
        "systemctl start worker-llm.slice",
    ]


def test_given_limits_lift_those_of_before(control: Path) -> None:
    drop_ins = control / "worker-llm.slice.d"
    drop_ins.mkdir(parents=True)
    limits = ("MemoryMax", "TasksMax", "IOReadBandwidthMax", "CPUQuota")
    for name in (*limits, "CPUAccounting", "MemoryLow", "DeviceAllow"):
        (drop_ins / f"50-{name}.conf").touch()
    words = slices.set_command("worker-llm.slice", Limits(tasks=9))
    assert words[3:4] == ("worker-llm.slice",)
    assert words[8:] == ("CPUQuota=", "IOReadBandwidthMax=", "MemoryMax=infinity", "TasksMax=9")
    lifted = ("CPUQuota=", "IOReadBandwidthMax=", "MemoryMax=infinity", "TasksMax=")
    assert slices.set_command("worker-llm.slice", NO_LIMITS)[8:] == lifted
    assert slices.set_command("worker-llm.slice", None)[8:] == ()
    assert slices.set_command("worker.slice", NO_LIMITS)[8:] == ()


def test_a_failure_is_systemds_last_line(systemctl: Path) -> None:
    says(systemctl, "Warning\nFailed to set unit properties: Access denied", 1)
    with pytest.raises(CreationFailedError) as caught:
        slices.run(("systemctl", "set-property", "x"))
    said = "systemctl set-property failed: Failed to set unit properties: Access denied"
    assert str(caught.value) == said


def test_a_slice_that_does_not_stop_keeps_what_it_was_set_to(
    systemctl: Path, control: Path
) -> None:
    (control / "worker-llm-1.slice.d").mkdir(parents=True)
    says(systemctl, "no", 1)
    with pytest.raises(InputOutputError, match=r"cannot stop worker-llm-1\.slice: no"):
        slices.remove("worker-llm-1.slice")
    assert slices.known("worker-llm-1.slice")
    says(systemctl, "Unit worker-llm-1.slice not loaded.", 5)
    slices.remove("worker-llm-1.slice")
    assert not slices.known("worker-llm-1.slice")


def test_slices_that_are_gone_are_forgotten_and_others_are_not(
    systemctl: Path, control: Path
) -> None:
    for name in ("worker-a.slice.d", "worker-b@1.service.d", "workers-a.slice.d"):
        (control / name).mkdir(parents=True)
    says(systemctl, "", 3)
    slices.forget_below("worker.slice")
    left = sorted(path.name for path in control.iterdir())
    assert left == ["worker-b@1.service.d", "workers-a.slice.d"]


def test_an_active_slice_is_not_forgotten(systemctl: Path, control: Path) -> None:
    (control / "worker-a.slice.d").mkdir(parents=True)
    says(systemctl, "", 0)
    slices.forget_below("worker.slice")
    assert slices.known("worker-a.slice")


def test_a_systemd_that_hangs_is_left(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_PATIENCE", 0.2)
    systemctl.write_text("#!/bin/sh\nexec sleep 60\n")
    systemctl.chmod(0o755)
    with pytest.raises(InputOutputError, match="systemd does not answer: systemctl start hangs"):
        slices.run(("systemctl", "start", "x.slice"))


def test_no_systemctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputOutputError, match="cannot run systemctl: No such file"):
        slices.run(("systemctl", "start", "x.slice"))
