"""The command lines that start a worker under systemd."""

import os
import pwd
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch import declaration, stamp
from worker_sidecar.launch.launcher import Gpu, Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.systemd import command
from worker_sidecar.launch.systemd.place import Place

SYSTEM = Place("worker.slice", "/sys/fs/cgroup", user=False)
OWN = Place("my-team.slice", "/sys/fs/cgroup", user=True)
BARE = WorkerSpec("llm", "8080", ("/bin/true",))


def properties(words: tuple[str, ...]) -> list[str]:
    return [word.removeprefix("--property=") for word in words if word.startswith("--property=")]


def value(words: tuple[str, ...], name: str) -> str | None:
    found = [word.partition("=")[2] for word in properties(words) if word.startswith(f"{name}=")]
    assert len(found) < 2, found
    return found[0] if found else None


def test_the_command_line_whole() -> None:
    spec = WorkerSpec(
        "llm",
        "8080",
        ("/bin/sh", "-c", "echo 100 %i", ""),
        env={"GREETING": "hello $USER; bye"},
        limits=Limits(cpu=1.5, memory=2**28, tasks=16),
        metadata={"model": 'a "b" \\ $c'},
        restart=Restart.ON_FAILURE,
    )
    declared = declaration.encode(spec).replace("$", "=24").replace(";", "=3B")
    declared = declared.replace("\\", "\\\\").replace('"', '\\"')
    assert command.run_command(spec, SYSTEM) == (
        "systemd-run",
        "--quiet",
        "--no-ask-password",
        "--unit=worker-llm@8080.service",
        "--slice=worker-llm.slice",
        "--description=worker llm/8080",
        "--service-type=exec",
        "--property=CPUAccounting=yes",
        "--property=MemoryAccounting=yes",
        "--property=IOAccounting=yes",
        "--property=TasksAccounting=yes",
        "--property=Restart=on-failure",
        "--property=TimeoutStopSec=90s",
        "--property=OOMPolicy=kill",
        "--property=OOMScoreAdjust=0",
        "--property=CPUQuota=150%",
        "--property=MemoryMax=268435456",
        "--property=MemorySwapMax=0",
        "--property=TasksMax=16",
        f'--property=ExecStartPre=-"{sys.executable}" "-I" "-S" "{stamp.__file__}"'
        f' "/sys/fs/cgroup" "model=a \\"b\\" \\\\ =24c" "declaration={declared}"',
        "--setenv=GREETING=hello $USER; bye",
        "--",
        "/bin/sh",
        "-c",
        "echo 100 %i",
        "",
    )


def test_a_user_has_his_own_manager() -> None:
    words = command.run_command(BARE, OWN)
    assert words[:2] == ("systemd-run", "--user")
    assert "--unit=my-team-llm@8080.service" in words
    assert "--slice=my-team-llm.slice" in words


def test_without_limits_none_are_set() -> None:
    names = {word.partition("=")[0] for word in properties(command.run_command(BARE, SYSTEM))}
    assert not {name for name in names if name.endswith(("Max", "Quota", "Weight", "CPUs"))}


def test_every_limit_has_its_property() -> None:
    limits = Limits(
        cpu=1 / 3,
        cpu_weight=50,
        cpus="3,0-1,1",
        memory=2**30,
        memory_high=2**29,
        swap=4096,
        io_weight=77,
        tasks=9,
    )
    words = command.run_command(replace(BARE, limits=limits), SYSTEM)
    given = {name: value(words, name) for name in (
        "CPUQuota", "CPUWeight", "AllowedCPUs", "MemoryMax", "MemoryHigh", "MemorySwapMax",
        "IOWeight", "TasksMax",
    )}  # fmt: skip
    assert given == {
        "CPUQuota": "33.33%",
        "CPUWeight": "50",
        "AllowedCPUs": "0-1,3",
        "MemoryMax": "1073741824",
        "MemoryHigh": "536870912",
        "MemorySwapMax": "4096",
        "IOWeight": "77",
        "TasksMax": "9",
    }


def test_a_quota_is_never_written_in_a_form_that_systemd_does_not_read() -> None:
    words = command.run_command(replace(BARE, limits=Limits(cpu=8192)), SYSTEM)
    assert value(words, "CPUQuota") == "819200%"
    words = command.run_command(replace(BARE, limits=Limits(cpu=0.01)), SYSTEM)
    assert value(words, "CPUQuota") == "1%"


def test_an_io_limit_of_a_path_without_a_disk_is_refused() -> None:
    limits = Limits(io=(IoLimit("/proc", write_bandwidth=1),))
    with pytest.raises(InputError, match="/proc"):
        command.run_command(replace(BARE, limits=limits), SYSTEM)


def test_the_unit_gives_at_least_the_grace_that_was_asked_for() -> None:
    assert value(command.run_command(replace(BARE, grace=5), SYSTEM), "TimeoutStopSec") == "90s"
    longer = command.run_command(replace(BARE, grace=120.5), SYSTEM)
    assert value(longer, "TimeoutStopSec") == "121s"


def test_gpus_are_in_the_environment_and_in_the_metadata() -> None:
    words = command.run_command(replace(BARE, gpus=(Gpu(1, "GPU-b"), Gpu(0, "GPU-a"))), SYSTEM)
    assert "--setenv=CUDA_VISIBLE_DEVICES=GPU-b,GPU-a" in words
    assert '"gpu=1,0"' in str(value(words, "ExecStartPre"))


