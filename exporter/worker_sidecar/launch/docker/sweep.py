"""Removes what is left below a slice when all its workers were stopped."""

import os
from collections.abc import Sequence
from contextlib import suppress

from worker_exporter.cgroup.identity import slice_path
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.docker import slices
from worker_sidecar.launch.docker.drivers import mount_of, systemd_runs
from worker_sidecar.launch.site import Site


def clear_all(site: Site) -> None:
    """Remove every slice and directory below the site's slice in which no process lives, and then
    that slice itself. Raises InputOutputError when one does not go.
    """
    mount, top = mount_of(site), slice_path(site.slice_name)
    if not systemd_runs():
        _remove_directories(f"{mount}/{top}")
        return
    _remove_slices(f"{mount}/{top}")
    slices.forget_below(site.slice_name)
    _remove_directories(f"{mount}/{site.slice_name.removesuffix('.slice')}")


def _remove_slices(directory: str) -> None:
    """The slices below first, then this one."""
    for path in _below(directory):
        if path.endswith(".slice"):
            _remove_slices(path)
    if os.path.isdir(directory) and not cgroup.populated(directory):
        slices.remove(os.path.basename(directory))


def _remove_directories(root: str) -> None:
    """The workers of each service, the service, then the root."""
    services = _below(root)
    workers = [worker for service in services for worker in _below(service)]
    for directory in (*workers, *services, root):
        if os.path.isdir(directory) and not cgroup.populated(directory):
            cgroup.remove(directory)


def _below(directory: str) -> Sequence[str]:
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return ()
