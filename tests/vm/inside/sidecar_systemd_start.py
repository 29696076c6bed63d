"""Checks on what a start does, and what a worker is given."""

import os
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    SidecarError,
)
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import Restart, State, Status, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.systemd import unavailable

from .sidecar_systemd_scene import (
    DUMPS,
    LAUNCHER,
    MIB,
    TOP,
    crash,
    dumped,
    dumper,
    is_gone,
    raised,
    remove,
    running,
    show,
    spec,
    unit_of,
)
from .workers import USER, wait_for

NASTY = (
    "$HOME ${HOME} $$ $1",
    "a; b ;",
    ";",
    "",
    "%h %% %n =24",
    "'single' \"double\" `back` \\ \\x41 \\n",
    "tab\tnewline\nreturn\rbell\x07",
    "é ☃ | & < > ( ) [ ] { } * ? # ! ~ @ - +",
    os.fsdecode(b"not \xff\xfe UTF-8"),
)
VALUE = 'a $b; %h =3D "q" \\ é'


def worker_starts() -> None:
    """Its state, by systemd's own client; the list and the single status are the same."""
    assert unavailable() is None, unavailable()
    worker = spec("start", "rest", metadata={"model": "m", "port": "8080"})
    with running(worker) as started:
        assert started.state is State.RUNNING
        assert started.unit == unit_of(worker)
        assert started.cgroup == f"worker.slice/worker-t.slice/{unit_of(worker)}"
        assert str(started.pid) == show(unit_of(worker), "MainPID")
        assert (started.restarts, started.result, started.unapplied) == (0, None, ())
        assert started.declaration == encode(worker)
        assert started.metadata["model"] == "m"
        assert abs(float(started.metadata["started"]) - (started.started or 0)) < 60
        assert list(LAUNCHER.list()) == [started]
        assert LAUNCHER.status("t", "start") == started
        for name in ("CPU", "Memory", "IO", "Tasks"):
            assert show("worker-t.slice", f"{name}Accounting") == "yes"
        assert Path(f"/proc/{started.pid}/oom_score_adj").read_text().strip() == "0"
    assert is_gone(worker)


def second_start_is_refused() -> None:
    """Also while ten try at once: one starts, nine are told."""
    worker = spec("once", "rest")
    with running(worker) as first:
        raised(AlreadyRunningError, lambda: LAUNCHER.start(worker))
        assert LAUNCHER.status("t", "once").pid == first.pid
    found: list[Status | SidecarError] = []

    def start() -> None:
        try:
            found.append(LAUNCHER.start(worker))
        except SidecarError as error:
            found.append(error)

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [each for each in found if isinstance(each, AlreadyRunningError)]
    started = [each for each in found if isinstance(each, Status)]
    remove(worker)
    assert (len(started), len(refused)) == (1, 9), found


def words_arrive_as_written() -> None:
    """Arguments, variables and metadata, at the start, and after a reload and a restart."""
    worker = dumper(
        "words",
        *NASTY,
        env={"ODD": VALUE, "RAW": "\x07$\n", "LD_NOTHING": "1"},
        metadata={"model": VALUE},
        restart=Restart.ALWAYS,
        directory=str(_odd_directory()),
    )
    with running(worker) as started:
        _check_dump(worker)
        assert started.declaration == encode(worker)
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        crash(worker)
        _check_dump(worker)
        again = LAUNCHER.status("t", "words")
        assert again.declaration == encode(worker)
        assert again.metadata["started"] != started.metadata["started"]


def shell_words_arrive_as_written() -> None:
    """What most commands have and systemd changes at a reload: $ and ;, and nothing else odd."""
    script = 'for i in 1 2; do A=$i; done; echo "$A"'
    worker = dumper("shell", script, restart=Restart.ALWAYS)
    with running(worker):
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        crash(worker)
        assert dumped("shell")["arguments"] == _hex((script,))


def metadata_of_another_users_worker() -> None:
    """Root's helper writes it, at every restart, also after a reload, and none of the worker's
    libraries come near it.
    """
    fields = {"env": {"LD_PRELOAD": "/home/evil.so"}, "metadata": {"model": "m"}}
    worker = dumper("alices", user=USER, restart=Restart.ALWAYS, **fields)
    with running(worker):
        assert "LD_PRELOAD" not in show(unit_of(worker), "Environment")
        for _ in range(2):
            found = dumped("alices")
            assert found["uid"] == 1000
            assert found["environment"]["LD_PRELOAD"] == "/home/evil.so"
            assert found["attributes"]["user.worker.model"] == "m"
            assert found["attributes"]["user.worker.declaration"] == encode(worker)
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            crash(worker)


def delegated_worker_cannot_lie_about_its_start() -> None:
    """Its cgroup is its user's, who may write there; the declaration is the unit's."""
    worker = spec("delegated", "rest", user=USER, delegate=True)
    with running(worker) as started:
        folder = TOP.parent / str(started.cgroup)
        assert folder.stat().st_uid == 1000
        lie = f"import os; os.setxattr({str(folder)!r}, 'user.worker.declaration', b'{{}}')"
        subprocess.run(["runuser", "-u", USER, "--", "python3", "-c", lie], check=True)
        assert os.getxattr(folder, "user.worker.declaration") == b"{}"
        assert LAUNCHER.status("t", "delegated").declaration == encode(worker)


