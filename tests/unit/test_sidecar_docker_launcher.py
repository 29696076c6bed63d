"""The Docker launcher against a stand-in with the cgroupfs driver: what it leaves when it fails."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.docker_support import ID, Memory, StandIn, stand_in

from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    InputOutputError,
    KillFailedError,
    NotFoundError,
    RefusedError,
    SidecarError,
)
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.docker import DockerLauncher, cgroup_parent, drivers, parent, sweep
from worker_sidecar.launch.docker import daemon as daemon_module
from worker_sidecar.launch.docker import launcher as launcher_module
from worker_sidecar.launch.launcher import Ended, State, Status, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site

CREATE = "POST /containers/create"
START = "POST /containers/"


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain directories in the slice, whatever this host has."""
    for module in (drivers, parent, sweep):
        monkeypatch.setattr(module, "systemd_runs", lambda: False)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "cgroup").mkdir()
    return Site("w.slice", str(tmp_path / "cgroup"), str(tmp_path / "run"), str(tmp_path / "log"))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def server(tmp_path: Path, memory: Memory) -> Iterator[StandIn]:
    with stand_in(tmp_path, memory.routes) as running:
        yield running


@pytest.fixture
def launcher(site: Site, server: StandIn) -> DockerLauncher:
    return DockerLauncher(site, server.socket)


def spec(instance: str = "8090", **more: Any) -> WorkerSpec:
    return WorkerSpec("llm", instance, **{"argv": ("serve",), "image": "tools", **more})


def left(site: Site) -> list[str]:
    """Every file and directory that is left of a worker, and of its locks and secrets."""
    roots = (f"{site.mount}/w.slice/llm", f"{site.run_dir}/docker", f"{site.run_dir}/secrets")
    return [
        f"{folder}/{name}"
        for root in roots
        for folder, folders, files in os.walk(root)
        for name in (*folders, *files)
    ]


def test_a_worker_from_start_to_stop(
    launcher: DockerLauncher, site: Site, server: StandIn, memory: Memory
) -> None:
    started = launcher.start(spec(metadata={"model": "llama"}))
    folder = f"{site.mount}/w.slice/llm/8090"
    assert (started.state, started.cgroup) == (State.RUNNING, "w.slice/llm/8090")
    assert (started.pid, started.unit, started.launcher) == (4242, None, "docker")
    assert started.container == next(iter(memory.made))
    assert os.getxattr(folder, "user.worker.model") == b"llama"
    assert started.metadata["model"] == "llama"
    assert "declaration" not in started.metadata
    assert launcher.list() == [started] == [launcher.status("llm", "8090")]
    assert launcher.stop("llm", "8090", 1) == Ended("llm", "8090", False, "success", 0)
    assert (memory.made, left(site)) == ({}, [])
    with pytest.raises(NotFoundError, match="no worker llm/8090"):
        launcher.stop("llm", "8090")


def test_the_cgroup_is_there_before_the_container(
    launcher: DockerLauncher, site: Site, server: StandIn, memory: Memory
) -> None:
    seen = []

    def create(request: Any) -> Any:
        folder = f"{site.mount}{request.body['HostConfig']['CgroupParent']}"
        seen.append(os.getxattr(folder, "user.worker.started"))
        return memory.routes[CREATE](request)

    server.routes[CREATE] = create
    launcher.start(spec())
    assert len(seen) == 1


def test_a_kill_is_told_as_one(launcher: DockerLauncher, site: Site) -> None:
    launcher.start(spec())
    assert launcher.kill("llm", "8090") == Ended("llm", "8090", True, "signal", 9)
    assert left(site) == []


def test_a_stop_of_what_was_killed_before_is_not_forced(
    launcher: DockerLauncher, memory: Memory
) -> None:
    launcher.start(spec())
    (made,) = memory.made.values()
    made["State"].update(Status="exited", ExitCode=137, Pid=0)
    ended = launcher.stop("llm", "8090", 0)
    assert (ended.forced, ended.result, ended.exit_status) == (False, "signal", 9)


