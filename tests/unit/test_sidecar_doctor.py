"""What the doctor says, of fixture trees and stand-ins for whole hosts."""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.trees import build

from worker_sidecar import gpu, spec
from worker_sidecar.doctor import Finding, Host, cgroups, examine, managers, processes, workers
from worker_sidecar.doctor.context import Context
from worker_sidecar.doctor.examination import CHECKS
from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch.best import site_for
from worker_sidecar.launch.launcher import State, Status
from worker_sidecar.launch.site import Site

UNIFIED = """
==> proc/self/mountinfo <==
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / {mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
==> proc/sys/kernel/osrelease <==
6.1.0-18-cloud-amd64
==> proc/pressure/cpu <==
some avg10=0.00 avg60=0.00 avg300=0.00 total=0
==> proc/swaps <==
Filename Type Size Used Priority
/dev/vda2 partition 1000 0 -2
==> cgroup/cgroup.controllers <==
cpuset cpu io memory hugetlb pids rdma
==> cgroup/cgroup.procs <==
1
==> cgroup/worker.slice/cgroup.controllers <==
cpuset cpu io memory pids
==> cgroup/worker.slice/cgroup.subtree_control <==
cpu io memory pids
==> cgroup/worker.slice/cgroup.events <==
populated 1
==> cgroup/worker.slice/cgroup.pressure <==
1
==> cgroup/worker.slice/cgroup.kill <==
==> cgroup/worker.slice/memory.current <==
0
==> cgroup/worker.slice/memory.peak <==
0
==> cgroup/worker.slice/memory.swap.max <==
max
"""

HYBRID = """
==> proc/self/mountinfo <==
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / {mount} rw,relatime - cgroup2 cgroup2 rw
==> cgroup/cgroup.controllers <==
hugetlb rdma
"""

Check = Callable[[Context], Iterable[Finding]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def context(root: Path) -> Context:
    return unified(root)


def host(root: Path, uid: int = 0) -> Host:
    return Host(
        procfs=f"{root}/proc",
        run=f"{root}/run",
        linger=f"{root}/linger",
        api_socket=f"{root}/api.sock",
        docker_socket=f"{root}/docker.sock",
        uid=uid,
        open_files=(1024, 524288),
    )


def made(root: Path, text: str, uid: int = 0) -> Context:
    build(text.format(mount=f"{root}/cgroup"), root)
    return Context(
        Site("worker.slice", f"{root}/cgroup", f"{root}/r", f"{root}/l"), host(root, uid)
    )


def unified(root: Path, uid: int = 0) -> Context:
    return made(root, UNIFIED, uid)


def found(check: Check, context: Context) -> list[Finding]:
    return list(check(context))


def levels(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, finding.level) for finding in findings]


def declaring(context: Context, root: Path, text: str) -> Context:
    path = root / "workers.yaml"
    path.write_text(text)
    return replace(context, config=spec.load(str(path)), config_path=str(path))


def test_a_unified_host_is_fine(context: Context) -> None:
    checks = (
        cgroups.cgroup2,
        cgroups.controllers,
        cgroups.delegation,
        cgroups.pressure,
        cgroups.kernel_files,
        processes.hidepid,
        processes.open_files,
    )
    findings = [finding for check in checks for finding in found(check, context)]
    assert levels(findings) == [
        ("cgroup2", "ok"),
        ("controllers", "ok"),
        ("delegation", "ok"),
        ("psi", "ok"),
        ("cgroup.kill", "ok"),
        ("memory.peak", "ok"),
        ("swap", "ok"),
        ("hidepid", "ok"),
        ("nofile", "ok"),
    ]
    assert {finding.advice for finding in findings} == {None}
    assert findings[0].says == f"unified, at {context.site.mount}"
    assert findings[2].says == "worker.slice hands down cpu, io, memory, pids"


def test_a_hybrid_host_has_no_controllers(root: Path) -> None:
    context = made(root, HYBRID)
    [mode] = found(cgroups.cgroup2, context)
    assert (mode.level, mode.says) == (
        "warning",
        f"hybrid, at {root}/cgroup; cgroup v1 has cpu, cpuacct, memory",
    )
    assert "systemd.unified_cgroup_hierarchy=1" in str(mode.advice)
    [there] = found(cgroups.controllers, context)
    assert there.level == "warning"
    assert "cpu, cpuset, io, memory, pids missing" in there.says
    assert there.advice == mode.advice
    assert found(cgroups.delegation, context) == []


