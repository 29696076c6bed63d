"""The workers of this host, as the configuration in force and the launcher have them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker_sidecar.api.models import Worker
from worker_sidecar.control import Control
from worker_sidecar.errors import NotFoundError
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.reconcile import absent
from worker_sidecar.spec import Config


@dataclass(frozen=True, slots=True)
class Host:
    """A configuration, and the control that was opened for it. Its methods block, but for `place`:
    the directory of the cgroup of a living worker (service, instance).
    """

    config: Config
    control: Control
    place: Callable[[str, str], str | None]

    def workers(self) -> list[Worker]:
        """All workers there are, and the declared ones that are not there, by name."""
        statuses = self.control.list()
        there = [
            Worker.of(status, declared=self._declares(status.service, status.instance))
            for status in statuses
        ]
        missing = absent(self.config, statuses, self.control.stopped.names())
        return sorted(
            [*there, *(Worker.absent(*name, why) for name, why in missing)],
            key=lambda worker: (worker.service, worker.instance),
        )

    def worker(self, service: str, instance: str) -> Worker:
        """One of them. Raises NotFoundError."""
        try:
            status = self.control.status(service, instance)
        except NotFoundError:
            missing = dict(absent(self.config, (), self.control.stopped.names()))
            if (service, instance) not in missing:
                raise
            return Worker.absent(service, instance, missing[service, instance])
        return Worker.of(status, declared=self._declares(service, instance))

    def start(self, spec: WorkerSpec, *, strict: bool) -> Worker:
        """Start one; see Control.start."""
        status = self.control.start(spec, strict=strict)
        return Worker.of(status, declared=self._declares(spec.service, spec.instance))

    def desired(self) -> Iterator[tuple[str, str, int]]:
        """The declared workers with 1, or 0 for one that was stopped on purpose; none where no
        exporter could see whether they live.
        """
        if not self.control.monitored:
            return
        stopped = self.control.stopped.names()
        for declared in self.config.workers:
            name = (declared.spec.service, declared.spec.instance)
            yield (*name, 0 if name in stopped else 1)

    def _declares(self, service: str, instance: str) -> bool:
        return self.config.find(service, instance) is not None


@dataclass(slots=True)
class Current:
    """The host as it is seen now; replaced as a whole, in the event loop alone."""

    host: Host
