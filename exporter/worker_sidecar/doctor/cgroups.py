"""cgroup2 on this host: its mount, its controllers, and what the kernel's version lacks."""

import os
import re
from collections.abc import Iterable, Iterator

from worker_exporter.cgroup.identity import slice_path
from worker_exporter.cgroup.mount import Mount, find_mount
from worker_exporter.errors import UserError
from worker_sidecar.doctor.context import Context, Host
from worker_sidecar.doctor.finding import Finding, ok, problem, warning
from worker_sidecar.launch.cgroupfs.hierarchy import base_of

_LIMITS = {
    "cpu": "cpu",
    "cpuset": "cpus",
    "io": "io",
    "memory": "memory and swap",
    "pids": "tasks",
}
"""Which limits of a worker each controller is for."""

_UNIFIED = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"
_NAMESPACE = "run in the host's cgroup namespace, as with docker run --cgroupns=host"
_NEWEST = (99, 0)
"""For a kernel that does not tell its version."""

_VERSION = re.compile(r"(\d+)\.(\d+)")


def cgroup2(context: Context) -> Iterator[Finding]:
    """Where it is mounted, and how: /proc/self/mountinfo."""
    name = "cgroup2"
    try:
        mount = find_mount(context.host.procfs)
    except UserError:
        advice = f"{_UNIFIED}, or mount -t cgroup2 none /sys/fs/cgroup/unified"
        yield problem(name, "it is not mounted; no worker can be monitored", advice)
        return
    if mount.foreign:
        yield problem(name, f"{mount.path} shows another cgroup namespace", _NAMESPACE)
        return
    if mount.root != "/":
        yield warning(name, f"{mount.path} shows only {mount.root} of the host", _NAMESPACE)
    lines = _mountinfo(context.host)
    if _is_read_only(lines, mount):
        says = f"{mount.path} is mounted read-only; no cgroup can be made in it"
        yield warning(name, says, f"mount -o remount,rw {mount.path}, or mount it writable")
    if _other_pids(mount):
        says = f"{mount.path} holds processes of another PID namespace"
        yield warning(name, says, "run in the host's PID namespace, as with docker run --pid=host")
    first = _v1_controllers(lines)
    if first:
        listed = ", ".join(first)
        yield warning(name, f"hybrid, at {mount.path}; cgroup v1 has {listed}", _UNIFIED)
    else:
        yield ok(name, f"unified, at {mount.path}")


def controllers(context: Context) -> Iterator[Finding]:
    """What the root has: cgroup.controllers."""
    if context.site.mount is None:
        return
    there = _words(f"{context.site.mount}/cgroup.controllers")
    missing = [name for name in _LIMITS if name not in there]
    if not missing:
        yield ok("controllers", f"{', '.join(_LIMITS)} are at the root")
        return
    first = _v1_controllers(_mountinfo(context.host))
    says = f"{', '.join(missing)} missing at the root; no limits of {_limits_of(missing)}"
    yield warning("controllers", says, _UNIFIED if first else _enabling(missing))


def delegation(context: Context) -> Iterator[Finding]:
    """What comes down to the worker slice: cgroup.controllers and cgroup.subtree_control."""
    site, host = context.site, context.host
    if site.mount is None:
        return
    root = [name for name in _words(f"{site.mount}/cgroup.controllers") if name in _LIMITS]
    if not root:
        return
    base = _base(site.mount, host)
    if not os.path.isdir(base):
        return
    nearest = _nearest(base, slice_path(site.slice_name))
    there = _words(f"{nearest}/cgroup.controllers")
    missing = [name for name in root if name not in there]
    # Those above root's slice come when systemd, or the sidecar, enables them for the first worker.
    if missing and host.uid != 0:
        says = f"{', '.join(missing)} not delegated to {host.user}; no limits of "
        yield warning("delegation", says + _limits_of(missing), _delegating(host))
        return
    yield ok("delegation", _enabled(nearest, base, site.slice_name))


def pressure(context: Context) -> Iterator[Finding]:
    """PSI: /proc/pressure, and cgroup.pressure of the worker slice."""
    if not os.path.exists(f"{context.host.procfs}/pressure/cpu"):
        says = "the kernel keeps no pressure (PSI); worker_pressure_* are missing"
        yield warning("psi", says, "boot with psi=1 (a kernel with CONFIG_PSI)")
        return
    if context.site.mount is not None:
        path = f"{context.site.mount}/{slice_path(context.site.slice_name)}/cgroup.pressure"
        if _words(path) == ["0"]:
            says = f"it is switched off for {context.site.slice_name}"
            yield warning("psi", says, f"echo 1 > {path}")
            return
    yield ok("psi", "the kernel keeps pressure")