def test_no_cgroup2_is_a_problem(root: Path) -> None:
    build("==> proc/self/mountinfo <==\n22 27 0:21 / /proc rw - proc proc rw\n", root)
    context = Context(Site("worker.slice", None, "", ""), host(root))
    [mode] = found(cgroups.cgroup2, context)
    assert mode.level == "problem"
    assert "not mounted" in mode.says
    for check in (cgroups.controllers, cgroups.delegation, cgroups.kernel_files):
        assert found(check, context) == []


@pytest.mark.parametrize(
    ("mount_root", "level", "says"),
    [
        ("/../..", "problem", "another cgroup namespace"),
        ("/docker/abc", "warning", "shows only /docker/abc"),
    ],
)
def test_a_foreign_mount(context: Context, mount_root: str, level: str, says: str) -> None:
    mountinfo = Path(context.host.procfs, "self/mountinfo")
    mountinfo.write_text(mountinfo.read_text().replace("0:28 / ", f"0:28 {mount_root} "))
    first = found(cgroups.cgroup2, context)[0]
    assert first.level == level
    assert says in first.says
    assert "--cgroupns=host" in str(first.advice)


def test_a_read_only_mount_and_another_pid_namespace(context: Context, root: Path) -> None:
    mountinfo = Path(context.host.procfs, "self/mountinfo")
    mountinfo.write_text(mountinfo.read_text().replace("rw,nosuid", "ro,nosuid"))
    (root / "cgroup/cgroup.procs").write_text("1\n0\n")
    read_only, pids, mode = found(cgroups.cgroup2, context)
    assert (read_only.level, pids.level, mode.level) == ("warning", "warning", "ok")
    assert "read-only" in read_only.says
    assert "--pid=host" in str(pids.advice)


def test_a_missing_controller_is_named_with_its_limits(context: Context, root: Path) -> None:
    (root / "cgroup/cgroup.controllers").write_text("cpuset cpu io pids\n")
    [there] = found(cgroups.controllers, context)
    assert there.says == "memory missing at the root; no limits of memory and swap"
    assert "cgroup_enable=memory" in str(there.advice)


def test_a_users_manager_is_not_given_all(root: Path) -> None:
    context = unified(root, uid=4242)
    (root / "run/systemd/system").mkdir(parents=True)
    manager = "cgroup/user.slice/user-4242.slice/user@4242.service"
    build(f"==> {manager}/cgroup.controllers <==\ncpu memory pids\n", root)
    [given] = found(cgroups.delegation, context)
    assert given.level == "warning"
    assert given.says == "cpuset, io not delegated to 4242; no limits of cpus, io"
    assert "Delegate=cpu cpuset io memory pids" in str(given.advice)
    (root / manager / "cgroup.controllers").write_text("cpu cpuset io memory pids\n")
    [given] = found(cgroups.delegation, context)
    assert (given.level, given.says) == (
        "ok",
        "worker.slice is not there yet; the first start makes it",
    )


def test_pressure_can_be_off(context: Context, root: Path) -> None:
    (root / "cgroup/worker.slice/cgroup.pressure").write_text("0\n")
    [off] = found(cgroups.pressure, context)
    assert off.level == "warning"
    assert off.advice == f"echo 1 > {root}/cgroup/worker.slice/cgroup.pressure"
    (root / "proc/pressure/cpu").unlink()
    [off] = found(cgroups.pressure, context)
    assert off.level == "warning"
    assert "psi=1" in str(off.advice)


@pytest.mark.parametrize(
    ("file", "name", "advice"),
    [
        ("cgroup.kill", "cgroup.kill", "5.14"),
        ("memory.peak", "memory.peak", "5.19"),
        ("memory.swap.max", "swap", "swapaccount=1"),
    ],
)
def test_what_the_kernel_lacks(
    context: Context, root: Path, file: str, name: str, advice: str
) -> None:
    (root / "cgroup/worker.slice" / file).unlink()
    by_name = {finding.name: finding for finding in found(cgroups.kernel_files, context)}
    assert {key for key, finding in by_name.items() if finding.level != "ok"} == {name}
    assert advice in str(by_name[name].advice)


