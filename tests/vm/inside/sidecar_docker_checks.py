"""Checks on the Docker launcher: against `docker inspect`, the kernel's files and systemctl."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    NotFoundError,
    RefusedError,
    SidecarError,
)
from worker_sidecar.launch import docker as docker_launcher
from worker_sidecar.launch.launcher import Ended, Restart, State, Status, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits

from .sidecar_docker_daemon import IMAGE, SOCKET, container_names, docker, inspect
from .sidecar_docker_scene import (
    CONTROL,
    MIB,
    RUN,
    SITE,
    Scene,
    attributes,
    exporter,
    failed_units,
    labels_of,
    llm,
    traces,
    worker,
)
from .workers import MOUNT, wait_for

SECRET = "correct horse battery staple"


def driver_is_detected(scene: Scene) -> None:
    """As the daemon was started."""
    assert docker_launcher.driver(SOCKET) == scene.driver
    assert docker_launcher.unavailable(SOCKET) is None
    assert scene.launcher.list() == []


def errors_leave_nothing(scene: Scene) -> None:
    """One line for each, and neither container nor cgroup nor drop-in nor secret of it."""
    secret = _secret_file()
    wrong: dict[type[SidecarError], tuple[tuple[dict[str, Any], str], ...]] = {
        InputError: (
            ({"image": "nobody/has:this"}, "docker pull nobody/has:this"),
            ({"limits": Limits(io=(IoLimit("/proc", read_iops=1),))}, "/proc"),
            ({"secrets": {"token": "/nowhere"}}, "/nowhere"),
            ({"secrets": {"token": secret}, "user": "worker"}, "give user as a number"),
        ),
        RefusedError: (({"secret_env": secret}, "docker inspect"),),
        CreationFailedError: (
            ({"user": "nosuch", "secrets": {}}, "nosuch"),
            ({"argv": ("/no/such",)}, "/no/such"),
            ({"limits": Limits(cpus="7")}, "7"),
            ({"limits": Limits(memory=1 * MIB), "secrets": {"token": secret}}, "memory"),
        ),
    }
    for kind, cases in wrong.items():
        for changes, said in cases:
            error = _failure(scene, llm("8090", **changes))
            assert type(error) is kind, (changes, error)
            assert said in str(error) and "\n" not in str(error), (changes, str(error))
            assert traces(scene, "llm", "8090") == [], changes
    assert container_names() == set()
    assert not failed_units(), failed_units()


def worker_starts(scene: Scene) -> None:
    """What start() says is what Docker and the kernel say."""
    status = scene.launcher.start(llm("8090"))
    said = inspect("worker-llm-8090")
    assert status.state is State.RUNNING
    assert status.container == said["Id"]
    assert status.pid == said["State"]["Pid"]
    assert status.cgroup == scene.cgroup("llm", "8090")
    assert status.unit == (None if scene.driver == "cgroupfs" else "worker-llm-8090.slice")
    assert status.unapplied == (), status.unapplied
    assert status.restarts == 0
    assert status.started is not None and abs(status.started - time.time()) < 600
    own = Path(f"/proc/{status.pid}/cgroup").read_text().strip()
    folder = scene.own_folder("llm", "8090", said["Id"])
    assert own == f"0::/{folder.relative_to(MOUNT)}", own
    assert Path(f"/proc/{status.pid}/oom_score_adj").read_text() == "100\n"
    environment = Path(f"/proc/{status.pid}/environ").read_bytes().split(b"\0")
    assert b"GREETING=hello $HOME 'quoted'" in environment
    assert os.readlink(f"/proc/{status.pid}/cwd") == "/etc"
    assert scene.launcher.list() == [scene.launcher.status("llm", "8090")]


def limits_are_on_both(scene: Scene) -> None:
    """All on the worker's cgroup, what Docker can on the container's too, the sums above."""
    device = os.stat("/dev/vda").st_rdev
    wanted = {
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "pids.max": "50",
        "io.max": f"{os.major(device)}:{os.minor(device)} "
        "rbps=max wbps=1000000 riops=500 wiops=max",
    }
    around = scene.folder("llm", "8090")
    own = scene.own_folder("llm", "8090", inspect("worker-llm-8090")["Id"])
    for name, value in {**wanted, "memory.high": str(48 * MIB), "cpu.weight": "50"}.items():
        assert _read(around / name) == value, (name, _read(around / name))
    for name, value in wanted.items():
        assert _read(own / name) == value, (name, _read(own / name))
    assert _read(around.parent / "memory.max") == str(512 * MIB)
    assert _read(around.parent.parent / "pids.max") == "1000"


def metadata_is_there(scene: Scene) -> None:
    """On the worker's cgroup, with the labels and the declaration on the container."""
    found = attributes(scene.folder("llm", "8090"))
    assert found["user.worker.model"] == "llama 3"
    assert found["user.worker.port"] == "8090"
    began = float(found["user.worker.started"])
    status = scene.launcher.status("llm", "8090")
    assert status.started is not None and 0 <= status.started - began < 60
    assert status.metadata["model"] == "llama 3"
    labels = inspect("worker-llm-8090")["Config"]["Labels"]
    declaration = labels.pop("worker.declaration")
    assert labels == {
        "worker.service": "llm",
        "worker.instance": "8090",
        "worker.slice": "worker.slice",
    }
    assert status.declaration == declaration
    assert json.loads(declaration)["limits"]["memory"] == 64 * MIB


