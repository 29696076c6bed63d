"""The cgroupfs launcher on this host's real cgroup2."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.real.launch_support import (
    NOBODY,
    PYTHON,
    SLEEP,
    Fifo,
    environ_of,
    pids,
    real_mount,
    remove_by_hand,
    runs,
    stuck_in_the_kernel,
    wait_until_empty,
)

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    KillFailedError,
    NotFoundError,
    RefusedError,
)
from worker_sidecar.launch import applied, cgroup, shim
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher, unavailable
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import Launcher, Restart, State, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.site import Site

SLICE = f"launchtest{os.getpid()}.slice"


def test_it_is_a_launcher(launcher: CgroupfsLauncher) -> None:
    protocol: Launcher = launcher
    assert protocol.name == "cgroupfs"
    assert launcher.list() == []
    assert not os.path.exists(launcher.directory)


def test_a_started_worker_is_its_command_in_its_own_cgroup(launcher: CgroupfsLauncher) -> None:
    arguments = ("1000", "-n", "$HOME ${PATH} %i", "\n", "ü", "--", "--output=x")
    code = "import time; time.sleep(1000)"
    spec = WorkerSpec("llm", "8080", (*PYTHON, code, *arguments), env={"GIVEN": "a=b $x\n"})
    status = launcher.start(spec)

    [pid] = pids(launcher, "llm/8080")
    assert (status.service, status.instance, status.launcher) == ("llm", "8080", "cgroupfs")
    assert (status.state, status.pid, status.alive) == (State.RUNNING, pid, True)
    assert status.cgroup == f"{SLICE}/llm/8080"
    assert status.declaration == encode(spec)
    cmdline = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    assert cmdline == [*PYTHON, code, *arguments]
    assert f"0::/{SLICE}/llm/8080\n" in Path(f"/proc/{pid}/cgroup").read_text()
    assert environ_of(pid)["GIVEN"] == "a=b $x\n"
    assert launcher.list() == [status]
    assert launcher.status("llm", "8080") == status

    ended = launcher.stop("llm", "8080")
    assert (ended.service, ended.instance, ended.forced) == ("llm", "8080", False)
    assert not runs(pid)
    assert not os.path.exists(f"{launcher.directory}/llm/8080")
    assert os.path.exists(f"{launcher.directory}/llm")
    assert launcher.list() == []


def test_metadata_is_there_before_the_first_instruction(
    launcher: CgroupfsLauncher, site: Site, fifo: Fifo
) -> None:
    code = f"""if True:
        import json, os
        cgroup = [l[3:-1] for l in open("/proc/self/cgroup") if l.startswith("0::")][0]
        place = {site.mount!r} + cgroup
        said = {{n: os.getxattr(place, n).decode() for n in os.listxattr(place)}}
        with open({fifo.path!r}, "w") as out:
            out.write(json.dumps(said | {{"pid": str(os.getpid())}}))
    """
    before = time.time()
    spec = WorkerSpec("llm", "8080", (*PYTHON, code), metadata={"model": "ä 7b", "port": "8080"})
    status = launcher.start(spec)
    said = json.loads(fifo.line())
    started = float(said["user.worker.started"])
    assert before - 0.001 <= started <= time.time()
    assert status.started == started
    assert said["user.worker.model"] == "ä 7b"
    assert said["user.worker.port"] == "8080"
    assert said["user.worker.declaration"] == encode(spec)
    assert said["user.worker.main-process"].split()[0] == said["pid"]
    assert status.metadata == {"model": "ä 7b", "port": "8080"}


def test_the_main_process_is_told_from_its_children(launcher: CgroupfsLauncher, fifo: Fifo) -> None:
    code = f"""if True:
        import os, time
        if os.fork() == 0:
            open({fifo.path!r}, "w").write("ready")
            time.sleep(1000)
        os.read(os.open({fifo.path + ".end"!r}, os.O_RDONLY), 1)
    """
    os.mkfifo(fifo.path + ".end")
    status = launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    fifo.line()
    assert status.pid is not None
    assert launcher.status("llm", "8080").pid == status.pid
    descriptor = os.pidfd_open(status.pid)
    Path(fifo.path + ".end").write_text("x")
    while len(pids(launcher, "llm/8080")) == 2:
        os.sched_yield()
    os.close(descriptor)
    after = launcher.status("llm", "8080")
    assert (after.state, after.pid) == (State.RUNNING, None)


def test_another_process_of_that_pid_is_not_the_main_one(launcher: CgroupfsLauncher) -> None:
    """PIDs come again; the time of the start does not."""
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    noted = f"{os.getpid()} 1".encode()
    for name in (shim.MAIN_PROCESS, shim.TRUSTED_MAIN_PROCESS):
        os.setxattr(f"{launcher.directory}/llm/8080", name, noted)
    assert launcher.status("llm", "8080").pid is None


def test_a_failed_start_leaves_the_other_workers_alone(
    launcher: CgroupfsLauncher, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    with pytest.raises(CreationFailedError):
        launcher.start(WorkerSpec("llm", "8081", (str(script),)))
    assert [worker.instance for worker in launcher.list()] == ["8080"]


def test_what_this_launcher_cannot_do_is_refused(launcher: CgroupfsLauncher) -> None:
    with pytest.raises(RefusedError, match=r"restart: always.*nothing supervises.*systemd"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, restart=Restart.ALWAYS))
    with pytest.raises(RefusedError, match="has an image"):
        launcher.start(WorkerSpec("llm", "8080", (), image="debian"))
    with pytest.raises(InputError, match="there is no user 'no_such_user'"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, user="no_such_user"))
    limits = Limits(io=(IoLimit("/no/such/disk", read_bandwidth=1000),))
    with pytest.raises(InputError, match="/no/such/disk: No such file"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, limits=limits))
    too_long = {"LONG": "x" * 100_000}
    with pytest.raises(InputError, match="more than the kernel keeps on a cgroup"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP, env=too_long))
    assert not os.path.exists(launcher.directory)


def test_a_running_worker_is_not_started_twice(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    before = pids(launcher, "llm/8080")
    with pytest.raises(AlreadyRunningError, match="llm/8080 is already running"):
        launcher.start(WorkerSpec("llm", "8080", SLEEP))
    assert pids(launcher, "llm/8080") == before


def test_an_ended_worker_stays_visible_until_the_next_start(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("job", "1", ("true",)))
    directory = f"{launcher.directory}/job/1"
    wait_until_empty(directory)
    [worker] = launcher.list()
    assert (worker.state, worker.pid, worker.alive) == (State.ENDED, None, False)
    assert worker.started is not None
    inode = os.stat(directory).st_ino

    launcher.start(WorkerSpec("job", "1", SLEEP))
    assert os.stat(directory).st_ino != inode
    assert launcher.list()[0].alive


def test_an_ended_worker_goes_with_a_stop(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("job", "1", ("true",)))
    wait_until_empty(f"{launcher.directory}/job/1")
    assert launcher.stop("job", "1").forced is False
    assert launcher.list() == []


def test_what_is_not_there_is_not_found(launcher: CgroupfsLauncher) -> None:
    for action in (launcher.stop, launcher.kill, launcher.status):
        with pytest.raises(NotFoundError, match="no worker llm/8080"):
            action("llm", "8080")
    with pytest.raises(NotFoundError, match="no worker llm/8080"):
        launcher.logs("llm", "8080", 10, follow=False)
    for name in ("..", "cgroup.procs", "a/b", "a\n"):
        with pytest.raises(InputError):
            launcher.stop("llm", name)


def test_stop_is_polite_first(launcher: CgroupfsLauncher, fifo: Fifo) -> None:
    code = f"""if True:
        import os, signal, time
        out = os.open({fifo.path!r}, os.O_WRONLY)
        def end(number, frame):
            os.write(out, b"asked to end")
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
        os.write(out, b"ready")
        while True:
            time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    assert fifo.line() == "ready"
    assert launcher.stop("llm", "8080", grace=20).forced is False
    assert fifo.line() == "asked to end"


