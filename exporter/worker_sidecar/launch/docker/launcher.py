"""Workers as containers of a Docker daemon, each in a slice or directory of its own."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from worker_sidecar.errors import InputError, NotFoundError, SidecarError
from worker_sidecar.launch.docker import ending, shell, starting, sweep, workers
from worker_sidecar.launch.docker.daemon import SOCKET, connect
from worker_sidecar.launch.docker.output import ContainerLog
from worker_sidecar.launch.launcher import GRACE, Ended, Status, WorkerSpec
from worker_sidecar.launch.site import Site

_AT_ONCE = 16
"""Workers that down() stops at the same time."""


class DockerLauncher:
    """Runs each worker as the container `<stem>-<service>-<instance>` of the daemon on `socket`.

    With the daemon's systemd driver it lies in `<stem>-<service>-<instance>.slice`, with its
    cgroupfs driver in a plain directory, see place.py. That carries the metadata and all limits.
    The container carries those that Docker has as well: where one is taken away the other holds,
    also for a container that the daemon itself starts again after a reboot.

    The daemon is asked anew each time: it may be another one after an update. Its containers'
    labels and cgroups are all that is known about them.
    """

    name = "docker"

    def __init__(self, site: Site, socket: str = SOCKET) -> None:
        self._site = site
        self._socket = socket

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        """See Launcher.commands."""
        daemon = connect(self._socket)
        recipe = starting.recipe_of(self._site, daemon, spec)
        owner = starting.owner_of_secrets(daemon, recipe)
        return shell.command_lines(self._site, recipe, owner, self._socket)

    def start(self, spec: WorkerSpec) -> Status:
        """See Launcher.start. An image that is not on the host is an InputError: nothing pulls."""
        container = starting.start(self._site, connect(self._socket), spec)
        return workers.status_of(self._site, container)

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        """See Launcher.stop. The polite signal is the image's own; the grace is whole seconds."""
        return ending.stop(self._site, connect(self._socket), service, instance, grace)

    def kill(self, service: str, instance: str) -> Ended:
        """See Launcher.kill."""
        return ending.kill(self._site, connect(self._socket), service, instance)

    def status(self, service: str, instance: str) -> Status:
        """See Launcher.status."""
        found = workers.known(connect(self._socket), self._site, service, instance)
        return workers.status_of(self._site, found)

    def list(self) -> Sequence[Status]:
        """See Launcher.list."""
        found = workers.every(connect(self._socket), self._site)
        return [workers.status_of(self._site, container) for container in found]

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> ContainerLog:
        """See Launcher.logs. They are the daemon's, and go with the container."""
        if lines < 0:
            raise InputError(f"{lines} lines of a log cannot be read; give 0 or more")
        daemon = connect(self._socket)
        found = workers.known(daemon, self._site, service, instance)
        return daemon.logs(found.id, lines, found.since, follow=follow)

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        """See Launcher.down. What lives in the slice and is no container of ours stays."""

        def stop(status: Status) -> Ended | SidecarError:
            try:
                return self.stop(status.service, status.instance, grace)
            except NotFoundError:
                return Ended(status.service, status.instance, forced=False)
            except SidecarError as error:
                return error

        with ThreadPoolExecutor(_AT_ONCE, "docker-stop") as threads:
            outcomes = [*threads.map(stop, self.list())]
        for outcome in outcomes:
            if isinstance(outcome, SidecarError):
                raise outcome
        sweep.clear_all(self._site)
        return [outcome for outcome in outcomes if isinstance(outcome, Ended)]