def exporter_sees_it(scene: Scene) -> None:
    """By its names, with its metadata, and once."""
    samples = exporter(scene.driver)
    assert labels_of(samples, "worker_up") == [{"service": "llm", "instance": "8090"}]
    (info,) = labels_of(samples, "worker_info")
    assert (info["model"], info["port"]) == ("llama 3", "8090"), info
    assert info["cgroup"] == scene.cgroup("llm", "8090")
    assert f'worker_memory_limit_bytes{{service="llm",instance="8090"}} {64 * MIB}' in samples


def second_start_is_refused(scene: Scene) -> None:
    """The worker that runs is not touched."""
    before = inspect("worker-llm-8090")
    error = _failure(scene, llm("8090"))
    assert type(error) is AlreadyRunningError and "already running" in str(error)
    after = inspect("worker-llm-8090")
    assert (before["Id"], before["State"]) == (after["Id"], after["State"])


def output_is_read(scene: Scene) -> None:
    """Both streams; a reader that follows gets what comes later, and ends when it is closed."""
    stream = scene.launcher.logs("llm", "8090", 10, follow=False)
    assert sorted(_all(stream).splitlines()) == [b"err", b"out"]
    stream.close()
    script = "trap 'echo second' USR1; echo first; while :; do sleep 1000 & wait $!; done"
    talking = scene.launcher.start(worker("talk", "1", script))
    follower = scene.launcher.logs("talk", "1", 1, follow=True)
    assert follower.read() == b"first\n"
    assert talking.pid is not None
    os.kill(talking.pid, signal.SIGUSR1)
    assert follower.read() == b"second\n"
    ended: list[bytes] = []
    reader = threading.Thread(target=lambda: ended.append(follower.read()))
    reader.start()
    follower.close()
    reader.join(300)
    assert ended == [b""]
    scene.launcher.kill("talk", "1")
    error = _raised(lambda: scene.launcher.logs("talk", "1", 10, follow=False))
    assert type(error) is NotFoundError


def secrets_are_files(scene: Scene) -> None:
    """Only the worker's user reads them; they are in no place that Docker shows."""
    script = "id -u; cat /run/secrets/token; echo; sleep 1000"
    spec = worker("safe", "1", script, secrets={"token": _secret_file()}, user="1000")
    scene.launcher.start(spec)
    copy = RUN / "secrets/safe@1/token"
    said = _first_lines(scene, "safe", 2)
    assert said == f"1000\n{SECRET}\n".encode(), said
    assert SECRET not in docker("inspect", "worker-safe-1").stdout
    assert (copy.stat().st_mode & 0o777, copy.stat().st_uid) == (0o400, 1000)
    scene.launcher.stop("safe", "1", 0)
    assert traces(scene, "safe", "1") == []