def test_double_forked_and_deaf_processes_are_ended_too(
    launcher: CgroupfsLauncher, fifo: Fifo
) -> None:
    code = f"""if True:
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                break
            os.wait()
        out = os.open({fifo.path!r}, os.O_WRONLY)
        os.write(out, b"ready ")
        while True:
            time.sleep(1000)
    """
    launcher.start(WorkerSpec("llm", "8080", (*PYTHON, code)))
    fifo.times("ready", 4)
    found = pids(launcher, "llm/8080")
    assert len(found) == 4
    assert launcher.stop("llm", "8080", grace=0.1).forced is True
    assert not any(runs(pid) for pid in found)
    assert not os.path.exists(f"{launcher.directory}/llm/8080")


def test_cgroups_a_worker_made_below_its_own_go_with_it(launcher: CgroupfsLauncher) -> None:
    launcher.start(WorkerSpec("llm", "8080", SLEEP))
    nested = f"{launcher.directory}/llm/8080/a/b"
    os.makedirs(nested)
    sleeper = subprocess.Popen(SLEEP)
    try:
        Path(nested, "cgroup.procs").write_text(str(sleeper.pid))
        launcher.stop("llm", "8080", grace=5)
        assert sleeper.wait(10) == -signal.SIGTERM
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not os.path.exists(f"{launcher.directory}/llm/8080")


