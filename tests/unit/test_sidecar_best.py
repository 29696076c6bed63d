"""Which launcher a host gets, and why."""

import os
import socket
from pathlib import Path

import pytest
from tests.unit.fake_launcher import FakeLauncher

from worker_exporter.cgroup.mount import Mount
from worker_exporter.errors import UserError
from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch import best, cgroupfs, systemd
from worker_sidecar.launch.best import choose, docker_socket, site_for, with_docker
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site

SITE = Site("worker.slice", "/sys/fs/cgroup", "/run/worker-sidecar", "/var/log/worker-sidecar")


class Host:
    """A host whose systemd and cgroups are as the test says; None: they work."""

    systemd: str | None = None
    cgroups: str | None = None


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(systemd, "unavailable", lambda user=None: host.systemd)
    monkeypatch.setattr(cgroupfs, "unavailable", lambda mount, name: host.cgroups)
    return host


def test_systemd_goes_first(host: Host) -> None:
    choice = choose(SITE)
    expected = "systemd" if os.geteuid() == 0 else "systemd --user"
    assert (choice.launcher.name, choice.monitored) == (expected, True)
    assert choice.reason == "systemd runs here and takes transient units"


def test_plain_cgroups_come_second(host: Host) -> None:
    host.systemd = "systemd does not run here"
    choice = choose(SITE)
    assert (choice.launcher.name, choice.monitored) == ("cgroupfs", True)
    assert choice.reason == "systemd does not run here; directories can be made in /sys/fs/cgroup"


def test_what_cannot_be_monitored_comes_last_with_all_reasons(host: Host) -> None:
    host.systemd, host.cgroups = "no systemd", "no directory can be made"
    choice = choose(SITE)
    assert (choice.launcher.name, choice.monitored) == ("detached", False)
    assert choice.reason == "no systemd; no directory can be made"


def test_without_cgroup2_neither_can_be_monitored(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> Mount:
        raise UserError("no cgroup2 is mounted")

    monkeypatch.setattr(best, "find_mount", nothing)
    site = site_for("worker.slice")
    assert site.mount is None
    choice = choose(site)
    assert not choice.monitored
    assert "no cgroup2 is mounted" in choice.reason


def test_a_foreign_namespaces_mount_is_none_of_ours(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best, "find_mount", lambda: Mount("/sys/fs/cgroup", "/../.."))
    site = site_for("worker.slice")
    assert site.mount is None
    assert "belongs to another cgroup namespace" in choose(site).reason


@pytest.mark.parametrize(
    ("name", "launcher"),
    [
        ("systemd", "systemd"),
        ("systemd-user", "systemd --user"),
        ("cgroupfs", "cgroupfs"),
        ("detached", "detached"),
    ],
)
def test_a_forced_launcher(host: Host, name: str, launcher: str) -> None:
    choice = choose(SITE, name)
    assert choice.launcher.name == launcher
    assert choice.monitored is (name != "detached")


def test_a_forced_launcher_that_cannot_work_is_one_clear_error(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.systemd, host.cgroups = "systemd does not run here", "read-only"
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    for name, reason in (
        ("systemd", "systemd does not run here"),
        ("systemd-user", "systemd does not run here"),
        ("cgroupfs", "read-only"),
        ("docker", "there is no /no/such.sock"),
    ):
        with pytest.raises(InputError, match=f"launcher {name} cannot work here: .*{reason}"):
            choose(SITE, name)
    with pytest.raises(InputError, match="'magic' is none of systemd, "):
        choose(SITE, "magic")


def test_slices_keep_their_things_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/x")
    monkeypatch.setenv("LOGS_DIRECTORY", "/var/log/x")
    default, other = site_for("worker.slice"), site_for("team.slice")
    assert (default.run_dir, default.log_dir) == ("/run/x", "/var/log/x")
    assert (other.run_dir, other.log_dir) == ("/run/x/team.slice", "/var/log/x/team.slice")


def test_the_daemons_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert docker_socket() == "/var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1/docker.sock")
    assert docker_socket() == "/run/user/1/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://host:2375")
    assert docker_socket() == "/var/run/docker.sock"


def test_docker_is_not_asked_before_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = str(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    image = WorkerSpec("web", "1", (), image="nginx")
    with pytest.raises(RefusedError, match=f"there is no {path}"):
        with_docker(FakeLauncher(), SITE).start(image)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(path)
        daemon.listen()
        daemon.setblocking(False)
        process = FakeLauncher(workers=[])
        combined = with_docker(process, SITE)
        process.start(WorkerSpec("llm", "1", ("x",)))
        combined.stop("llm", "1")
        with pytest.raises(BlockingIOError):
            daemon.accept()