def volumes_are_mounted(scene: Scene) -> None:
    """The host's file is in the container, ro takes no write; a path that is not there is none."""
    given, kept = Path('/srv/given, "in"'), Path("/srv/kept")
    for folder in (given, kept):
        folder.mkdir()
    (given / "note").write_text("from the host\n")
    script = "cat /in/note; touch /in/mine || echo refused; echo made > /out/made; echo done"
    spec = worker(
        "disk",
        "1",
        f"{script}; sleep 1000",
        volumes=(f"{given}:/in:ro", f"{kept}:/out"),
        shm_size=96 * MIB,
    )
    status = scene.launcher.start(spec)
    lines = _first_lines(scene, "disk", 4).splitlines()
    said = [line for line in lines if b"touch" not in line]
    assert said == [b"from the host", b"refused", b"done"], lines
    assert _read(kept / "made") == "made"
    assert [path.name for path in given.iterdir()] == ["note"]
    shm = os.statvfs(f"/proc/{status.pid}/root/dev/shm")
    assert shm.f_blocks * shm.f_frsize == 96 * MIB, shm
    scene.launcher.stop("disk", "1", 0)
    error = _failure(scene, worker("disk", "1", volumes=("/srv/nowhere:/in",)))
    assert type(error) is CreationFailedError and "/srv/nowhere" in str(error), error
    assert "\n" not in str(error)
    assert not Path("/srv/nowhere").exists()
    assert traces(scene, "disk", "1") == [] and container_names() == {"worker-llm-8090"}


def pasted_lines_do_the_same(scene: Scene) -> None:
    """commands(), run by a shell, makes the container that start() makes."""
    spec = llm(
        "8091",
        secrets={"token": _secret_file()},
        user="1000:1000",
        volumes=('/srv/given, "in":/in:ro', "/srv/kept:/out"),
        shm_size=96 * MIB,
    )
    script = "\n".join(("set -e", *scene.launcher.commands(spec)))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, (done.stderr, script)
    pasted, metadata = inspect("worker-llm-8091"), attributes(scene.folder("llm", "8091"))
    assert scene.launcher.status("llm", "8091").unapplied == ()
    scene.launcher.stop("llm", "8091", 5)
    scene.launcher.start(spec)
    started = inspect("worker-llm-8091")
    for part in ("HostConfig", "Config"):
        for name in (*started[part], *pasted[part]):
            ours, theirs = started[part].get(name), pasted[part].get(name)
            # what a client leaves out and what it gives as empty are one to the daemon
            assert (ours or None) == (theirs or None), (name, ours, theirs)
    again = attributes(scene.folder("llm", "8091"))
    for kept in (metadata, again):
        del kept["user.worker.started"]
    assert metadata == again
    scene.launcher.stop("llm", "8091", 5)


def lost_limits_are_seen(scene: Scene) -> None:
    """One of the two places is enough for a limit to hold; without both it is told."""
    status = scene.launcher.status("llm", "8090")
    around = scene.folder("llm", "8090")
    own = scene.own_folder("llm", "8090", str(status.container))
    (own / "memory.max").write_text("max")
    (own / "cpu.max").write_text("max")
    assert scene.launcher.status("llm", "8090").unapplied == ()
    (around / "memory.max").write_text("max")
    assert scene.launcher.status("llm", "8090").unapplied == ("memory",)
    (around / "cpu.max").write_text("max")
    (around / "memory.high").write_text("max")
    (around / "pids.max").write_text("max")
    (found,) = scene.launcher.list()
    assert found.unapplied == ("cpu", "memory", "memory_high"), found.unapplied


def metadata_outlives_a_restart(scene: Scene) -> None:
    """`docker restart` gives the container another cgroup, inside the same one."""
    before = attributes(scene.folder("llm", "8090"))
    old = scene.launcher.status("llm", "8090").pid
    docker("restart", "--time=5", "worker-llm-8090")
    status = scene.launcher.status("llm", "8090")
    assert status.pid != old and status.state is State.RUNNING
    assert attributes(scene.folder("llm", "8090")) == before


def crashed_worker_comes_back(scene: Scene) -> None:
    """By Docker's restart policy; the count and the output of the last run are told."""
    pid = scene.launcher.status("llm", "8090").pid
    assert pid is not None
    os.kill(pid, 9)
    wait_for(lambda: scene.launcher.status("llm", "8090").restarts == 1, "the restart")
    wait_for(lambda: scene.launcher.status("llm", "8090").state is State.RUNNING, "its run")
    wait_for(lambda: len(_output(scene)) == 2, "its output")
    assert sorted(_output(scene)) == [b"err", b"out"], "the output of the last run alone"
    assert scene.launcher.status("llm", "8090").metadata["model"] == "llama 3"


