"""Workers in plain cgroup directories, for hosts without systemd: <slice>/<service>/<instance>."""

from worker_sidecar.launch.cgroupfs.hierarchy import base_of, create_hierarchy, unavailable
from worker_sidecar.launch.cgroupfs.launcher import CgroupfsLauncher

__all__ = ["CgroupfsLauncher", "base_of", "create_hierarchy", "unavailable"]
