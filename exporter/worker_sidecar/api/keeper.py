"""Keeps the workers as workers.yaml has them: at the start, and at every SIGHUP."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from worker_exporter import log
from worker_exporter.web.thread import DaemonThread
from worker_sidecar.api import notify
from worker_sidecar.api.host import Current, Host
from worker_sidecar.errors import InputOutputError, SidecarError
from worker_sidecar.health import Prober
from worker_sidecar.launch.launcher import Status
from worker_sidecar.metrics import STARTED, SidecarMetrics
from worker_sidecar.reconcile import Did, Need, Outcome, Result, apply
from worker_sidecar.spec import Config, Declared

RETRY = (5.0, 10.0, 30.0, 60.0)
"""Seconds until an apply is tried again that systemd, Docker or the kernel did not answer."""

Name = tuple[str, str]


class Keeper:
    """Applies the configuration in force, and takes a new one over. Belongs to the event loop."""

    def __init__(
        self,
        current: Current,
        load: Callable[[], Host],
        prober: Prober,
        metrics: SidecarMetrics,
    ) -> None:
        """`load` reads the configuration and opens its control; it blocks, and may raise."""
        self._current = current
        self._load = load
        self._prober = prober
        self._metrics = metrics
        self._thread = DaemonThread("apply")
        self._wanted = asyncio.Event()
        self._undeclared: dict[Name, Declared] = {}
        self.trouble: str | None = None
        metrics.declare(current.host.config.services)

    def reload(self) -> None:
        """Read the configuration again and apply it, soon."""
        self._wanted.set()

    def started(self, declared: Declared) -> None:
        """A worker was started; if it has a probe, it is asked from now on."""
        spec = declared.spec
        if self._current.host.config.find(spec.service, spec.instance) is None:
            self._undeclared[spec.service, spec.instance] = declared
            self._probe()

    async def run(self) -> None:
        """Apply now, and again whenever it is needed, until cancelled."""
        await self._apply()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            notify.reloading()
            taken = await self._take_over()
            notify.ready()
            if taken:
                await self._apply()

    async def _take_over(self) -> bool:
        """Put the configuration in force that the file has now, if it can be used."""
        try:
            host = await self._thread.run(self._load)
        except Exception as error:
            reason = str(error) if isinstance(error, SidecarError) else log.describe(error)["err"]
            log.error(
                "workers.yaml is unusable, the last good one stays in force",
                err=" ".join(reason.split()),
            )
            return False
        self._current.host = host
        self._metrics.declare(host.config.services)
        self._undeclared = {
            name: declared
            for name, declared in self._undeclared.items()
            if name[0] in host.config.services and host.config.find(*name) is None
        }
        self._probe()
        log.info("workers.yaml was read again", workers=len(host.config.workers))
        return True

    async def _apply(self) -> None:
        """Apply, until what has to answer has answered, or a new configuration is wanted."""
        tries = 0
        while await self._applied():
            wait = RETRY[min(tries, len(RETRY) - 1)]
            tries += 1
            log.warn("apply is tried again", seconds=wait)
            try:
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
                return
            except TimeoutError:
                continue

    async def _applied(self) -> bool:
        """Apply once; whether another try may help."""
        host = self._current.host
        try:
            outcome, found = await self._thread.run(lambda: self._make_it_so(host))
        except Exception as error:
            self.trouble = " ".join(f"the workers cannot be applied: {error}".split())
            log.error("workers.yaml could not be applied", **log.describe(error))
            return isinstance(error, InputOutputError)
        self.trouble = None
        log.info("workers.yaml was applied", **_counts(outcome))
        self._undeclared = {**found, **self._undeclared}
        self._probe()
        return any(isinstance(result.error, InputOutputError) for result in outcome.failed)

    def _make_it_so(self, host: Host) -> tuple[Outcome, dict[Name, Declared]]:
        outcome = apply(host.config, host.control, tell=self._tell)
        return outcome, undeclared(host.config, host.control.list())

    def _tell(self, result: Result) -> None:
        """Log and count what became of one worker."""
        step = result.step
        if result.error is not None:
            message = " ".join(str(result.error).split())
            log.error(
                "worker not started", service=step.service, instance=step.instance, err=message
            )
            if step.need is Need.START:
                self._metrics.launched(step.service, result.error.kind)
        elif result.did is Did.STARTED:
            log.info("worker started", service=step.service, instance=step.instance)
            self._metrics.launched(step.service, STARTED)
            self._metrics.launch_took(result.seconds, step.service)
        elif step.need is Need.REPLACEMENT:
            log.warn(
                "worker differs from workers.yaml; replace it with: worker-sidecar apply --replace",
                service=step.service,
                instance=step.instance,
                differs="; ".join(step.why),
            )

    def _probe(self) -> None:
        self._prober.update([*self._current.host.config.workers, *self._undeclared.values()])


def _counts(outcome: Outcome) -> dict[str, int]:
    """How many workers came to each end."""
    return dict(Counter(result.did.value for result in outcome.results))


def undeclared(config: Config, statuses: Sequence[Status]) -> dict[Name, Declared]:
    """Living workers of declared services that somebody started beside the declared ones.

    What they were started with is guessed from what can be seen of them (model, port); where that
    is not enough, the worker is left out, and not asked for its health.
    """
    found = {}
    for status in statuses:
        name = (status.service, status.instance)
        if not status.alive or status.service not in config.services or config.find(*name):
            continue
        known = config.services[status.service].parameters
        seen = {key: value for key, value in status.metadata.items() if key in known}
        try:
            found[name] = config.request(*name, seen)
        except SidecarError as error:
            log.debug("worker is not probed", worker=status.name, err=str(error))
    return found