def test_what_is_given_is_asked_of_systemd(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("TOKEN=hush\n")
    secret.chmod(0o600)
    spec = replace(
        BARE,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        directory=str(tmp_path),
        restart=Restart.ALWAYS,
        delegate=True,
        oom_score_adjust=-500,
        secrets={"api.key": str(secret)},
        secret_env=str(secret),
    )
    words = command.run_command(spec, SYSTEM)
    assert value(words, "User") == spec.user
    assert value(words, "WorkingDirectory") == str(tmp_path)
    assert value(words, "Restart") == "always"
    assert value(words, "Delegate") == "yes"
    assert value(words, "OOMScoreAdjust") == "-500"
    assert value(words, "LoadCredential") == f"api.key:{secret}"
    assert value(words, "EnvironmentFile") == str(secret)
    assert "hush" not in " ".join(words)


def test_a_worker_of_another_user_has_a_privileged_helper_that_survives_a_reload() -> None:
    """systemd 252 forgets a privileged command at a reload unless an ordinary one follows it."""
    words = command.run_command(replace(BARE, user="root"), SYSTEM)
    helpers = [word.partition("=")[2] for word in properties(words) if "ExecStartPre" in word]
    assert [helper.split('"')[0] for helper in helpers] == ["-+", "-/bin/true"]


def test_a_users_manager_is_told_no_user() -> None:
    mine = pwd.getpwuid(os.geteuid()).pw_name
    words = command.run_command(replace(BARE, user=mine), OWN)
    assert value(words, "User") is None
    assert str(value(words, "ExecStartPre")).startswith('-"')


def test_what_the_linker_obeys_is_for_the_worker_alone() -> None:
    """Else root's helper would load what a worker's variable names."""
    env = {"LD_PRELOAD": "/evil.so", "GLIBC_TUNABLES": "x=1", "PLAIN": "1", "BELL": "a\x07"}
    env |= {"GCONV_PATH": "/evil", "LOCPATH": "/evil"}
    words = command.run_command(replace(BARE, env=env), SYSTEM)
    assert [word for word in words if word.startswith("--setenv=")] == ["--setenv=PLAIN=1"]
    behind = words[words.index("--") + 1 :]
    hidden = ("LD_PRELOAD=3D/evil.so", "GLIBC_TUNABLES=3Dx=3D1", "BELL=3Da=07")
    found = (*hidden, "GCONV_PATH=3D/evil", "LOCPATH=3D/evil")
    assert behind[-7:] == ("5", *found, "/bin/true")


def test_the_program_is_found_on_the_workers_path(tmp_path: Path) -> None:
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    spec = replace(BARE, argv=("serve", "x"), env={"PATH": str(tmp_path)})
    assert command.run_command(spec, SYSTEM)[-2:] == (str(program), "x")
    assert command.run_command(replace(BARE, argv=("sh",)), SYSTEM)[-1] == shutil.which(
        "sh", path="/usr/bin:/bin"
    )


def test_a_relative_program_is_taken_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    spec = replace(BARE, argv=("./bin/serve",), directory=str(tmp_path))
    assert command.run_command(spec, SYSTEM)[-1] == str(program)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"argv": ("nowhere-to-be-found",)}, "no program nowhere-to-be-found"),
        ({"argv": ("/nowhere/to/be/found",)}, "No such file"),
        ({"argv": ("/etc/passwd",)}, "not executable"),
        ({"argv": ("/etc",)}, "not executable"),
        ({"directory": "/nowhere"}, "working directory /nowhere: No such file"),
        ({"directory": "/etc/passwd"}, "Not a directory"),
        ({"user": "nobody-of-this-name"}, "no user"),
        ({"user": "3999999999"}, "no account"),
        ({"image": "debian"}, "image"),
        ({"secrets": {"a/b": "/etc/passwd"}}, "no name"),
        ({"secrets": {"a": "relative"}}, "no absolute path"),
        ({"secret_env": "/nowhere"}, "No such file"),
        ({"secret_env": "/etc/[p]asswd"}, "pattern"),
        ({"env": {"X": "x" * 200_000}}, "longer than"),
        ({"argv": ("/bin/true", "x" * 200_000)}, "longer than"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change: dict[str, object], words: str) -> None:
    spec = replace(BARE, **change)  # type: ignore[arg-type]
    if spec.user is not None and os.geteuid() != 0 and spec.user.isdigit():
        pytest.skip("only root may start workers as others")
    with pytest.raises(InputError, match=words) as error:
        command.run_command(spec, SYSTEM)
    assert "\n" not in str(error.value)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hush")
    secret.chmod(0o644)
    for spec in (replace(BARE, secrets={"a": str(secret)}), replace(BARE, secret_env=str(secret))):
        with pytest.raises(RefusedError, match="everybody"):
            command.run_command(spec, SYSTEM)


def test_settings_of_a_slice() -> None:
    words = command.slice_command("my-team.slice", ["MemoryMax=1"], OWN)
    assert words == (
        *("systemctl", "--user", "--no-ask-password"),
        *("set-property", "--runtime", "my-team.slice", "MemoryMax=1"),
    )
