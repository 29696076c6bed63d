"""The systemd-run command line."""

import sys
from pathlib import Path

import pytest

from worker_sidecar.launch import stamp
from worker_sidecar.launch.launcher import LaunchError, Limits, WorkerSpec
from worker_sidecar.launch.systemd import run_command


def spec(program: str, *arguments: str, **metadata: str) -> WorkerSpec:
    return WorkerSpec(
        "llm",
        "8080",
        (program, *arguments),
        env={"GREETING": "hello $USER"},
        limits=Limits(cpu_cores=1.5, memory_bytes=2**28, tasks=16),
        metadata=metadata,
    )


def test_the_command_line_whole() -> None:
    command = run_command(
        spec("/bin/sh", "-c", "echo $HOME $$", "%i", model='a "b" \\ $c'),
        "demo.slice",
        "/sys/fs/cgroup",
        user=False,
    )
    stamped = (
        f'-+:"{sys.executable}" "-I" "-S" "{stamp.__file__}" "/sys/fs/cgroup"'
        ' "model=a \\"b\\" \\\\ $c"'
    )
    assert command == [
        "systemd-run",
        "--quiet",
        "--unit=demo-llm@8080.service",
        "--slice=demo-llm.slice",
        "--description=worker llm/8080",
        "--service-type=exec",
        "--property=CPUAccounting=yes",
        "--property=MemoryAccounting=yes",
        "--property=IOAccounting=yes",
        "--property=TasksAccounting=yes",
        "--property=TimeoutStopSec=5s",
        "--property=CPUQuota=150%",
        "--property=MemoryMax=268435456",
        "--property=MemorySwapMax=0",
        "--property=TasksMax=16",
        f"--property=ExecStartPre={stamped}",
        "--setenv=GREETING=hello $USER",
        "--",
        "/bin/sh",
        "-c",
        "echo $$HOME $$$$",
        "%i",
    ]


def test_without_limits_none_are_set_and_a_user_has_his_own_manager() -> None:
    bare = WorkerSpec("llm", "8080", ("/bin/true",))
    command = run_command(bare, "my-team.slice", "/sys/fs/cgroup", user=True)
    assert command[:2] == ["systemd-run", "--user"]
    assert "--unit=my-team-llm@8080.service" in command
    assert "--slice=my-team-llm.slice" in command
    assert not [word for word in command if "Max=" in word or "Quota" in word]


def test_the_program_is_found_on_the_path() -> None:
    command = run_command(spec("sh"), "demo.slice", "/sys/fs/cgroup", user=False)
    program = command[command.index("--") + 1]
    assert program.endswith("/bin/sh")


def test_a_program_that_is_not_there_or_has_a_dollar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no program nowhere-to-be-found"):
        run_command(spec("nowhere-to-be-found"), "demo.slice", "/sys/fs/cgroup", user=False)
    program = tmp_path / "a$b"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(LaunchError, match=r"contains a \$"):
        run_command(spec(str(program)), "demo.slice", "/sys/fs/cgroup", user=False)