@pytest.mark.parametrize("route", [CREATE, START])
@pytest.mark.parametrize(("code", "said"), [(500, "no\nspace"), (400, "bad quota")])
def test_a_start_that_fails_leaves_nothing(
    launcher: DockerLauncher,
    site: Site,
    server: StandIn,
    memory: Memory,
    tmp_path: Path,
    route: str,
    code: int,
    said: str,
) -> None:
    server.routes[route] = lambda _: (code, {"message": said})
    secret = tmp_path / "token"
    secret.write_text("hush")
    secret.chmod(0o600)
    with pytest.raises(CreationFailedError, match="cannot start llm/8090") as caught:
        launcher.start(spec(secrets={"token": str(secret)}))
    assert " ".join(said.split()) in str(caught.value) and "\n" not in str(caught.value)
    assert (memory.made, left(site)) == ({}, [])


def test_a_daemon_that_hangs_in_the_middle_costs_the_deadline_only(
    launcher: DockerLauncher,
    site: Site,
    server: StandIn,
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon_module, "WORK_DEADLINE", 0.3)
    server.routes[START] = server.hang
    with pytest.raises(InputOutputError, match="does not answer in time"):
        launcher.start(spec())
    assert (memory.made, left(site)) == ({}, [])


def test_an_image_that_is_not_there_is_the_callers_to_pull(
    launcher: DockerLauncher, site: Site, server: StandIn
) -> None:
    server.routes["GET /images/"] = lambda _: (404, {"message": "No such image: tools:latest"})
    with pytest.raises(InputError, match="docker pull tools"):
        launcher.start(spec())
    assert left(site) == []
    assert CREATE not in server.names


def test_a_strangers_container_is_not_touched(
    launcher: DockerLauncher, site: Site, memory: Memory
) -> None:
    memory.made[ID] = {
        "Id": ID,
        "Name": "/w-llm-8090",
        "Config": {"Labels": {}},
        "HostConfig": {"CgroupParent": ""},
        "State": {"Status": "running"},
    }
    with pytest.raises(CreationFailedError, match="a container w-llm-8090 is there"):
        launcher.start(spec())
    assert list(memory.made) == [ID]
    assert left(site) == []


def test_labels_of_a_stranger_deceive_nobody(launcher: DockerLauncher, memory: Memory) -> None:
    launcher.start(spec())
    (ours,) = memory.made.values()
    memory.made[ID] = {**ours, "Id": ID, "Name": "/x", "HostConfig": {"CgroupParent": "/docker"}}
    assert [status.container for status in launcher.list()] == [ours["Id"]]


def test_what_a_killed_start_left_is_removed_by_the_next(
    launcher: DockerLauncher, site: Site, memory: Memory
) -> None:
    launcher.start(spec())
    (before,) = memory.made
    memory.made[before]["State"] = {"Status": "created", "ExitCode": 0, "Pid": 0}
    assert [status.state for status in launcher.list()] == [State.ENDED]
    again = launcher.start(spec())
    assert again.state is State.RUNNING
    assert list(memory.made) == [again.container]


def test_what_a_killed_stop_left_is_removed_by_the_next(
    launcher: DockerLauncher, site: Site, memory: Memory
) -> None:
    launcher.start(spec())
    memory.made.clear()
    assert left(site) == [f"{site.mount}/w.slice/llm/8090"]
    assert launcher.stop("llm", "8090") == Ended("llm", "8090", forced=False)
    assert left(site) == []


def test_a_plain_process_is_not_dockers_to_stop(launcher: DockerLauncher, site: Site) -> None:
    folder = Path(f"{site.mount}/w.slice/llm/8090")
    folder.mkdir(parents=True)
    with pytest.raises(NotFoundError):
        launcher.stop("llm", "8090")
    assert folder.is_dir()


def test_ten_starts_at_once_are_one(launcher: DockerLauncher, memory: Memory) -> None:
    def start(_: int) -> Status | SidecarError:
        try:
            return launcher.start(spec())
        except SidecarError as error:
            return error

    with ThreadPoolExecutor(10) as threads:
        kinds = [type(outcome) for outcome in threads.map(start, range(10))]
    assert sorted(kind.__name__ for kind in kinds) == ["AlreadyRunningError"] * 9 + ["Status"]
    assert len(memory.made) == 1