@pytest.mark.parametrize(("release", "level"), [("5.13.0", "warning"), ("5.14.0-1", "ok")])
def test_without_any_cgroup_the_kernels_version_tells(root: Path, release: str, level: str) -> None:
    context = made(root, f"{HYBRID}==> proc/sys/kernel/osrelease <==\n{release}\n")
    assert levels(found(cgroups.kernel_files, context)) == [("cgroup.kill", level)]


def test_an_old_kernel_has_no_metadata(context: Context, root: Path) -> None:
    (root / "proc/sys/kernel/osrelease").write_text("5.4.0-150-generic\n")
    assert levels(found(cgroups.kernel_files, context))[0] == ("xattrs", "warning")


def test_swap_that_is_not_there_need_not_be_accounted(context: Context, root: Path) -> None:
    (root / "cgroup/worker.slice/memory.swap.max").unlink()
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\n")
    assert {finding.level for finding in found(cgroups.kernel_files, context)} == {"ok"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("rw", ["ok"]),
        ("rw,hidepid=0", ["ok"]),
        ("rw,hidepid=off", ["ok"]),
        ("rw,hidepid=2", ["warning"]),
        ("rw,gid=1000,hidepid=invisible", ["warning"]),
        ("rw,hidepid=ptraceable,subset=pid", ["warning", "warning"]),
    ],
)
def test_hidden_processes(context: Context, options: str, names: list[str]) -> None:
    mountinfo = Path(context.host.procfs, "self/mountinfo")
    mountinfo.write_text(mountinfo.read_text().replace("proc proc rw", f"proc proc {options}"))
    findings = found(processes.hidepid, context)
    assert [finding.level for finding in findings] == names
    assert ("gid" in options) == ("group 1000" in findings[-1].says)


@pytest.mark.parametrize(
    ("limits", "level"),
    [((1024, 524288), "ok"), ((1024, 4096), "warning"), ((1024, -1), "ok"), ((99, 20000), "ok")],
)
def test_open_files(context: Context, limits: tuple[int, int], level: str) -> None:
    [limit] = found(processes.open_files, replace_host(context, open_files=limits))
    assert limit.level == level
    assert (level == "ok") == (limit.advice is None)


def replace_host(context: Context, **changes: object) -> Context:
    return replace(context, host=replace(context.host, **changes))  # type: ignore[arg-type]


def program(root: Path, name: str, script: str) -> None:
    path = root / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_no_systemd_is_no_fault(context: Context) -> None:
    assert levels(found(managers.systemd, context)) == [("systemd", "ok")]
    assert found(managers.user_manager, replace_host(context, uid=4242)) == []


@pytest.mark.parametrize(
    ("says", "level"),
    [
        ("systemd 252 (252.22-1~deb12u1)\n+PAM", "ok"),
        ("systemd 247 (247)", "ok"),
        ("systemd 245 (245.4-4ubuntu3)", "warning"),
        ("bogus", "warning"),
    ],
)
def test_systemds_version(
    context: Context, root: Path, monkeypatch: pytest.MonkeyPatch, says: str, level: str
) -> None:
    (root / "run/systemd/system").mkdir(parents=True)
    program(root, "systemctl", f"test \"$*\" = --version && cat <<'END'\n{says}\nEND")
    program(root, "systemd-run", "exit 1")
    monkeypatch.setenv("PATH", f"{root}/bin:{os.environ['PATH']}")
    [version] = found(managers.systemd, context)
    assert version.level == level
    (root / "bin/systemd-run").unlink()
    monkeypatch.setenv("PATH", f"{root}/bin")
    [absent] = found(managers.systemd, context)
    assert absent.level == "problem"


