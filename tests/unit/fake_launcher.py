"""A launcher whose workers are entries of a dictionary: for what is above every launcher."""

import threading
from collections.abc import Callable, Mapping, Sequence

from worker_sidecar.errors import AlreadyRunningError, NotFoundError, SidecarError
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import GRACE, Ended, LogStream, State, Status, WorkerSpec

Key = tuple[str, str]


class FakeLog:
    """Output that is already there."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        content, self._content = self._content, b""
        return content

    def close(self) -> None:
        self._content = b""


class FakeLauncher:
    """Keeps what it was asked for in `calls`. `fails` are errors by service/instance, `unapplied`
    what it says of every new worker, and `before_start` is called as a start begins.
    """

    def __init__(
        self, name: str = "fake", workers: Sequence[Status] = (), unapplied: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.workers: dict[Key, Status] = {(w.service, w.instance): w for w in workers}
        self.unapplied = unapplied
        self.calls: list[str] = []
        self.fails: dict[str, SidecarError] = {}
        self.hangs: SidecarError | None = None
        self.before_start: Callable[[WorkerSpec], None] = lambda spec: None
        self.specs: dict[str, WorkerSpec] = {}
        self._lock = threading.Lock()

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        self._called("commands", spec.name)
        return [f"start {spec.name}"]

    def start(self, spec: WorkerSpec) -> Status:
        self._called("start", spec.name)
        self.before_start(spec)
        key = (spec.service, spec.instance)
        with self._lock:
            if key in self.workers and self.workers[key].alive:
                raise AlreadyRunningError(f"{spec.name} is already running")
            self.specs[spec.name] = spec
            self.workers[key] = running(
                *key,
                launcher=self.name,
                unapplied=self.unapplied,
                metadata=spec.attributes,
                declaration=encode(spec),
            )
        return self.workers[key]

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        self._called(f"stop({grace:g})", f"{service}/{instance}")
        self._remove(service, instance)
        return Ended(service, instance, forced=False)

    def kill(self, service: str, instance: str) -> Ended:
        self._called("kill", f"{service}/{instance}")
        self._remove(service, instance)
        return Ended(service, instance, forced=True)

    def status(self, service: str, instance: str) -> Status:
        self._called("status", f"{service}/{instance}")
        try:
            return self.workers[service, instance]
        except KeyError:
            raise NotFoundError(f"no worker {service}/{instance} with {self.name}") from None

    def list(self) -> Sequence[Status]:
        self._called("list", "")
        return [self.workers[key] for key in sorted(self.workers)]

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        self._called("logs", f"{service}/{instance}")
        if (service, instance) not in self.workers:
            raise NotFoundError(f"no output of {service}/{instance}")
        return FakeLog(f"{self.name}: {lines} {follow}\n".encode())

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        self._called(f"down({grace:g})", "")
        ended = [Ended(*key, forced=False) for key in sorted(self.workers)]
        self.workers.clear()
        return ended

    def changes(self) -> Sequence[str]:
        """The calls that change something."""
        return [call for call in self.calls if call.split("(")[0].split()[0] in CHANGING]

    def _called(self, what: str, worker: str) -> None:
        with self._lock:
            self.calls.append(f"{what} {worker}".strip())
        if self.hangs is not None:
            raise self.hangs
        if worker in self.fails:
            raise self.fails[worker]

    def _remove(self, service: str, instance: str) -> None:
        with self._lock:
            if self.workers.pop((service, instance), None) is None:
                raise NotFoundError(f"no worker {service}/{instance} with {self.name}")


CHANGING = ("start", "stop", "kill", "down")


def running(
    service: str,
    instance: str,
    *,
    launcher: str = "fake",
    state: State = State.RUNNING,
    unapplied: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
    declaration: str | None = None,
    result: str | None = None,
) -> Status:
    """A worker as a launcher has it."""
    return Status(
        service,
        instance,
        launcher,
        state,
        cgroup=f"worker.slice/{service}/{instance}",
        unapplied=unapplied,
        metadata=metadata or {},
        declaration=declaration,
        result=result,
    )
