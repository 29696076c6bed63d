"""Which launcher this host allows, and where on it workers go."""

import os
from dataclasses import dataclass

from worker_exporter.cgroup.mount import find_mount
from worker_exporter.errors import UserError
from worker_sidecar.errors import InputError
from worker_sidecar.launch import cgroupfs, docker, systemd
from worker_sidecar.launch.combined import Combined
from worker_sidecar.launch.detached import DetachedLauncher
from worker_sidecar.launch.launcher import Launcher
from worker_sidecar.launch.site import Site, log_dir, run_dir

FORCED = ("systemd", "systemd-user", "cgroupfs", "docker", "detached")
"""What can be chosen by name."""

DEFAULT_SLICE = "worker.slice"
DOCKER_SOCKET = "/var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Choice:
    """A launcher and the reason for it in words. Not `monitored`: its workers have no cgroup."""

    launcher: Launcher
    reason: str
    monitored: bool


def site_for(slice_name: str) -> Site:
    """The site of the workers below `slice_name`; `mount` is None without a cgroup2 of this host.

    Slices other than the default one keep markers, secrets and output in directories of their
    own: the names of their workers may be the same.
    """
    try:
        found = find_mount()
    except UserError:
        found = None
    mount = None if found is None or found.foreign else found.path
    below = "" if slice_name == DEFAULT_SLICE else f"/{slice_name}"
    return Site(slice_name, mount, run_dir() + below, log_dir() + below)


def choose(site: Site, forced: str | None = None) -> Choice:
    """The best launcher of this host, or the one of FORCED.

    systemd first (the system's manager for root, else the user's own), then plain cgroups, then
    none that can be monitored. Raises InputError when what was forced cannot work here.
    """
    if forced is not None:
        return _forced(site, forced)
    no_systemd = _no_systemd(site)
    if no_systemd is None:
        reason = "systemd runs here and takes transient units"
        return Choice(systemd.SystemdLauncher(site, user=os.geteuid() != 0), reason, True)
    no_cgroups = _no_cgroups(site)
    if no_cgroups is None:
        reason = f"{no_systemd}; directories can be made in {site.mount}"
        return Choice(cgroupfs.CgroupfsLauncher(site), reason, True)
    return Choice(DetachedLauncher(site), f"{no_systemd}; {no_cgroups}", False)


def with_docker(process: Launcher, site: Site) -> Combined:
    """`process` for workers without an image, Docker for the others; the daemon is not asked."""
    socket = docker_socket()
    reason = _no_docker(socket)
    if reason is not None:
        return Combined(process, None, reason)
    return Combined(process, docker.DockerLauncher(site, socket))


def docker_socket() -> str:
    """The daemon's Unix socket: DOCKER_HOST where it names one, else /var/run/docker.sock."""
    kind, _, path = os.environ.get("DOCKER_HOST", "").partition("://")
    return path if kind == "unix" and path else DOCKER_SOCKET


def _forced(site: Site, name: str) -> Choice:
    if name not in FORCED:
        raise InputError(f"launcher {name!r} is none of {', '.join(FORCED)}")
    reason = _unavailable(site, name)
    if reason is not None:
        raise InputError(f"the launcher {name} cannot work here: {reason}")
    return Choice(_named(site, name), "it was asked for", name != "detached")


def _named(site: Site, name: str) -> Launcher:
    if name.startswith("systemd"):
        return systemd.SystemdLauncher(site, user=name == "systemd-user")
    if name == "cgroupfs":
        return cgroupfs.CgroupfsLauncher(site)
    if name == "docker":
        return docker.DockerLauncher(site, docker_socket())
    return DetachedLauncher(site)


def _unavailable(site: Site, name: str) -> str | None:
    if name.startswith("systemd"):
        return systemd.unavailable(user=name == "systemd-user") or _no_mount(site)
    if name == "cgroupfs":
        return _no_cgroups(site)
    if name == "docker":
        return _no_mount(site) or _no_docker(docker_socket())
    return None


def _no_systemd(site: Site) -> str | None:
    return systemd.unavailable() or _no_mount(site)


def _no_cgroups(site: Site) -> str | None:
    if site.mount is None:
        return _no_mount(site)
    return cgroupfs.unavailable(site.mount, site.slice_name)


def _no_mount(site: Site) -> str | None:
    """Why this host's cgroup2 cannot be used, in the exporter's words; None when it can."""
    if site.mount is not None:
        return None
    try:
        mount = find_mount()
    except UserError as error:
        return str(error)
    return f"{mount.path} belongs to another cgroup namespace"


def _no_docker(socket: str) -> str | None:
    if not os.path.exists(socket):
        return f"no Docker daemon is on this host: there is no {socket}"
    if not os.access(socket, os.R_OK | os.W_OK):
        return f"uid {os.geteuid()} may not use {socket}; the group docker may"
    return None