def test_a_user_needs_a_manager_that_stays(context: Context, root: Path) -> None:
    (root / "run/systemd/system").mkdir(parents=True)
    assert found(managers.user_manager, context) == []
    context = replace_host(context, uid=4242)
    findings = found(managers.user_manager, context)
    assert levels(findings) == [("user manager", "problem"), ("lingering", "warning")]
    assert {finding.advice for finding in findings} == {"loginctl enable-linger 4242"}
    (root / "run/user/4242/systemd/private").mkdir(parents=True)
    (root / "linger").mkdir()
    (root / "linger/4242").touch()
    findings = found(managers.user_manager, context)
    assert levels(findings) == [("user manager", "ok"), ("lingering", "ok")]


IMAGE = """
services:
  box:
    image: python:3.12
    user: nobody
    instances: {main: {}}
"""
GPU = """
services:
  llm:
    command: [sleep, "1"]
    user: nobody
    gpu: auto
    instances: {"8080": {}}
"""


def test_docker_is_needed_only_for_images(context: Context, root: Path) -> None:
    assert levels(found(managers.docker_daemon, context)) == [("docker", "ok")]
    [needed] = found(managers.docker_daemon, declaring(context, root, IMAGE))
    assert (needed.name, needed.level) == ("docker", "problem")
    assert "no daemon at" in needed.says