def stop_leaves_nothing(scene: Scene) -> None:
    """A worker that restarts always ends politely, and for good."""
    ended = scene.launcher.stop("llm", "8090", 10)
    assert ended == Ended("llm", "8090", forced=False, result="success", exit_status=0), ended
    assert traces(scene, "llm", "8090") == []
    assert container_names() == set()
    assert not failed_units(), failed_units()
    for name in ("8090", "never"):
        error = _raised(partial(scene.launcher.stop, "llm", name))
        assert type(error) is NotFoundError, error
    assert traces(scene, "llm", "never") == []


def kill_leaves_nothing(scene: Scene) -> None:
    """At once, and told as what it was; so does a stop of a worker that does not listen."""
    deaf = worker("deaf", "1", "trap '' TERM; while :; do sleep 1000; done", restart=Restart.ALWAYS)
    launcher = scene.launcher
    for end in (partial(launcher.kill, "deaf", "1"), partial(launcher.stop, "deaf", "1", 1)):
        scene.launcher.start(deaf)
        ended = end()
        assert ended == Ended("deaf", "1", forced=True, result="signal", exit_status=9), ended
        assert traces(scene, "deaf", "1") == []
    assert container_names() == set()


def stopped_by_hand_stays_stopped(scene: Scene) -> None:
    """Also when the daemon is started again, although the worker restarts always."""
    scene.launcher.start(llm("8092"))
    scene.launcher.start(llm("8093"))
    docker("stop", "--time=5", "worker-llm-8092")
    scene.daemon.restart()
    wait_for(lambda: scene.launcher.status("llm", "8093").state is State.RUNNING, "the other")
    status = scene.launcher.status("llm", "8092")
    assert (status.state, status.result) == (State.ENDED, "success"), status
    assert scene.launcher.status("llm", "8093").metadata["model"] == "llama 3"
    for name in ("8092", "8093"):
        scene.launcher.stop("llm", name, 5)
        assert traces(scene, "llm", name) == []


def ten_starts_at_once(scene: Scene) -> None:
    """One starts it, the others are told that it runs."""

    def start(_: int) -> Status | SidecarError:
        try:
            return scene.launcher.start(worker("crowd", "1"))
        except SidecarError as error:
            return error

    with ThreadPoolExecutor(10) as threads:
        outcomes = list(threads.map(start, range(10)))
    assert [type(outcome) for outcome in outcomes].count(Status) == 1, outcomes
    assert [type(outcome) for outcome in outcomes].count(AlreadyRunningError) == 9, outcomes
    assert container_names() == {"worker-crowd-1"}
    with ThreadPoolExecutor(3) as threads:
        ends = list(threads.map(lambda _: scene.launcher.stop("crowd", "1", 5), range(3)))
    assert {ended.instance for ended in ends} == {"1"}
    assert traces(scene, "crowd", "1") == []


def want_of_memory_is_told(scene: Scene) -> None:
    """The kernel's own count is believed where the daemon missed it."""
    hoard = "x=a; while :; do x=$x$x; done"
    scene.launcher.start(worker("hoard", "1", hoard, limits=Limits(memory=16 * MIB)))
    wait_for(lambda: not scene.launcher.status("hoard", "1").alive, "its end")
    status = scene.launcher.status("hoard", "1")
    assert (status.state, status.result, status.exit_status) == (State.FAILED, "oom-kill", 9)
    scene.launcher.start(worker("hoard", "1"))
    assert scene.launcher.status("hoard", "1").state is State.RUNNING
    scene.launcher.stop("hoard", "1", 5)
    assert not failed_units(), failed_units()


def failure_is_told(scene: Scene) -> None:
    """An exit code, and a success; both go when they are stopped."""
    scene.launcher.start(worker("fail", "1", "exit 3"))
    scene.launcher.start(worker("done", "1", "exit 0"))
    wait_for(lambda: not scene.launcher.status("fail", "1").alive, "the failure")
    wait_for(lambda: not scene.launcher.status("done", "1").alive, "the success")
    failed, done = scene.launcher.status("fail", "1"), scene.launcher.status("done", "1")
    assert (failed.state, failed.result, failed.exit_status) == (State.FAILED, "exit-code", 3)
    assert (done.state, done.result, done.exit_status) == (State.ENDED, "success", 0)
    ended = scene.launcher.stop("fail", "1")
    assert ended == Ended("fail", "1", forced=False, result="exit-code", exit_status=3), ended
    scene.launcher.stop("done", "1")
    assert traces(scene, "fail", "1") == traces(scene, "done", "1") == []


