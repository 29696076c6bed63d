"""Workers as Docker containers, by the daemon's socket and with either cgroup driver."""

from worker_sidecar.launch.docker.drivers import driver, unavailable
from worker_sidecar.launch.docker.launcher import DockerLauncher
from worker_sidecar.launch.docker.parent import cgroup_parent
from worker_sidecar.launch.docker.place import pattern

__all__ = ["DockerLauncher", "cgroup_parent", "driver", "pattern", "unavailable"]
