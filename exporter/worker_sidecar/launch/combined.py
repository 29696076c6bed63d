"""Two launchers as one: workers with an image run in Docker, the rest as the host's processes."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from worker_exporter import log
from worker_sidecar.errors import (
    AlreadyRunningError,
    InputOutputError,
    LaunchError,
    NotFoundError,
    RefusedError,
)
from worker_sidecar.launch.declaration import image_of
from worker_sidecar.launch.launcher import (
    GRACE,
    Ended,
    Launcher,
    LogStream,
    Status,
    WorkerSpec,
)

_SLOW = 1.0
"""Seconds from which on an error of the daemon counts as silence."""

_SILENCE = 30.0
"""Seconds in which a daemon that was silent is not asked again where we can do without it."""

Answer = TypeVar("Answer")


class Combined:
    """`process` starts what has no image, `docker` what has one; None: `no_docker` says why not.

    A worker is found by its name with either. Docker's daemon is asked only where its answer
    counts, and where it does not answer that costs no worker of the other launcher.
    """

    def __init__(
        self,
        process: Launcher,
        docker: Launcher | None,
        no_docker: str = "no Docker daemon is on this host",
    ) -> None:
        self._process = process
        self._docker = docker
        self._no_docker = no_docker
        self._silent_until = 0.0

    @property
    def name(self) -> str:
        """See Launcher.name: the one for workers without an image."""
        return self._process.name

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        """See Launcher.commands."""
        if spec.image is None:
            return self._process.commands(spec)
        return self._for_image(spec).commands(spec)

    def start(self, spec: WorkerSpec) -> Status:
        """See Launcher.start; a worker of the same name with the other launcher is running, too."""
        if spec.image is None:
            self._refuse_container(spec)
            return self._process.start(spec)
        docker = self._for_image(spec)
        other = _known(self._process, spec.service, spec.instance)
        if other is not None and other.alive and not _is_container(other):
            raise _running(other)
        return docker.start(spec)

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        """See Launcher.stop."""
        return self._holder(service, instance).stop(service, instance, grace)

    def kill(self, service: str, instance: str) -> Ended:
        """See Launcher.kill."""
        return self._holder(service, instance).kill(service, instance)

    def status(self, service: str, instance: str) -> Status:
        """See Launcher.status."""
        return self._holder(service, instance).status(service, instance)

    def list(self) -> Sequence[Status]:
        """See Launcher.list. A daemon that does not answer is a warning."""
        if self._docker is None:
            return self._process.list()
        with ThreadPoolExecutor(1, "docker-list") as thread:
            asked = thread.submit(self._unless_silent, self._docker.list)
            processes = self._process.list()
        try:
            containers = asked.result()
        except LaunchError as error:
            log.warn("containers are missing from the list", err=str(error))
            return processes
        # on plain cgroups a container's directory looks like a worker's
        others = [status for status in processes if not _is_container(status)]
        return sorted([*others, *containers], key=lambda status: (status.service, status.instance))

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        """See Launcher.logs."""
        return self._holder(service, instance).logs(service, instance, lines, follow=follow)

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        """See Launcher.down. Containers first: their slices must not go from under the daemon."""
        if self._docker is None:
            return self._process.down(grace)
        try:
            containers = self._docker.down(grace)
        except LaunchError:
            self._process.down(grace)
            raise
        return [*containers, *self._process.down(grace)]

    def _holder(self, service: str, instance: str) -> Launcher:
        """With whom the worker lives, else who still knows it."""
        mine = _known(self._process, service, instance)
        contained = mine is not None and _is_container(mine)
        if self._docker is None or (mine is not None and mine.alive and not contained):
            if contained:
                raise RefusedError(f"{service}/{instance} is a container: {self._no_docker}")
            return self._process
        try:
            theirs = _known(self._docker, service, instance)
        except LaunchError as error:
            if mine is None or contained:
                raise
            log.warn("Docker was not asked for the worker", service=service, err=str(error))
            return self._process
        if theirs is not None and (theirs.alive or mine is None or contained):
            return self._docker
        return self._process

    def _for_image(self, spec: WorkerSpec) -> Launcher:
        if self._docker is None:
            raise RefusedError(f"{spec.name} has an image, but {self._no_docker}")
        return self._docker

    def _refuse_container(self, spec: WorkerSpec) -> None:
        docker = self._docker
        if docker is None:
            return
        try:
            other = self._unless_silent(lambda: _known(docker, spec.service, spec.instance))
        except LaunchError as error:
            log.warn("whether a container has this name is unknown", err=str(error))
            return
        if other is not None and other.alive:
            raise _running(other)

    def _unless_silent(self, question: Callable[[], Answer]) -> Answer:
        """What the daemon answers; of one that just kept us waiting for nothing, an error at once:
        each start would wait for it, one after the other.
        """
        begun = time.monotonic()
        if begun < self._silent_until:
            raise InputOutputError("the Docker daemon did not answer a moment ago")
        try:
            return question()
        except LaunchError:
            now = time.monotonic()
            if now - begun >= _SLOW:
                self._silent_until = now + _SILENCE
            raise


def _known(launcher: Launcher, service: str, instance: str) -> Status | None:
    try:
        return launcher.status(service, instance)
    except NotFoundError:
        return None


def _is_container(status: Status) -> bool:
    return image_of(status.declaration) is not None


def _running(status: Status) -> AlreadyRunningError:
    return AlreadyRunningError(f"{status.name} is already running: {status.launcher} has it")