def pasted_lines_start_the_same() -> None:
    """What the dry run prints, in a shell."""
    limits = Limits(cpu=0.5, memory=64 * MIB, tasks=10)
    worker = dumper("pasted", *NASTY, metadata={"model": VALUE}, limits=limits)
    worker = replace(worker, service_limits=Limits(tasks=100), host_limits=Limits(tasks=1000))
    script = "\n".join(LAUNCHER.commands(worker))
    assert script.count("set-property") == 2, script
    try:
        subprocess.run(["sh", "-eu"], input=script, text=True, check=True, cwd="/")
        found = LAUNCHER.status("t", "pasted")
        assert (found.state, found.unapplied) == (State.RUNNING, ())
        assert found.declaration == encode(worker)
        assert _hex(NASTY) == dumped("pasted")["arguments"]
        assert (TOP / "pids.max").read_text() == "1000\n"
        assert (TOP / "worker-t.slice" / "pids.max").read_text() == "100\n"
        assert len(LAUNCHER.commands(worker)) == 1, "what is set is not set again"
    finally:
        remove(worker)


def worker_that_ends_at_once() -> None:
    """Well: a success, with nothing left. Badly: it says so, and the next start works."""
    done = LAUNCHER.start(WorkerSpec("t", "brief", ("true",)))
    assert done.state in (State.ENDED, State.RUNNING), done
    wait_for(lambda: is_gone(WorkerSpec("t", "brief", ("true",))), "the end of true")
    LAUNCHER.start(WorkerSpec("t", "brief", ("sh", "-c", "exit 7")))
    wait_for(lambda: _state("brief") is State.FAILED, "the failure")
    failed = LAUNCHER.status("t", "brief")
    assert (failed.result, failed.exit_status) == ("exit-code", 7)
    with running(spec("brief", "rest")) as again:
        assert again.state is State.RUNNING


def bad_starts_leave_nothing() -> None:
    """One line each, and no unit."""
    bad = Path("/var/tmp/bad-interpreter")
    bad.write_text("#!/nowhere\n")
    bad.chmod(0o755)
    for change, kind, words in (
        ({"argv": ("nowhere-to-be-found",)}, InputError, "no program"),
        ({"argv": (str(bad),)}, CreationFailedError, "cannot be executed"),
        ({"argv": (str(bad),), "restart": Restart.ALWAYS}, CreationFailedError, "executed"),
        ({"directory": "/nowhere"}, InputError, "No such file"),
        ({"directory": "/root", "user": USER}, CreationFailedError, "working directory"),
        ({"user": "nobody-of-this-name"}, InputError, "no user"),
        ({"limits": Limits(memory=4096)}, CreationFailedError, "too small"),
    ):
        worker = replace(WorkerSpec("t", "bad", ("sleep", "9")), **change)
        error = raised(kind, partial(LAUNCHER.start, worker))
        assert words in str(error), f"{change}: {error}"
        assert is_gone(worker), change


def secrets_are_secret() -> None:
    """They reach the program; nobody else sees them, by systemd, in /run or in /proc."""
    token, env = Path("/etc/token"), Path("/etc/token.env")
    for path, text in ((token, "hush-credential"), (env, "API_KEY=hush-variable\n")):
        path.write_text(text)
        path.chmod(0o600)
    worker = dumper("secret", user=USER, secrets={"token": str(token)}, secret_env=str(env))
    with running(worker):
        found = dumped("secret")
        assert found["secret"] == "hush-credential"
        assert found["environment"]["API_KEY"] == "hush-variable"
        nobody = ["runuser", "-u", "nobody", "--"]
        seen = subprocess.check_output([*nobody, "systemctl", "show", "--all", unit_of(worker)])
        look = "cat /proc/*/cmdline /proc/*/environ /run/systemd/transient/* 2>/dev/null"
        find = "grep -rls hush- /run/systemd /run/credentials /sys/fs/cgroup 2>/dev/null"
        seen += subprocess.run([*nobody, "sh", "-c", f"{look}; {find}"], capture_output=True).stdout
        seen += subprocess.check_output(["systemctl", "cat", unit_of(worker)])
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                seen += path.read_bytes()
    assert b"hush-" not in seen.replace(b"grep -rls hush-", b""), "a secret can be seen"


def _check_dump(worker: WorkerSpec) -> None:
    found = dumped(worker.instance)
    assert found["arguments"] == _hex(NASTY), found["arguments"]
    assert found["environment"]["ODD"] == VALUE
    assert found["environment"]["RAW"] == "\x07$\n"
    assert found["environment"]["LD_NOTHING"] == "1"
    assert found["attributes"]["user.worker.model"] == VALUE
    assert found["attributes"]["user.worker.declaration"] == encode(worker)
    assert found["directory"] == worker.directory


def _odd_directory() -> Path:
    path = DUMPS / "an odd; $HOME %h 'directory'"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _hex(words: tuple[str, ...]) -> list[str]:
    return [os.fsencode(word).hex() for word in words]


def _state(instance: str) -> State | None:
    return next((each.state for each in LAUNCHER.list() if each.instance == instance), None)
