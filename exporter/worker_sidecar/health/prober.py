"""When which worker is asked, and what becomes of the answers."""

import asyncio
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker_exporter import log
from worker_sidecar.health import place as places
from worker_sidecar.health.answer import Answer
from worker_sidecar.health.command import Command, CommandProbe
from worker_sidecar.health.net import NetworkProbes
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.spec import Declared, Probe

_SPREAD = 10.0
"""Seconds over which first probes are spread, however long their interval is."""


@dataclass(frozen=True, slots=True)
class _Target:
    """One worker to ask; `command` where that is how."""

    service: str
    instance: str
    probe: Probe
    command: Command | None

    @property
    def name(self) -> str:
        return f"{self.service}/{self.instance}"


class Prober:
    """Asks every worker that has a probe, each in a task of its own, as long as run() runs.

    A worker is asked once an interval, at a moment that its name decides, so that they spread; one
    that is still being asked is not asked again. Only living workers are asked: `place` gives the
    cgroup directory of one (service, instance), None where it does not live; it is called in the
    event loop and must not block (`living(site)` does not).
    """

    def __init__(
        self,
        workers: Sequence[Declared],
        place: Callable[[str, str], str | None],
        metrics: SidecarMetrics,
    ) -> None:
        self._place = place
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._watching: dict[_Target, asyncio.Task[None]] = {}
        self._targets: frozenset[_Target] = frozenset()
        self.update(workers)

    def update(self, workers: Sequence[Declared]) -> None:
        """From now on these are the workers; those whose probe is as before notice nothing.

        Can be called from any thread.
        """
        self._targets = frozenset(_targets(workers))
        self._metrics.probing({target.service for target in self._targets})
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def run(self) -> None:
        """Ask, until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with NetworkProbes() as network:
            try:
                while True:
                    self._changed.clear()
                    await self._adjust(network)
                    await self._changed.wait()
            finally:
                await _cancel(self._watching.values())

    async def _adjust(self, network: NetworkProbes) -> None:
        targets = self._targets
        gone = [self._watching.pop(target) for target in self._watching.keys() - targets]
        await _cancel(gone)
        for target in targets - self._watching.keys():
            watch = _Watch(target, network, self._place, self._metrics)
            self._watching[target] = asyncio.create_task(watch.run(), name=f"probe {target.name}")


class _Watch:
    """The asking of one worker."""

    def __init__(
        self,
        target: _Target,
        network: NetworkProbes,
        place: Callable[[str, str], str | None],
        metrics: SidecarMetrics,
    ) -> None:
        self._target = target
        self._network = network
        self._place = place
        self._metrics = metrics
        self._said: bool | None = None
        self._refused: int | None = None
        self._command = CommandProbe(target.command, target.name) if target.command else None

    async def run(self) -> None:
        """Once an interval, until cancelled."""
        interval = self._target.probe.interval
        due = time.monotonic() + _share(self._target.name) * min(interval, _SPREAD)
        try:
            while True:
                await asyncio.sleep(due - time.monotonic())
                await self._look()
                missed = (time.monotonic() - due) / interval
                due += max(1, math.ceil(missed)) * interval
        finally:
            if self._command is not None:
                self._command.close()

    async def _look(self) -> None:
        """Ask once, if the worker lives. No fault ends the asking."""
        try:
            where = self._place(self._target.service, self._target.instance)
            directory = None if where is None else places.open_directory(where)
            if directory is None:
                self._said = None
                return
            try:
                self._tell(directory, await self._ask())
            finally:
                os.close(directory)
        except Exception as error:
            log.error("a probe failed", worker=self._target.name, **log.describe(error))

    async def _ask(self) -> Answer:
        began = time.monotonic()
        answer = await self._answer()
        self._metrics.probe_took(time.monotonic() - began, self._target.service)
        self._metrics.probed(self._target.service, answer.result)
        return answer

    async def _answer(self) -> Answer:
        probe = self._target.probe
        try:
            if self._command is not None:
                return await self._command.ask(probe.timeout)
            if probe.kind == "http":
                return await self._network.http(probe.target, probe.timeout)
            return await self._network.tcp(probe.target, probe.timeout)
        except TimeoutError:
            return Answer("timeout", f"no answer within {probe.timeout:g} s")
        except Exception as error:
            log.error("a probe failed", worker=self._target.name, **log.describe(error))
            return Answer("error", type(error).__name__)

    def _tell(self, directory: int, answer: Answer) -> None:
        """Write the answer on the cgroup; log it where it is another than the last."""
        interval = self._target.probe.interval
        try:
            places.write(directory, ready=answer.ready, time=time.time(), interval=interval)
            self._refused = None
        except OSError as error:
            if error.errno != self._refused:
                self._refused = error.errno
                log.error("health cannot be written", worker=self._target.name, err=error.strerror)
        if answer.ready == self._said:
            return
        self._said = answer.ready
        log.info(
            "worker is ready" if answer.ready else "worker is not ready",
            service=self._target.service,
            instance=self._target.instance,
            probe=self._target.probe.kind,
            reason=answer.reason,
        )


def _targets(workers: Iterable[Declared]) -> Iterable[_Target]:
    for worker in workers:
        if worker.probe is not None:
            spec = worker.spec
            yield _Target(spec.service, spec.instance, worker.probe, _command(worker))


def _command(worker: Declared) -> Command | None:
    if worker.probe is None or worker.probe.kind != "command":
        return None
    spec = worker.spec
    env: Mapping[str, str] = spec.environment
    return Command(worker.probe.argv, tuple(sorted(env.items())), spec.user, spec.directory)


def _share(name: str) -> float:
    """From 0 to 1, always the same for one name, spread evenly over many."""
    return zlib.crc32(name.encode()) / 2**32


async def _cancel(tasks: Iterable["asyncio.Task[None]"]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
