"""What a worker's command gets from its launcher, and what it must not: on real plain cgroups."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.real.launch_support import (
    NOBODY,
    SLEEP,
    SYSTEM_PYTHON,
    Fifo,
    environ_of,
    in_a_process,
    output,
    pids,
    wait_until_empty,
)
from tests.tools import require

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    RefusedError,
)
from worker_sidecar.launch import shim
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
from worker_sidecar.launch.combined import Combined
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.output import FileLog
from worker_sidecar.launch.site import Site

SLICE = f"programtest{os.getpid()}.slice"

OF_LIBC = 0b11 << 31
"""Signals 32 and 33: glibc's own. Its posix_spawn, make's way to start us, leaves them ignored."""


def test_a_worker_belongs_to_nobody(launcher: CgroupfsLauncher, tmp_path: Path) -> None:
    """The shim alone, started in this very session: what it starts is not in it."""
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    command = [sys.executable, "-I", "-S", shim.__file__, f"--output={tmp_path / 'output'}"]
    place = f"--cgroup={launcher.directory}/llm/8080"
    done = subprocess.run(
        [*command, place, "--", "/bin/sleep", "1000"],
        input=b"",
        capture_output=True,
        check=True,
    )
    pid = int(done.stdout)
    assert pid in pids(launcher, "llm/8080")
    assert os.getsid(pid) != os.getsid(0)
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()


def test_the_shim_follows_no_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious\n")
    link.symlink_to(target)
    command = [sys.executable, "-I", "-S", shim.__file__, f"--output={link}", "--", "/bin/echo"]
    done = subprocess.run(command, input="", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"log {link}: Too many levels of symbolic links\n"
    assert target.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("/no/such/program",), "llm/8080: /no/such/program: No such file or directory"),
        (("no_such_program",), "llm/8080: there is no program no_such_program on its PATH"),
        (("/etc/passwd",), "llm/8080: /etc/passwd is not executable"),
        (("/tmp",), "llm/8080: /tmp is not executable"),
    ],
)
def test_what_cannot_run_is_one_line_and_makes_nothing(
    launcher: CgroupfsLauncher, site: Site, argv: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        launcher.start(WorkerSpec("llm", "8080", argv))
    assert str(caught.value).startswith(says)
    assert not os.path.exists(launcher.directory)
    assert not os.path.exists(site.log_dir)


@pytest.mark.parametrize(
    ("first_line", "says"),
    [
        ("#!/no/such/interpreter", "its interpreter (the first line, or its loader) is not there"),
        ("no first line", "Exec format error; a script must begin with a #! line"),
    ],
)
def test_what_only_exec_can_tell_is_told_by_it(
    launcher: CgroupfsLauncher, site: Site, tmp_path: Path, first_line: str, says: str
) -> None:
    script = tmp_path / "script"
    script.write_text(f"{first_line}\n")
    script.chmod(0o755)
    with pytest.raises(CreationFailedError) as caught:
        launcher.start(WorkerSpec("llm", "8080", (str(script),)))
    assert str(caught.value) == f"cannot start llm/8080: {script}: {says}"
    assert not os.path.exists(launcher.directory)
    assert not os.path.exists(f"{site.log_dir}/llm/8080.log")


def test_a_bad_working_directory_is_one_line(launcher: CgroupfsLauncher) -> None:
    with pytest.raises(InputError, match="llm/8080: working directory /no/where: No such file"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, directory="/no/where"))
    with pytest.raises(InputError, match="llm/8080: working directory /etc/passwd: Not a dir"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, directory="/etc/passwd"))
    assert not os.path.exists(launcher.directory)


def test_a_working_directory_closed_to_the_user_is_one_line(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(
        CreationFailedError, match=f"llm/8080: working directory {closed}: Permission denied"
    ):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, user="nobody", directory=str(closed)))
    assert not os.path.exists(launcher.directory)


def test_a_log_that_cannot_be_written_is_one_line(launcher: CgroupfsLauncher, site: Site) -> None:
    Path(site.log_dir).write_text("in the way")
    with pytest.raises(CreationFailedError, match=f"cannot start llm/8080: log {site.log_dir}/"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP))
    assert not os.path.exists(launcher.directory)


def test_a_log_is_no_link_to_elsewhere(
    launcher: CgroupfsLauncher, site: Site, tmp_path: Path
) -> None:
    """The first start makes the directory, then somebody puts links into the way of the next."""
    target = tmp_path / "target"
    target.write_text("precious\n")
    os.makedirs(f"{site.log_dir}/llm")
    os.symlink(target, f"{site.log_dir}/llm/8080.log")
    launcher.start(WorkerSpec("llm", "8080", ("sh", "-c", "echo overwritten")))
    assert output(launcher, "llm", "8080") == "overwritten\n"
    assert target.read_text() == "precious\n"


def test_a_failed_start_keeps_the_output_of_the_run_before(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    launcher.start(WorkerSpec("llm", "8080", ("echo", "before")))
    assert output(launcher, "llm", "8080") == "before\n"
    with pytest.raises(CreationFailedError):
        launcher.start(WorkerSpec("llm", "8080", (str(script),)))
    stream = launcher.logs("llm", "8080", 10, follow=False)
    assert stream.read() == b"before\n"
    stream.close()


def test_nothing_of_the_callers_state_reaches_the_worker(
    launcher: CgroupfsLauncher, site: Site
) -> None:
    """The worker is started by a process that ignores, blocks and has raised what can be."""
    code = """
    import resource, signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0o077)
    os.environ["SECRET"] = "x"
    open("/proc/self/oom_score_adj", "w").write("300")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000"), env={"GIVEN": "$x"}))
    """
    assert in_a_process(site, code).wait(60) == 0
    [pid] = pids(launcher, "llm/8080")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["SigIgn"], 16) & ~OF_LIBC == 0
    assert int(status["SigBlk"], 16) == 0
    assert status["Umask"] == "0022"
    limits = Path(f"/proc/{pid}/limits").read_text()
    soft = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft.split()[3] == "1024"
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
    environ = environ_of(pid)
    assert environ["GIVEN"] == "$x"
    assert set(environ) == {"GIVEN", "PATH", "HOME", "USER", "LOGNAME", "SHELL"}
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_what_was_asked_for_reaches_the_worker(launcher: CgroupfsLauncher, open_path: Path) -> None:
    work = open_path / "work"
    work.mkdir(mode=0o755)
    program = work / "tool"
    program.write_text("#!/bin/sh\necho $$ $HOME; echo again >> /dev/stdout; exec sleep 1000\n")
    program.chmod(0o755)
    spec = WorkerSpec(
        "llm",
        "8080",
        ("./tool",),
        user="nobody",
        directory=str(work),
        oom_score_adjust=300,
        env={"HOME": "/elsewhere"},
    )
    pid = launcher.start(spec).pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
    assert f"Gid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
    assert f"Groups:\t{NOBODY} \n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert os.readlink(f"/proc/{pid}/cwd") == str(work)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"
    stream = launcher.logs("llm", "8080", 10, follow=True)
    said = b""
    while b"again" not in said:
        said += stream.read()
    stream.close()
    assert said == f"{pid} /elsewhere\nagain\n".encode()


def test_a_uid_without_an_account_gets_no_group_of_roots(launcher: CgroupfsLauncher) -> None:
    status = launcher.start(WorkerSpec("llm", "8080", SLEEP, user="54321"))
    said = Path(f"/proc/{status.pid}/status").read_text()
    assert "Uid:\t54321\t54321\t54321\t54321\n" in said
    assert "Gid:\t54321\t54321\t54321\t54321\n" in said
    assert "Groups:\t \n" in said


def test_a_delegated_worker_makes_cgroups_of_its_own(
    launcher: CgroupfsLauncher, site: Site, fifo: Fifo
) -> None:
    code = f"""if True:
        import os, time
        out = os.open(0, os.O_RDONLY) if False else None
        place = {site.mount!r} + [l[3:-1] for l in open("/proc/self/cgroup") if l[:3] == "0::"][0]
        try:
            os.mkdir(place + "/mine")
            with open(place + "/mine/cgroup.procs", "w") as procs:
                procs.write("0")
            print("made", flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
        time.sleep(1000)
    """
    argv = (*SYSTEM_PYTHON, code)
    said = {}
    for instance, delegate in (("1", True), ("2", False)):
        launcher.start(WorkerSpec("d", instance, argv, user="nobody", delegate=delegate))
        stream = launcher.logs("d", instance, 10, follow=True)
        said[instance] = stream.read()
        stream.close()
    assert said == {"1": b"made\n", "2": b"Permission denied\n"}
    directory = Path(launcher.directory, "d/1")
    assert directory.stat().st_uid == NOBODY
    others = {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
    owned = {f.name for f in directory.iterdir() if f.is_file() and f.stat().st_uid == NOBODY}
    assert owned == others
    launcher.stop("d", "1")
    assert not directory.exists()


def test_a_delegated_worker_cannot_get_out_of_our_hands(
    launcher: CgroupfsLauncher, site: Site
) -> None:
    """Neither by the attributes that are its own to write, nor by cgroups without end."""
    code = f"""if True:
        import os, time
        place = {site.mount!r} + [l[3:-1] for l in open("/proc/self/cgroup") if l[:3] == "0::"][0]
        os.setxattr(place, "user.worker.declaration", b'{{"image": "x", "limits": {{"cpu": 1}}}}')
        os.setxattr(place, "user.worker.main-process", b"1 0")
        os.setxattr(place, "user.worker.started", b"inf")
        os.removexattr(place, "user.worker.started")
        os.chdir(place)
        try:
            for _ in range(1500):
                os.mkdir("a")
                os.chdir("a")
        except OSError as error:
            print(error.strerror, flush=True)
        else:
            print("without end", flush=True)
        time.sleep(1000)
    """
    spec = WorkerSpec("d", "1", (*SYSTEM_PYTHON, code), user="nobody", delegate=True)
    before = launcher.start(spec)
    stream = launcher.logs("d", "1", 10, follow=True)
    assert stream.read() == b"Resource temporarily unavailable\n"  # EAGAIN: cgroup.max.depth
    stream.close()
    assert launcher.list() == [before]
    assert (before.declaration, before.pid is None) == (encode(spec), False)
    with pytest.raises(AlreadyRunningError):
        launcher.start(spec)
    Combined(launcher, None).stop("d", "1", 0)
    assert not os.path.exists(f"{launcher.directory}/d/1")


def test_secrets_are_the_workers_alone(
    launcher: CgroupfsLauncher, site: Site, open_path: Path
) -> None:
    token, variables = open_path / "token", open_path / "env"
    token.write_bytes(b"hunter2\0\n")
    token.chmod(0o600)
    variables.write_text("# comment\n\nAPI_KEY=s3cret = $x\nEMPTY=\n")
    variables.chmod(0o640)
    spec = WorkerSpec(
        "llm",
        "8080",
        ("sh", "-c", 'cat "$CREDENTIALS_DIRECTORY/token"; echo "$API_KEY"; exec sleep 1000'),
        user="nobody",
        secrets={"token": str(token)},
        secret_env=str(variables),
    )
    status = launcher.start(spec)
    directory = Path(site.run_dir, "secrets/llm@8080")
    assert status.pid is not None
    environ = environ_of(status.pid)
    assert environ["CREDENTIALS_DIRECTORY"] == str(directory)
    assert (environ["API_KEY"], environ["EMPTY"]) == ("s3cret = $x", "")
    mode, owner = directory.stat().st_mode, directory.stat().st_uid
    assert (stat.S_IMODE(mode), owner) == (0o750, 0)
    file = directory / "token"
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_uid) == (0o400, NOBODY)
    assert not stat.S_IMODE(os.stat(site.run_dir).st_mode) & 0o066
    stream = launcher.logs("llm", "8080", 10, follow=True)
    said = b""
    while said.count(b"\n") < 2:
        said += stream.read()
    stream.close()
    assert said == b"hunter2\0\ns3cret = $x\n"
    assert "hunter2" not in str(status) and "s3cret" not in str(status)
    assert b"s3cret" not in Path(f"/proc/{status.pid}/cmdline").read_bytes()
    lines = "\n".join(launcher.commands(spec))
    assert "hunter2" not in lines and "s3cret" not in lines

    launcher.stop("llm", "8080")
    assert not directory.exists()


def test_secrets_go_when_the_start_fails_and_before_the_next(
    launcher: CgroupfsLauncher, site: Site, tmp_path: Path
) -> None:
    token, script = tmp_path / "token", tmp_path / "script"
    token.write_text("hunter2")
    token.chmod(0o600)
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    directory = Path(site.run_dir, "secrets/llm@8080")
    with pytest.raises(CreationFailedError):
        launcher.start(WorkerSpec("llm", "8080", (str(script),), secrets={"t": str(token)}))
    assert not directory.exists()
    launcher.start(WorkerSpec("llm", "8080", ("true",), secrets={"old": str(token)}))
    wait_until_empty(f"{launcher.directory}/llm/8080")
    launcher.start(WorkerSpec("llm", "8080", SLEEP, secrets={"new": str(token)}))
    assert os.listdir(directory) == ["new"]


def test_secrets_that_others_can_read_are_refused(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    token.chmod(0o644)
    with pytest.raises(RefusedError, match=f"{token} can be read by everybody: chmod o-rwx"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, secrets={"token": str(token)}))
    with pytest.raises(RefusedError, match="can be read by everybody"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, secret_env=str(token)))
    assert not os.path.exists(launcher.directory)


def test_output_goes_to_a_file_of_each_run(launcher: CgroupfsLauncher, site: Site) -> None:
    for run in ("one", "two", "three"):
        launcher.start(WorkerSpec("job", "1", ("sh", "-c", f"echo {run}; echo err >&2")))
        assert output(launcher, "job", "1") == f"{run}\nerr\n"
    log = Path(site.log_dir, "job/1.log")
    assert log.read_text() == "three\nerr\n"
    assert Path(f"{log}.1").read_text() == "two\nerr\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert sorted(os.listdir(log.parent)) == ["1.log", "1.log.1"]


def test_following_goes_on_with_the_next_run(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("job", "1", ("echo", "one")))
    wait_until_empty(f"{launcher.directory}/job/1")
    stream = launcher.logs("job", "1", 10, follow=True)
    assert isinstance(stream, FileLog)
    assert stream.read() == b"one\n"
    launcher.start(WorkerSpec("job", "1", ("echo", "two")))
    assert stream.read() == b"two\n"
    stream.close()
    assert stream.read() == b""


def test_the_shell_lines_do_the_same(
    launcher: CgroupfsLauncher, site: Site, open_path: Path
) -> None:
    require("setfattr")
    token, variables = open_path / "token", open_path / "env"
    token.write_text("hunter2")
    variables.write_text("#no\nKEY=a b\n")
    token.chmod(0o600)
    variables.chmod(0o600)
    code = "import time; time.sleep(1000)"
    spec = WorkerSpec(
        "llm",
        "8080",
        ("/usr/bin/python3", "-c", code, "'", '"', "$HOME", "\\n"),
        env={"QUOTED": 'it\'s "$x"\\'},
        metadata={"model": "0x\"\\ $(id) '", "port": "8080"},
        user="nobody",
        directory="/tmp",
        secrets={"token": str(token)},
        secret_env=str(variables),
        oom_score_adjust=100,
    )
    lines = launcher.commands(spec)
    assert not os.path.exists(launcher.directory)
    subprocess.run(["sh", "-ec", "\n".join(lines)], check=True, timeout=60)
    by_hand = launcher.status("llm", "8080")
    assert by_hand.pid is not None
    environ = environ_of(by_hand.pid)
    facts = Path(f"/proc/{by_hand.pid}/cmdline").read_bytes()
    launcher.stop("llm", "8080")

    status = launcher.start(spec)
    assert status.pid is not None
    assert environ == environ_of(status.pid)
    assert environ["KEY"] == "a b"
    assert facts == Path(f"/proc/{status.pid}/cmdline").read_bytes()
    for name in ("state", "cgroup", "metadata", "declaration", "unapplied"):
        assert getattr(by_hand, name) == getattr(status, name)
