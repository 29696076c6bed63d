"""Threads that block in the event loop's place, and never hold the exit."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from worker_sidecar.api.errors import BusyError

T = TypeVar("T")


class Threads:
    """A fixed number of threads that run jobs, and a bounded number of jobs that wait for one.

    Daemons, unlike an executor's: a stop that still waits for its worker, or a manager that does
    not answer, is left behind when the process ends.
    """

    def __init__(self, name: str, count: int, waiting: int) -> None:
        self._name = name
        self._most = count + waiting
        self._held = 0
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            name_of_thread = f"{name}-{number}"
            threading.Thread(target=self._run, name=name_of_thread, daemon=True).start()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Belongs to one event loop.

        A cancelled caller takes it off the queue if it has not begun. Raises BusyError when too
        many jobs wait.
        """
        if self._held >= self._most:
            raise BusyError(f"too many requests wait for a {self._name} thread; ask again later")
        self._held += 1
        future: Future[T] = Future()
        # Not when its caller is cancelled: the thread is held until the job has ended. And before
        # the caller hears of that: it may come again at once.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _tell(loop, self._release))
        waiting = asyncio.wrap_future(future)
        self._jobs.put((future, work))
        return await waiting

    def close(self) -> None:
        """Let the threads end after the jobs that are queued."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _release(self) -> None:
        self._held -= 1

    def _run(self) -> None:
        while job := self._jobs.get():
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)


def _tell(loop: asyncio.AbstractEventLoop, news: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(news)
    except RuntimeError:
        return  # the loop is closed: nobody counts any more