def test_a_running_worker_is_left_alone(launcher: DockerLauncher, server: StandIn) -> None:
    launcher.start(spec())
    server.requests.clear()
    with pytest.raises(AlreadyRunningError, match="llm/8090 is already running"):
        launcher.start(spec())
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize(
    ("user", "image_user", "owner"),
    [
        (None, "", (0, 0)),
        (None, "1001", (1001, 1001)),
        ("1002", "app", (1002, 1002)),
        ("1003:50", "", (1003, 50)),
        ("root", "app", (0, 0)),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_secrets_belong_to_the_user_in_the_container(
    launcher: DockerLauncher,
    site: Site,
    server: StandIn,
    tmp_path: Path,
    user: str | None,
    image_user: str,
    owner: tuple[int, int],
) -> None:
    server.routes["GET /images/"] = lambda _: (200, {"Config": {"User": image_user}})
    secret = tmp_path / "token"
    secret.write_text("hush")
    secret.chmod(0o600)
    launcher.start(spec(user=user, secrets={"token": str(secret)}))
    (body,) = (request.body for request in server.requests if request.name == CREATE)
    (mount,) = body["HostConfig"]["Mounts"]
    copy = os.stat(mount["Source"])
    assert (copy.st_mode & 0o777, copy.st_uid, copy.st_gid) == (0o400, *owner)
    assert Path(mount["Source"]).read_text() == "hush"
    assert "hush" not in str(body)


@pytest.mark.parametrize(("user", "image_user"), [("app", ""), (None, "app"), ("5000000000", "")])
def test_a_user_without_a_number_gets_no_secrets(
    launcher: DockerLauncher,
    site: Site,
    server: StandIn,
    tmp_path: Path,
    user: str | None,
    image_user: str,
) -> None:
    server.routes["GET /images/"] = lambda _: (200, {"Config": {"User": image_user}})
    secret = tmp_path / "token"
    secret.write_text("hush")
    secret.chmod(0o600)
    with pytest.raises(InputError, match=r"number|uid"):
        launcher.start(spec(user=user, secrets={"token": str(secret)}))
    assert left(site) == []


def test_down_ends_all_and_leaves_others(
    launcher: DockerLauncher, site: Site, memory: Memory
) -> None:
    for instance in ("1", "2", "3"):
        launcher.start(spec(instance))
    cgroup_parent(site, "own", None, launcher._socket)
    memory.made[ID] = {"Id": ID, "Name": "/x", "Config": {"Labels": {}}, "HostConfig": {}}
    assert sorted(ended.instance for ended in launcher.down(0)) == ["1", "2", "3"]
    assert list(memory.made) == [ID]
    assert os.listdir(str(site.mount)) == []
    assert list(launcher.down(0)) == []


def test_a_failure_of_one_does_not_spare_the_others(
    launcher: DockerLauncher, server: StandIn, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_module, "_AT_ONCE", 1)
    stuck = launcher.start(spec("1")).container
    for instance in ("2", "3", "4"):
        launcher.start(spec(instance))
    server.routes[f"POST /containers/{stuck}/stop"] = lambda _: (500, {"message": "cannot"})
    with pytest.raises(InputOutputError, match="cannot"):
        launcher.down(0)
    assert list(memory.made) == [stuck]


@pytest.mark.parametrize(("instance", "path"), [(None, "/w.slice/own"), ("1", "/w.slice/own/1")])
def test_the_parent_for_compose(
    site: Site, server: StandIn, instance: str | None, path: str
) -> None:
    assert cgroup_parent(site, "own", instance, server.socket) == path
    assert os.path.isdir(f"{site.mount}{path}")


def test_nobody_is_not_found(launcher: DockerLauncher) -> None:
    assert launcher.list() == []
    for act in (launcher.status, launcher.stop, launcher.kill):
        with pytest.raises(NotFoundError, match="no worker llm/1"):
            act("llm", "1")
    with pytest.raises(NotFoundError, match="no worker llm/1"):
        launcher.logs("llm", "1", 10, follow=False)


def test_bad_names_make_nothing(launcher: DockerLauncher, site: Site, server: StandIn) -> None:
    for act in (
        lambda: launcher.stop("llm", ".."),
        lambda: launcher.status("L", "1"),
        lambda: cgroup_parent(site, "a-b", None, server.socket),
        lambda: cgroup_parent(site, "a", "cgroup.procs", server.socket),
        lambda: launcher.logs("llm", "1", -1, follow=False),
    ):
        with pytest.raises(InputError):
            act()
    assert os.listdir(str(site.mount)) == []


def test_without_cgroup2_it_is_refused(server: StandIn, tmp_path: Path) -> None:
    launcher = DockerLauncher(Site("w.slice", None, str(tmp_path), str(tmp_path)), server.socket)
    with pytest.raises(RefusedError, match="no cgroup2"):
        launcher.start(spec())


def test_the_lines_of_a_dry_run_do_nothing(
    launcher: DockerLauncher, site: Site, server: StandIn
) -> None:
    lines = launcher.commands(spec(metadata={"model": "it's"}))
    folder = f"{site.mount}/w.slice/llm/8090"
    assert f"mkdir -p {folder}" in lines
    assert f"""setfattr -n user.worker.model -v '"it'"'"'s"' {folder}""" in lines
    assert lines[-1].startswith(f"docker --host=unix://{server.socket} run --detach")
    assert lines[-1].endswith(" tools serve")
    assert os.listdir(str(site.mount)) == []
    assert {request.method for request in server.requests} == {"GET"}


def test_limits_above_are_lifted_by_none_given_and_left_by_none_said(
    launcher: DockerLauncher, site: Site
) -> None:
    """The lines of a dry run say so, too."""
    files = [Path(f"{site.mount}/w.slice/pids.max"), Path(f"{site.mount}/w.slice/llm/pids.max")]
    files[1].parent.mkdir(parents=True)
    for file in files:
        file.write_text("70\n")
    lifts = [f"echo max > {file}" for file in files]
    none = {"service_limits": Limits(), "host_limits": Limits()}
    launcher.start(spec("1"))
    assert not set(lifts) & set(launcher.commands(spec("2")))
    assert [file.read_text() for file in files] == ["70\n", "70\n"]
    assert set(lifts) < set(launcher.commands(spec("2", **none)))
    launcher.start(spec("2", **none))
    assert [file.read_text() for file in files] == ["max", "max"]


def test_a_prepared_parent_keeps_its_limits(site: Site, server: StandIn) -> None:
    """Somebody else's containers go there, and somebody else may have limited it."""
    file = Path(f"{site.mount}/w.slice/llm/pids.max")
    file.parent.mkdir(parents=True)
    file.write_text("70\n")
    for instance in (None, "1"):
        cgroup_parent(site, "llm", instance, server.socket)
    assert file.read_text() == "70\n"


def test_a_process_that_cannot_be_killed_is_a_zombie_worker(
    launcher: DockerLauncher, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = launcher.start(spec()).container
    said = {"message": "tried to kill container, but did not receive an exit event"}
    server.routes[f"POST /containers/{container}/stop"] = lambda _: (500, said)
    monkeypatch.setattr(cgroup, "stuck", lambda _: [77])
    with pytest.raises(KillFailedError, match=r"zombie worker.* 77 .*state D"):
        launcher.stop("llm", "8090", 0)
    assert launcher.status("llm", "8090").state is State.RUNNING


def test_what_outlives_its_container_is_no_success(
    launcher: DockerLauncher, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.start(spec())
    monkeypatch.setattr(cgroup, "wait_empty", lambda directory, patience: False)
    with pytest.raises(KillFailedError, match="zombie worker"):
        launcher.kill("llm", "8090")
    monkeypatch.undo()
    assert os.path.isdir(f"{site.mount}/w.slice/llm/8090"), "it tells where the process is"


def test_a_limit_holds_around_the_container_or_on_it(launcher: DockerLauncher, site: Site) -> None:
    started = launcher.start(spec(limits=Limits(tasks=9, cpu_weight=50)))
    assert started.unapplied == ("cpu_weight", "tasks")
    around = Path(f"{site.mount}/w.slice/llm/8090")
    own = around / str(started.container)
    own.mkdir()
    (own / "pids.max").write_text("9\n")
    (own / "cpu.weight").write_text("50\n")
    assert launcher.status("llm", "8090").unapplied == ("cpu_weight",), "a weight in there is none"
    (own / "pids.max").write_text("max\n")
    (around / "pids.max").write_text("9\n")
    (around / "cpu.weight").write_text("50\n")
    (found,) = launcher.list()
    assert found.unapplied == ()
    (around / "pids.max").write_text("max\n")
    assert launcher.status("llm", "8090").unapplied == ("tasks",)


def test_what_somebody_else_put_there_is_left_alone(
    launcher: DockerLauncher, site: Site, memory: Memory
) -> None:
    launcher.start(spec())
    memory.made.clear()
    folder = Path(f"{site.mount}/w.slice/llm/8090")
    (folder / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (folder / "cgroup.procs").write_text("4711\n")
    with pytest.raises(RefusedError, match="4711"):
        launcher.stop("llm", "8090")
    with pytest.raises(RefusedError, match="4711"):  # not "already running": apply would be glad
        launcher.start(spec())
    assert folder.is_dir() and not memory.made