def test_a_worker_that_cannot_be_killed_is_said_to_run(
    launcher: CgroupfsLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = launcher.start(WorkerSpec("llm", "8080", SLEEP)).pid
    assert pid is not None
    monkeypatch.setattr(cgroup, "KILL_PATIENCE", 0.2)
    with stuck_in_the_kernel(pid) as release:
        with pytest.raises(KillFailedError, match=f"zombie worker: {pid}"):
            launcher.stop("llm", "8080", 0.1)
        with pytest.raises(KillFailedError, match=f"zombie worker: {pid}"):
            launcher.kill("llm", "8080")
        assert launcher.status("llm", "8080").state is State.RUNNING
        with pytest.raises(KillFailedError):
            launcher.down(0.1)
        with pytest.raises(AlreadyRunningError):
            launcher.start(WorkerSpec("llm", "8080", SLEEP))
        release()
        wait_until_empty(f"{launcher.directory}/llm/8080")
    launcher.stop("llm", "8080")
    assert launcher.list() == []


def test_limits_the_host_cannot_set_are_named(launcher: CgroupfsLauncher) -> None:
    limits = Limits(cpu=0.5, memory=2**26, tasks=10)
    status = launcher.start(WorkerSpec("llm", "8080", SLEEP, limits=limits))
    files = {"cpu": "cpu.max", "memory": "memory.max", "tasks": "pids.max"}
    values = {"cpu": "50000 100000", "memory": "67108864", "tasks": "10"}
    for limit, file in files.items():
        path = Path(launcher.directory, "llm/8080", file)
        if path.exists():
            assert path.read_text().strip() == values[limit]
        assert (limit in status.unapplied) == (not path.exists())
    has_swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    accounted = Path(launcher.directory, "llm/8080/memory.swap.max").exists()
    assert ("swap" in status.unapplied) == (has_swap and not accounted)


def test_down_ends_all_and_removes_the_slice(launcher: CgroupfsLauncher, site: Site) -> None:
    for instance in ("8080", "8081"):
        launcher.start(WorkerSpec("llm", instance, SLEEP))
    launcher.start(WorkerSpec("idle", "1", SLEEP))
    launcher.start(WorkerSpec("ended", "1", ("true",)))
    wait_until_empty(f"{launcher.directory}/ended/1")
    everyone = [status.pid for status in launcher.list() if status.pid]
    ended = launcher.down()
    assert [(one.service, one.instance) for one in ended] == [
        ("ended", "1"),
        ("idle", "1"),
        ("llm", "8080"),
        ("llm", "8081"),
    ]
    assert len(everyone) == 3
    assert not any(runs(pid) for pid in everyone)
    assert not os.path.exists(launcher.directory)
    assert launcher.down() == []  # nothing left to do is no error


def test_down_has_one_grace_for_all(launcher: CgroupfsLauncher, fifo: Fifo) -> None:
    code = f"""if True:
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open({fifo.path!r}, "w") as out:
            out.write("ready")
        time.sleep(1000)
    """
    for instance in range(8):
        launcher.start(WorkerSpec("deaf", str(instance), (*PYTHON, code)))
    fifo.times("ready", 8)
    before = time.monotonic()
    assert all(one.forced for one in launcher.down(grace=1.0))
    assert time.monotonic() - before < 8


def test_down_leaves_containers_to_their_daemon(launcher: CgroupfsLauncher) -> None:
    directory = f"{launcher.directory}/web/1"
    launcher.start(WorkerSpec("web", "1", SLEEP))
    os.setxattr(directory, f"{cgroup.TRUSTED}declaration", b'{"image":"debian"}')
    assert launcher.down() == []
    assert cgroup.populated(directory)


def test_a_nested_slice_goes_with_the_slices_above_it(site: Site) -> None:
    stem = SLICE.removesuffix(".slice")
    nested = CgroupfsLauncher(Site(f"{stem}-a-b.slice", site.mount, site.run_dir, site.log_dir))
    top = f"{site.mount}/{SLICE}"
    assert nested.directory == f"{top}/{stem}-a.slice/{stem}-a-b.slice"
    try:
        status = nested.start(WorkerSpec("llm", "8080", SLEEP))
        assert status.cgroup == f"{SLICE}/{stem}-a.slice/{stem}-a-b.slice/llm/8080"
        nested.down()
        assert not os.path.exists(top)
    finally:
        remove_by_hand(top)


def test_limits_of_all_workers_are_written_above_them(
    launcher: CgroupfsLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which go to which directory, also no limits; None leaves what is there."""
    written: list[tuple[str, str, Limits | None]] = []

    def note(how: str) -> Callable[[str, Limits | None], tuple[str, ...]]:
        def noted(directory: str, limits: Limits | None) -> tuple[str, ...]:
            written.append((how, directory.removeprefix(launcher.directory), limits))
            return ()

        return noted

    monkeypatch.setattr(applied, "apply", note("apply"))
    monkeypatch.setattr(applied, "replace", note("replace"))
    host, service, own = Limits(memory=2**30), Limits(cpu=2.0), Limits(tasks=10)
    launcher.start(
        WorkerSpec("llm", "1", SLEEP, limits=own, service_limits=service, host_limits=host)
    )
    assert written == [
        ("replace", "", host),
        ("replace", "/llm", service),
        ("apply", "/llm/1", own),
    ]
    written.clear()
    launcher.start(WorkerSpec("llm", "2", SLEEP, host_limits=Limits()))
    assert written == [
        ("replace", "", Limits()),
        ("replace", "/llm", None),
        ("apply", "/llm/2", Limits()),
    ]


def test_the_shell_lines_lift_limits_above_a_worker(open_path: Path, site: Site) -> None:
    """As a start does, on copies of the kernel's files; with None they are left."""
    before = {"cpu.max": "50000 100000", "cpuset.cpus": "0", "pids.max": "70"}
    service = open_path / SLICE / "llm"
    service.mkdir(parents=True)
    for name, content in before.items():
        (service / name).write_text(f"{content}\n")
    launcher = CgroupfsLauncher(Site(SLICE, str(open_path), site.run_dir, site.log_dir))

    def after(limits: Limits | None) -> dict[str, str]:
        worker = WorkerSpec("llm", "1", SLEEP, service_limits=limits)
        lines = [line for line in launcher.commands(worker) if line.startswith("echo ")]
        assert not any("\n" in line for line in lines)
        subprocess.run(["sh", "-c", "\n".join(lines)], check=True)
        return {name: (service / name).read_text().strip() for name in before}

    assert after(None) == before
    assert after(Limits()) == {"cpu.max": "max 100000", "cpuset.cpus": "", "pids.max": "max"}
    assert after(Limits(tasks=7))["pids.max"] == "7"


def test_without_root_it_works_in_a_delegated_cgroup(site: Site, open_path: Path) -> None:
    """As the unit of a user with Delegate=yes: workers go below the sidecar's own cgroup."""
    base = f"{site.mount}/delegated{os.getpid()}"
    os.mkdir(base)
    try:
        for name in ("", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control"):
            os.chown(base + name, NOBODY, NOBODY)
        for directory in (site.run_dir, site.log_dir):
            os.mkdir(directory)
            os.chown(directory, NOBODY, NOBODY)
        source = open_path / "source"  # ours may lie where that user cannot read
        shutil.copytree(Path(shim.__file__).parents[2], source)
        done = subprocess.run(
            [
                *("sh", "-c", f'echo 0 > {base}/cgroup.procs && exec "$@"', "sh"),
                *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
                *("/usr/bin/python3", "-c", DELEGATED.format(site=site), str(source), base),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"]},
            cwd="/",
        )
        assert done.stderr == ""
        assert done.returncode == 0
        said = json.loads(done.stdout)
        assert said["unavailable"] is None
        assert said["directory"] == f"{base}/{SLICE}"
        assert said["cgroup"] == f"delegated{os.getpid()}/{SLICE}/llm/8080"
        assert said["in"] == [said["pid"]]
        assert said["from the leaf"] == f"{base}/{SLICE}"
        assert said["left"] == []
        assert said["other user"].startswith(f"uid {NOBODY} cannot start a worker as user root")
    finally:
        remove_by_hand(base)


DELEGATED = """
import json, os, sys
sys.path[:0] = [sys.argv[1]]
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher, unavailable
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site
site = {site!r}
launcher = CgroupfsLauncher(site)
status = launcher.start(WorkerSpec("llm", "8080", ("sleep", "1000")))
said = {{
    "unavailable": unavailable(site.mount, site.slice_name),
    "directory": launcher.directory,
    "cgroup": status.cgroup,
    "pid": status.pid,
    "in": [int(p) for p in open(site.mount + "/" + status.cgroup + "/cgroup.procs")],
}}
os.mkdir(sys.argv[2] + "/worker-sidecar")
with open(sys.argv[2] + "/worker-sidecar/cgroup.procs", "w") as procs:
    procs.write("0")
again = CgroupfsLauncher(site)
said["from the leaf"] = again.directory
try:
    again.start(WorkerSpec("llm", "1", ("sleep", "1000"), user="root"))
except Exception as error:
    said["other user"] = str(error)
again.stop("llm", "8080")
again.down()
said["left"] = [name for name in os.listdir(sys.argv[2]) if name.endswith(".slice")]
print(json.dumps(said))
"""


def test_a_host_where_no_cgroup_can_be_made_says_so(tmp_path: Path) -> None:
    assert unavailable(real_mount(), SLICE) is None
    reason = unavailable(str(tmp_path / "gone"), SLICE)
    assert reason is not None
    assert f"no cgroup for {SLICE} can be made in {tmp_path}/gone: No such file" in reason
    with pytest.raises(InputError, match="no cgroup2"):
        CgroupfsLauncher(Site(SLICE, None, str(tmp_path), str(tmp_path)))