@contextmanager
def daemon(path: str, info: str) -> Iterator[None]:
    """A stand-in for the Docker daemon: GET /version, and GET /info."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(65536)
                body = '{"ApiVersion": "1.44", "MinAPIVersion": "1.24"}'
                if b"/info" in asked.splitlines()[0]:
                    body = info
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall((head + body).encode())

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("driver", "systemd", "level"),
    [
        ("systemd", True, "ok"),
        ("cgroupfs", False, "ok"),
        ("cgroupfs", True, "warning"),
    ],
)
def test_dockers_driver(
    context: Context, root: Path, driver: str, systemd: bool, level: str
) -> None:
    if systemd:
        (root / "run/systemd/system").mkdir(parents=True)
    info = f'{{"CgroupDriver": "{driver}", "CgroupVersion": "2"}}'
    with daemon(context.host.docker_socket, info):
        [said] = found(managers.docker_daemon, context)
    assert said.level == level
    assert f"cgroup driver {driver}" in said.says
    assert (level == "ok") or "--worker.pattern='worker/(?P<service>" in str(said.advice)


def test_a_docker_that_does_not_answer(context: Context, root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(context.host.docker_socket)
    [said] = found(managers.docker_daemon, context)
    assert said.level == "warning"
    [said] = found(managers.docker_daemon, declaring(context, root, IMAGE))
    assert said.level == "problem"


def test_gpus(context: Context, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanting = declaring(context, root, GPU)

    def absent(patience: float) -> Sequence[gpu.GpuState]:
        raise gpu.NoDriverError("there is no NVIDIA driver here")

    def hung(patience: float) -> Sequence[gpu.GpuState]:
        raise InputOutputError("the NVIDIA driver did not answer")

    cases: list[tuple[Callable[[float], Sequence[gpu.GpuState]], str, str]] = [
        (absent, "ok", "problem"),
        (hung, "warning", "problem"),
        (lambda _: [], "ok", "problem"),
        (lambda _: [gpu.GpuState(0, "GPU-1", "H200", 1, 2)], "ok", "ok"),
    ]
    for inventory, level, needed in cases:
        monkeypatch.setattr(gpu, "inventory", inventory)
        [said] = found(managers.gpus, context)
        assert said.level == level
        [said] = found(managers.gpus, wanting)
        assert said.level == needed
    assert "0 (H200)" in said.says


def test_workers_yaml(context: Context, root: Path) -> None:
    [none] = found(workers.declaration, context)
    assert none.level == "ok"
    [good] = found(workers.declaration, declaring(context, root, GPU))
    assert (good.level, good.says) == ("ok", f"{root}/workers.yaml: 1 services, 1 workers")


def test_faults_in_workers_yaml_are_told_one_by_one(context: Context, root: Path) -> None:
    path = root / "workers.yaml"
    path.write_text("services:\n  llm:\n    commnd: [x]\n    limits: {memory: much}\n")
    findings = examine(context.site, str(path), context.host, [("f", workers.declaration)])
    assert len(findings) >= 2
    assert {finding.level for finding in findings} == {"problem"}
    assert all(f"{path}:" in finding.says for finding in findings)
    [gone] = examine(context.site, f"{path}x", context.host, [("f", workers.declaration)])
    assert gone.level == "problem"


def test_a_slice_of_somebody_else(context: Context, root: Path) -> None:
    text = "slice: team.slice\nowners: {worker.slice: pact}\n" + GPU
    declaration, owner = found(workers.declaration, declaring(context, root, text))
    assert (declaration.level, owner.name, owner.level) == ("ok", "ownership", "problem")
    assert "pact" in owner.says


class Listing:
    """A launcher that only lists."""

    name = "listing"

    def __init__(self, *statuses: Status) -> None:
        self.statuses = statuses

    def list(self) -> Sequence[Status]:
        return self.statuses


def test_limits_that_do_not_hold(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def listing(*statuses: Status) -> None:
        monkeypatch.setattr(workers, "_launcher", lambda _: Listing(*statuses))

    good = Status("llm", "8080", "systemd", State.RUNNING)
    bad = replace(good, instance="8081", unapplied=("cpu", "memory"))
    dead = replace(bad, instance="8082", state=State.FAILED)
    listing()
    assert [finding.says for finding in found(workers.running, context)] == ["none runs"]
    listing(good, dead)
    [said] = found(workers.running, context)
    assert (said.level, said.says) == ("ok", "1 run, and their limits hold")
    listing(good, bad, dead)
    [said] = found(workers.running, context)
    assert said.level == "warning"
    assert said.says == "llm/8081: its limits of cpu, memory do not hold"


def test_the_apis_socket(context: Context) -> None:
    path = Path(context.host.api_socket)
    assert levels(found(workers.api_socket, context)) == [("api", "ok")]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o660)
        listening.listen()
        [said] = found(workers.api_socket, context)
        assert (said.level, said.says) == ("ok", f"serve answers on {path}")
        path.chmod(0o666)
        assert levels(found(workers.api_socket, context)) == [("api", "problem"), ("api", "ok")]
        path.chmod(0o660)
    [said] = found(workers.api_socket, context)
    assert said.level == "warning"
    assert "Connection refused" in said.says
    path.unlink()
    path.touch()
    assert levels(found(workers.api_socket, context)) == [("api", "problem")]


def test_a_check_that_breaks_or_hangs_costs_only_itself(context: Context) -> None:
    go = threading.Event()

    def broken(_: Context) -> Iterator[Finding]:
        yield Finding("broken", "ok", "so far")
        raise RuntimeError("surprise")

    def unable(_: Context) -> Iterator[Finding]:
        raise InputOutputError("systemd does not answer")

    def hung(_: Context) -> Iterator[Finding]:
        go.wait(60)
        yield Finding("hung", "ok", "too late")

    def fine(_: Context) -> Iterator[Finding]:
        yield Finding("fine", "ok", "yes")

    checks = [("broken", broken), ("unable", unable), ("hung", hung), ("fine", fine)]
    try:
        findings = examine(context.site, None, context.host, checks, deadline=3.0)
    finally:
        go.set()
    assert levels(findings) == [
        ("broken", "warning"),
        ("unable", "problem"),
        ("hung", "problem"),
        ("fine", "ok"),
    ]
    assert "RuntimeError: surprise" in findings[0].says
    assert findings[1].says == "systemd does not answer"
    assert all((finding.level == "ok") == (finding.advice is None) for finding in findings)


def test_this_very_host() -> None:
    """All checks, for real: none may break, and each has a say."""
    findings = examine(site_for("doctortest.slice"), None)
    assert [finding for finding in findings if "the check failed" in finding.says] == []
    told = {finding.name for finding in findings}
    assert {"cgroup2", "psi", "systemd", "launcher", "docker", "gpu", "nofile", "hidepid"} <= told
    assert {"workers.yaml", "workers", "api"} <= told
    for finding in findings:
        assert "\n" not in finding.says + (finding.advice or "")
        assert (finding.level == "ok") == (finding.advice is None), finding
    assert len(CHECKS) == len({name for name, _ in CHECKS})


def test_nothing_is_left_of_a_look(context: Context, root: Path) -> None:
    before = sorted(str(path) for path in root.rglob("*"))
    examine(context.site, None, context.host, CHECKS[:5])
    assert sorted(str(path) for path in root.rglob("*")) == before
