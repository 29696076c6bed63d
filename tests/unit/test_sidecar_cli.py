"""The command line `worker-sidecar`: what goes wrong is one line, and the exit code tells what."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.fake_launcher import FakeLauncher, running

import worker_exporter
from worker_exporter.errors import UserError
from worker_sidecar.cli import where
from worker_sidecar.cli.apply import planned
from worker_sidecar.cli.program import execute
from worker_sidecar.cli.where import Where
from worker_sidecar.control import Control
from worker_sidecar.errors import (
    AlreadyRunningError,
    InputError,
    InputOutputError,
    KillFailedError,
    NotFoundError,
    PermissionDeniedError,
)
from worker_sidecar.launch import best
from worker_sidecar.launch.best import Choice
from worker_sidecar.launch.combined import Combined
from worker_sidecar.launch.declaration import differences, encode
from worker_sidecar.launch.launcher import State, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site
from worker_sidecar.reconcile import Need, Step


def sidecar(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker_sidecar", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--prt=1"], "No such option '--prt'"),
        (["demo", "--port=70000"], "70000 is not in the range 0<=x<=65535"),
        (["demo", "--duration=0"], "--duration 0.0 is not a number of seconds above 0"),
        (["demo", "--duration=nan"], "--duration nan is not a number of seconds above 0"),
        (["demo", "--duration=soon"], "'soon' is not a valid float"),
        (["demo", "--slice=worker.slice"], "the name must begin with demo"),
        (["demo", "--slice=demo-a.slice"], "the name must begin with demo"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    [line] = errors.splitlines()
    assert line.startswith("worker-sidecar: error: ")
    assert said in line


def test_version_and_help() -> None:
    assert sidecar("--version").stdout.strip().endswith(worker_exporter.__version__)
    for arguments in ([], ["--help"], ["demo", "--help"]):
        done = sidecar(*arguments)
        assert done.returncode == 0
        assert "Usage:" in done.stdout


def test_the_shell_can_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_WORKER_SIDECAR_COMPLETE", "bash_source")
    assert "_WORKER_SIDECAR_COMPLETE=bash_complete" in sidecar().stdout


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLauncher:
    """What every command of this process uses in place of this host's launcher."""
    fake = FakeLauncher()

    def choose(site: Site, forced: str | None = None) -> Choice:
        return Choice(fake, "the test has it", True)

    def alone(process: FakeLauncher, site: Site) -> Combined:
        return Combined(process, None)

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("WORKER_SIDECAR_FILE", "")
    monkeypatch.setattr(where, "SYSTEM_FILE", str(tmp_path / "workers.yaml"))
    monkeypatch.setattr(best, "choose", choose)
    monkeypatch.setattr(best, "with_docker", alone)
    return fake


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 2),
        (NotFoundError("gone"), 3),
        (PermissionDeniedError("theirs", "pact"), 4),
        (AlreadyRunningError("there"), 5),
        (KillFailedError("stuck"), 1),
        (InputOutputError("silent"), 1),
        (UserError("a user's"), 1),
        (OSError(28, "No space left on device", "/x"), 1),
        (ZeroDivisionError("ours"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_has_its_exit_code_and_no_traceback(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str], error: Any, code: int
) -> None:
    launcher.hangs = error
    assert execute(["ps"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if code == 130 else 1)
    assert all(line.startswith("worker-sidecar: error: ") for line in lines)
    if isinstance(error, ZeroDivisionError):
        assert "unexpected ZeroDivisionError: ours at fake_launcher.py:" in lines[0]


def test_an_error_of_several_lines_is_marked_in_each(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher.hangs = InputError("f:1: one\nf:2:   two\x1b")
    execute(["ps"])
    assert capsys.readouterr().err.splitlines() == [
        "worker-sidecar: error: f:1: one",
        "worker-sidecar: error: f:2: two\\x1b",
    ]


def test_common_options_stand_before_or_behind_the_command(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--slice=x.y", "ps"], ["ps", "--slice=x.y"]):
        assert execute(arguments) == 2
        assert "'x.y' is no slice" in capsys.readouterr().err
    assert execute(["--slice=x.y", "ps", "--slice=worker.slice"]) == 0


def test_what_the_later_option_says_goes_before() -> None:
    general = Where(launcher="cgroupfs", slice_name="a.slice", emergency=True, reason="r")
    own = Where(slice_name="b.slice", file="f")
    assert own.over(general) == Where(
        launcher="cgroupfs", slice_name="b.slice", file="f", emergency=True, reason="r"
    )


def test_the_log_is_quiet_for_what_only_looks(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(["ps"])
    assert capsys.readouterr().err == ""
    execute(["ps", "--log.level=info"])
    assert 'msg="launcher chosen" launcher=fake' in capsys.readouterr().err
    execute(["run", "web", "1", "--", "true"])
    assert 'msg="launcher chosen" launcher=fake' in capsys.readouterr().err
    execute(["--log.format=json", "run", "web", "1", "--", "true"])
    assert '"launcher": "fake"' in capsys.readouterr().err


def test_a_service_that_nobody_declared(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert execute(["run", "web", "1"]) == 3
    said = f"web is no service of {tmp_path}/workers.yaml; declare it there, or give a command"
    assert said in capsys.readouterr().err
    assert launcher.calls == []


def test_reading_goes_on_without_a_broken_file(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "workers.yaml").write_text("services: 7\n")
    launcher.workers["web", "1"] = running("web", "1", state=State.FAILED, result="oom-kill")
    assert execute(["ps"]) == 0
    out, errors = capsys.readouterr()
    assert out.splitlines()[1].split()[:3] == ["web", "1", "failed"]
    assert out.splitlines()[1].endswith("oom-kill")
    assert 'level=warn msg="going on without workers.yaml" err=' in errors
    assert execute(["stop", "web", "1"]) == 2
    assert execute(["stop", "web", "1", "--emergency", "--reason=the file is broken"]) == 0
    assert launcher.changes() == ["stop(5) web/1"]


def test_the_image_of_a_worker_without_a_command(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["run", "web", "1", "--image=nginx"]) == 4
    assert "web/1 has an image, but no Docker daemon is on this host" in capsys.readouterr().err


def test_what_a_container_has_needs_an_image(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, key in (("--volume=/a:/b", "volumes"), ("--shm-size=1G", "shm_size")):
        assert execute(["run", "web", "1", flag, "--", "true"]) == 2
        assert f"web/1 has {key}, which only a container" in capsys.readouterr().err
    assert launcher.calls == []


def test_a_command_of_ones_own_keeps_the_totals_of_the_file(
    launcher: FakeLauncher, tmp_path: Path
) -> None:
    """Without a file, or for a service that is not in it, they are not ours to say."""
    assert execute(["run", "web", "1", "--", "true"]) == 0
    file = tmp_path / "workers.yaml"
    file.write_text("services: {web: {command: [x], user: root, total: {tasks: 70}}}\n")
    for service in ("web", "own"):
        assert execute(["run", service, "2", "--", "true"]) == 0
    found = {name: (spec.service_limits, spec.host_limits) for name, spec in launcher.specs.items()}
    assert found == {
        "web/1": (None, None),
        "web/2": (Limits(tasks=70), Limits()),
        "own/2": (None, Limits()),
    }


class TestDoctor:
    @pytest.fixture
    def examined(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
        from worker_sidecar import doctor
        from worker_sidecar.doctor import Finding

        def with_level(level: Any) -> int:
            findings = [Finding("cgroup2", "ok", "unified"), Finding("psi", level, "off", "boot")]
            monkeypatch.setattr(doctor, "examine", lambda site, path: findings)
            return execute(["doctor"])

        return with_level

    def test_it_prints_what_to_do(
        self,
        launcher: FakeLauncher,
        examined: Callable[[str], int],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert examined("warning") == 0
        assert capsys.readouterr().out.splitlines() == [
            "LEVEL    WHAT     FOUND",
            "ok       cgroup2  unified",
            "warning  psi      off",
            "         boot",
        ]

    def test_a_problem_is_exit_code_1(
        self, launcher: FakeLauncher, examined: Callable[[str], int]
    ) -> None:
        assert examined("problem") == 1


def test_a_dry_run_of_apply_changes_nothing(
    launcher: FakeLauncher, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert execute(["apply", "--diff"]) == 2  # a file that is not there
    file = "services: {web: {command: [x], user: root, instances: {a: {}}}}\n"
    (tmp_path / "workers.yaml").write_text(file)
    capsys.readouterr()
    assert execute(["apply", "--dry-run"]) == 0
    assert capsys.readouterr().out == "web/a: would be started (missing)\n"
    assert launcher.changes() == []
    assert execute(["apply"]) == 0
    assert launcher.changes() == ["start web/a"]


def test_control_is_opened_for_the_configurations_slice(
    launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "workers.yaml").write_text("slice: team.slice\n")
    control = Where().control()
    assert isinstance(control, Control)
    assert control.slice_name == "team.slice"
    assert control.stopped.run_dir == str(tmp_path / "run/team.slice")
    with pytest.raises(PermissionDeniedError):
        Where(slice_name="worker.slice").control()
    assert Where(slice_name="worker.slice").reading().slice_name == "worker.slice"


def test_what_a_worker_was_declared_with_cannot_steer_the_terminal() -> None:
    """A worker without a cgroup carries its declaration in its environment."""
    declared = encode(WorkerSpec("llm", "1", ("x",)))
    why = differences('{"\\u001b[2J\\n": "\\u009b2J", "argv": ["x"]}', declared)
    assert list(planned(Step("llm", "1", Need.REPLACEMENT, tuple(why)))) == [
        "llm/1: differs; would be left without --replace",
        '  \\x1b[2J\\n: "\\x9b2J" -> nothing',
    ]