def killed_start_is_cleared(scene: Scene) -> None:
    """Killed before the container is made, and before it is started: the next start does it."""
    for moment in ("create", "start"):
        _die_in("start", moment)
        assert [status.alive for status in scene.launcher.list()] in ([], [False])
        status = scene.launcher.start(worker("half", "1"))
        assert status.state is State.RUNNING
        scene.launcher.stop("half", "1", 5)
        assert traces(scene, "half", "1") == []
    assert container_names() == set()


def killed_stop_is_finished(scene: Scene) -> None:
    """Killed before the container is removed, and after: a second stop does the rest."""
    for moment in ("remove", "after-remove"):
        scene.launcher.start(worker("half", "1"))
        _die_in("stop", moment)
        assert not any(status.alive for status in scene.launcher.list())
        scene.launcher.stop("half", "1", 5)
        assert traces(scene, "half", "1") == []
        error = _raised(lambda: scene.launcher.stop("half", "1"))
        assert type(error) is NotFoundError
    assert container_names() == set()


def parent_for_compose(scene: Scene) -> None:
    """The string that cgroup-parent prints makes somebody's own container a worker."""
    names = {}
    for instance in (None, "9000"):
        parent = docker_launcher.cgroup_parent(SITE, "own", instance, SOCKET)
        folder = scene.folder("own", instance)
        assert folder.is_dir()
        words = ("run", "--detach", "--network=host", f"--cgroup-parent={parent}", "--memory=32m")
        container = docker(*words, IMAGE, "sleep", "1000").stdout.strip()
        names[container] = instance or container[:12]
        own = container if scene.driver == "cgroupfs" else f"docker-{container}.scope"
        assert _read(folder / own / "memory.max") == str(32 * MIB)
    found = labels_of(exporter(scene.driver), "worker_up")
    wanted = [{"service": "own", "instance": name} for name in sorted(names.values())]
    assert sorted(found, key=lambda labels: labels["instance"]) == wanted, found
    error = _raised(lambda: scene.launcher.stop("own", "9000"))
    assert type(error) is RefusedError, error
    assert type(_failure(scene, worker("own", "9000"))) is RefusedError
    docker("rm", "--force", *names)


def down_leaves_nothing(scene: Scene) -> None:
    """Neither of workers, nor of slices, nor of what is left of earlier ones."""
    docker_launcher.cgroup_parent(SITE, "empty", "1", SOCKET)
    scene.launcher.start(llm("8094"))
    scene.launcher.start(worker("one", "1"))
    ended = scene.launcher.down(5)
    assert sorted(one.service for one in ended) == ["llm", "one"]
    assert container_names() == set()
    assert not (MOUNT / "worker.slice").exists()
    assert not (MOUNT / "worker").exists()
    assert not [path.name for path in CONTROL.glob("worker*")]
    assert not list((RUN / "docker").iterdir())
    assert not failed_units(), failed_units()
    assert list(scene.launcher.down()) == []


def _die_in(action: str, moment: str) -> None:
    """Have a process of its own start or stop half/1 that is killed at `moment`."""
    script = Path(__file__).with_name("sidecar_docker_dying.py")
    done = subprocess.run([sys.executable, str(script), SOCKET, action, moment])
    assert done.returncode == -9, done


def _failure(scene: Scene, spec: WorkerSpec) -> SidecarError:
    return _raised(lambda: scene.launcher.start(spec))


def _raised(act: Any) -> SidecarError:
    try:
        outcome = act()
    except SidecarError as error:
        return error
    raise AssertionError(f"no error, but {outcome}")


def _output(scene: Scene) -> list[bytes]:
    stream = scene.launcher.logs("llm", "8090", 10, follow=False)
    try:
        return _all(stream).splitlines()
    finally:
        stream.close()


def _first_lines(scene: Scene, service: str, count: int) -> bytes:
    """What the instance 1 of `service` says first, once it is `count` lines."""
    stream = scene.launcher.logs(service, "1", 100, follow=True)
    said = b""
    while said.count(b"\n") < count:
        piece = stream.read()
        assert piece, said
        said += piece
    stream.close()
    return said


def _all(stream: Any) -> bytes:
    return b"".join(iter(stream.read, b""))


def _read(path: Path) -> str:
    return path.read_text().strip()


def _secret_file() -> str:
    path = Path("/etc/token")
    path.write_text(SECRET)
    path.chmod(0o600)
    return str(path)
