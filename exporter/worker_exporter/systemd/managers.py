"""The managers of systemd that can be reached, asked beside a scrape and under its deadline."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future

from worker_exporter import log
from worker_exporter.cgroup.identity import manager_path
from worker_exporter.systemd.client import Client, Question
from worker_exporter.systemd.thread import LoopThread
from worker_exporter.systemd.unit import Report

_SLACK = 0.25
"""Seconds beyond the deadline until a thread that does not answer is left alone."""

Reports = Mapping[str, Report | None]


def manager_addresses(uid: int) -> dict[str, str]:
    """The addresses of the buses where the system's manager and that of the user `uid` are, by
    the cgroup path that their units' slices lie in.
    """
    system = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    return {
        "": system or "unix:path=/run/dbus/system_bus_socket",
        manager_path(uid): f"unix:path=/run/user/{uid}/bus",
    }


class Managers:
    """The managers by the cgroup path that their units' slices lie in: "" is the system's.

    `addresses` are those of their buses, `patience` is for attempts beside, in seconds, and
    `clock` (monotonic, in seconds) tells when to try one again that failed. A user's manager that
    does not run is left out of all reports. Not to be used by two threads at once.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._clients = {
            path: Client(path, address, patience, clock) for path, address in addresses.items()
        }
        self._thread: LoopThread | None = None
        self._answer: Future[Reports] | None = None
        self._deadline = 0.0
        self._is_stuck = False

    def ask(
        self,
        alive: Mapping[str, Mapping[str, int]],
        is_worker: Callable[[str], bool],
        patience: float | None = None,
    ) -> None:
        """Begin to ask every manager; returns at once. reports() will wait for `patience` seconds
        from now at most, unless given those of this object.

        Besides the states of all units, wanted are details of those in `alive` (by manager and
        name, with the inodes of their cgroups), and of units that failed, or are on their way up
        or down, if `is_worker` says that their cgroup's path would be a worker's. It is called in
        another thread, also after the reports.
        """
        if not self._clients:
            return
        # The event loop's clock is this one.
        self._deadline = time.monotonic() + (self._patience if patience is None else patience)
        question = Question(alive, is_worker, self._deadline)
        try:
            self._answer = self._running_thread().submit(self._ask_all(question))
        except (OSError, RuntimeError) as error:
            log.error("no thread can be started to ask systemd", **log.describe(error))
            self._answer = Future()
            self._answer.set_result(dict.fromkeys(self._clients))

    def reports(self) -> Reports:
        """What the managers said since ask(), by cgroup path; None of one that failed.

        Waits for it as long as ask() said.
        """
        if self._answer is None:
            return {}
        try:
            reports = self._answer.result(max(0.0, self._deadline + _SLACK - time.monotonic()))
        except (TimeoutError, CancelledError):
            self._is_stuck = True
            return dict.fromkeys(self._clients)
        self._is_stuck = False
        return reports

    def can_ask(self, path: str) -> bool:
        """Whether the manager by this cgroup path is one of these."""
        return path in self._clients

    def is_late(self, path: str) -> bool:
        """Whether the manager by this cgroup path failed in that it said nothing in time."""
        return self._is_stuck or self._clients[path].is_late

    def close(self) -> None:
        """End the thread and its connections, without waiting for them."""
        if self._thread is not None:
            self._thread.close(self._close_all())
            self._thread = None

    def _running_thread(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread("systemd")
        return self._thread

    async def _ask_all(self, question: Question) -> Reports:
        present = {}
        for path, client in self._clients.items():
            if client.is_absent:
                client.forget()
            else:
                present[path] = client
        reports = await asyncio.gather(*(_ask(each, question) for each in present.values()))
        return dict(zip(present, reports, strict=True))

    async def _close_all(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients.values()))


async def _ask(client: Client, question: Question) -> Report | None:
    try:
        return await client.report(question)
    except Exception as error:
        log.error("asking systemd failed", **log.describe(error))
        return None
