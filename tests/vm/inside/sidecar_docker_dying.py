"""A sidecar that is killed in the middle: `python sidecar_docker_dying.py SOCKET ACTION MOMENT`."""

import os
import signal
import sys

from worker_sidecar.launch.docker import DockerLauncher
from worker_sidecar.launch.docker.daemon import Daemon
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site

SITE = Site("worker.slice", "/sys/fs/cgroup", "/run/worker-sidecar", "/var/log/worker-sidecar")


def die(*_: object) -> None:
    """As the out-of-memory killer would have it."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(socket: str, action: str, moment: str) -> None:
    """Do `action` to half/1; `moment` names the request to the daemon at which to die."""
    name = moment.removeprefix("after-")
    real = getattr(Daemon, name)

    def then_die(self: Daemon, container: str) -> None:
        real(self, container)
        die()

    setattr(Daemon, name, die if name == moment else then_die)
    launcher = DockerLauncher(SITE, socket)
    if action == "start":
        launcher.start(WorkerSpec("half", "1", ("sleep", "1000"), image="tools"))
    else:
        launcher.stop("half", "1", 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