def kernel_files(context: Context) -> Iterator[Finding]:
    """Files that came with a kernel: cgroup.kill (5.14), memory.peak (5.19), user xattrs (5.7)."""
    mount = context.site.mount
    if mount is None:
        return
    release = " ".join(_lines(f"{context.host.procfs}/sys/kernel/osrelease")) or "unknown"
    match = _VERSION.match(release)
    version = (int(match[1]), int(match[2])) if match else _NEWEST
    if version < (5, 7):
        says = f"Linux {release} has none on cgroups; workers have no metadata and no health"
        yield warning("xattrs", says, "use Linux 5.7 or later")
    some = _with_file(mount, "cgroup.events", context)
    if version >= (5, 14) if some is None else os.path.exists(f"{some}/cgroup.kill"):
        yield ok("cgroup.kill", "the kernel kills whole cgroups")
    else:
        says = f"Linux {release} has none; workers are killed process by process"
        yield warning("cgroup.kill", says, "use Linux 5.14 or later")
    accounted = _with_file(mount, "memory.current", context)
    if accounted is not None:
        yield from _memory_files(accounted, release, context.host)


def _memory_files(cgroup: str, release: str, host: Host) -> Iterator[Finding]:
    if os.path.exists(f"{cgroup}/memory.peak"):
        yield ok("memory.peak", "the kernel keeps the peak of memory")
    else:
        says = f"Linux {release} has none; worker_memory_peak_bytes is missing"
        yield warning("memory.peak", says, "use Linux 5.19 or later")
    if os.path.exists(f"{cgroup}/memory.swap.max"):
        yield ok("swap", "swap is accounted")
    elif len(_lines(f"{host.procfs}/swaps")) < 2:
        yield ok("swap", "swap is not accounted, and there is none")
    else:
        says = "swap is not accounted; a limit of memory only moves a worker into it"
        yield warning("swap", says, "boot with swapaccount=1")


def _limits_of(missing: Iterable[str]) -> str:
    return ", ".join(_LIMITS[name] for name in missing)


def _enabling(missing: Iterable[str]) -> str:
    if "memory" in missing:
        return "boot with cgroup_enable=memory, or a kernel that was built with it"
    return "use a kernel that was built with it; a container gets what its host delegates"


def _delegating(host: Host) -> str:
    if host.systemd:
        return (
            "systemctl edit user@.service as root: [Service] Delegate=cpu cpuset io memory pids; "
            "then log in anew"
        )
    return "have root enable them in the cgroup.subtree_control of each cgroup above"


def _enabled(nearest: str, base: str, slice_name: str) -> str:
    if nearest != f"{base}/{slice_path(slice_name)}":
        return f"{slice_name} is not there yet; the first start makes it"
    enabled = [word for word in _words(f"{nearest}/cgroup.subtree_control") if word in _LIMITS]
    return f"{slice_name} hands down {', '.join(sorted(enabled)) or 'nothing yet'}"


def _base(mount: str, host: Host) -> str:
    """The directory in which the worker slice is, or will be."""
    if host.uid == 0:
        return mount
    if host.systemd:
        return f"{mount}/user.slice/user-{host.uid}.slice/user@{host.uid}.service"
    return base_of(mount)


def _nearest(base: str, path: str) -> str:
    """The cgroup `path` below `base`, or what is there of the way to it."""
    while path and not os.path.isdir(f"{base}/{path}"):
        path = path.rpartition("/")[0]
    return f"{base}/{path}".rstrip("/")


def _with_file(mount: str, file: str, context: Context) -> str | None:
    """Some cgroup, not the root, that has `file`: the worker slice, or one right below the root."""
    names = [slice_path(context.site.slice_name)]
    with os.scandir(mount) as entries:
        names += sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    paths = (f"{mount}/{name}" for name in names)
    return next((path for path in paths if os.path.exists(f"{path}/{file}")), None)


def _mountinfo(host: Host) -> list[list[str]]:
    """The lines of mountinfo as fields, see proc_pid_mountinfo(5)."""
    return [line.split(" ") for line in _lines(f"{host.procfs}/self/mountinfo")]


def _v1_controllers(mountinfo: Iterable[list[str]]) -> list[str]:
    """The controllers that mounts of cgroup v1 have taken."""
    taken: set[str] = set()
    for fields in mountinfo:
        _, _, source = " ".join(fields).partition(" - ")
        kind, _, options = source.partition(" ")
        if kind == "cgroup":
            taken.update(options.split(" ")[-1].split(","))
    return sorted(name for name in taken if name in {*_LIMITS, "blkio", "cpuacct"})


def _is_read_only(mountinfo: Iterable[list[str]], mount: Mount) -> bool:
    options = [fields[5] for fields in mountinfo if len(fields) > 5 and fields[4] == mount.path]
    return bool(options) and "ro" in options[-1].split(",")


def _other_pids(mount: Mount) -> bool:
    return "0" in _words(f"{mount.path}/cgroup.procs")


def _words(path: str) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: str) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
