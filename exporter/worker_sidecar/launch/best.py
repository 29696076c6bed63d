"""Which launcher this host allows."""

import os
from dataclasses import dataclass

from worker_exporter.cgroup.mount import find_mount
from worker_exporter.errors import UserError
from worker_sidecar.launch import cgroupfs, systemd
from worker_sidecar.launch.launcher import Launcher


@dataclass(frozen=True, slots=True)
class Choice:
    """The best launcher of a host, None where no cgroup can be made, and the reason in words."""

    launcher: Launcher | None
    reason: str


def best_launcher(slice_name: str, log_dir: str, procfs: str = "/proc") -> Choice:
    """What this host allows for workers below `slice_name`: systemd first, then plain cgroups.

    `log_dir` is where plain cgroups' workers write their output (systemd's go to the journal).
    """
    try:
        mount = find_mount(procfs)
    except UserError as error:
        return Choice(None, str(error))
    if mount.foreign:
        return Choice(None, f"{mount.path} belongs to another cgroup namespace")
    no_systemd = systemd.unavailable()
    if no_systemd is None:
        launcher = systemd.SystemdLauncher(slice_name, mount.path, user=os.geteuid() != 0)
        return Choice(launcher, "systemd runs here and takes transient units")
    refused = cgroupfs.unavailable(mount.path, slice_name)
    if refused is None:
        reason = f"{no_systemd}; directories can be made in {mount.path}"
        return Choice(cgroupfs.CgroupfsLauncher(slice_name, mount.path, log_dir), reason)
    return Choice(None, f"{no_systemd}; {refused}")
