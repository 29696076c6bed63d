"""The end of workers: always through the daemon, which would start again what was killed else."""

from collections.abc import Callable, Sequence

from worker_sidecar.errors import KillFailedError, RefusedError
from worker_sidecar.launch import cgroup, secrets, spawn
from worker_sidecar.launch.docker import parent, workers
from worker_sidecar.launch.docker.container import Container, container_of
from worker_sidecar.launch.docker.daemon import Daemon, DaemonError
from worker_sidecar.launch.docker.drivers import directory_of, mount_of
from worker_sidecar.launch.docker.lock import locked
from worker_sidecar.launch.launcher import Ended
from worker_sidecar.launch.site import Site

_KILL = 9


def stop(site: Site, daemon: Daemon, service: str, instance: str, grace: float) -> Ended:
    """See Launcher.stop."""

    def ask(container: Container) -> None:
        daemon.stop(container.id, grace)

    return _end(site, daemon, service, instance, ask)


def kill(site: Site, daemon: Daemon, service: str, instance: str) -> Ended:
    """See Launcher.kill."""

    def ask(container: Container) -> None:
        daemon.kill(container.id)

    return _end(site, daemon, service, instance, ask)


def remove(site: Site, daemon: Daemon, container: Container) -> None:
    """Remove the container, whether it runs or not, its cgroup and its secrets.

    Raises KillFailedError when a process in it does not end. To be called with the lock held.
    """
    directory = directory_of(site, container.place)
    _asked(lambda _: daemon.remove(container.id), container, directory)
    if not cgroup.wait_empty(directory, cgroup.KILL_PATIENCE):
        raise _unkillable(container, directory)
    parent.clear(site, container.place)
    secrets.remove(spawn.credentials(site, container.service, container.instance))


def _end(
    site: Site,
    daemon: Daemon,
    service: str,
    instance: str,
    ask: Callable[[Container], None],
) -> Ended:
    # with the lock, for a start that is under way; without it for the end, which may take long
    with locked(site, service, instance):
        container = workers.find(daemon, site, service, instance)
        if container is None:
            return _clear_left(site, service, instance)
    _asked(ask, container, directory_of(site, container.place))
    ended = _how(site, daemon, container)
    with locked(site, service, instance):
        if daemon.inspect(container.id) is not None:
            remove(site, daemon, container)
    return ended


def _asked(ask: Callable[[Container], None], container: Container, directory: str) -> None:
    try:
        ask(container)
    except DaemonError as error:
        if cgroup.stuck(directory):
            raise _unkillable(container, directory) from error
        raise


def _how(site: Site, daemon: Daemon, container: Container) -> Ended:
    """How the run ended that was just ended."""
    answer = daemon.inspect(container.id)
    last = answer and container_of(answer, site.slice_name, mount_of(site))
    if not last:
        return Ended(container.service, container.instance, forced=False)
    forced = container.alive and last.exit_status == _KILL and last.result == "signal"
    return Ended(last.service, last.instance, forced, last.result, last.exit_status)


def _clear_left(site: Site, service: str, instance: str) -> Ended:
    """The end of what a killed start or stop left, where there is a cgroup without a container."""
    left = parent.left_of(site, service, instance)
    if not left:
        raise workers.unknown(service, instance)
    for place in left:
        directory = directory_of(site, place)
        if cgroup.populated(directory):
            raise RefusedError(
                f"what runs in {directory} was not started by this sidecar: stop it with what did "
                f"(processes {_listed(cgroup.pids(directory))})"
            )
        parent.clear(site, place)
    secrets.remove(spawn.credentials(site, service, instance))
    return Ended(service, instance, forced=False)


def _unkillable(container: Container, directory: str) -> KillFailedError:
    asleep = cgroup.stuck(directory)
    who = _listed(asleep or cgroup.pids(directory)) or "unknown"
    why = ", uninterruptible in the kernel (state D)" if asleep else ""
    return KillFailedError(
        f"{container.service}/{container.instance} is a zombie worker: Docker cannot end "
        f"processes {who} in {directory}{why}"
    )


def _listed(pids: Sequence[int]) -> str:
    return ", ".join(map(str, pids[:10]))
