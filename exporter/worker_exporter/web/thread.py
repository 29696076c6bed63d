"""A thread that blocks in the event loop's place, and never holds the exit."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThread:
    """One thread that runs jobs in turn.

    A daemon, unlike an executor's threads: a job stuck in an unkillable read, or in an hour of
    bcrypt, is left behind when the process ends.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Queue `work`; its future can be cancelled until it starts."""
        future: Future[T] = Future()
        self._jobs.put((future, work))
        return future

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`; a cancelled caller takes it off the queue if it has not begun."""
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Let the thread end after the jobs that are queued."""
        self._jobs.put(None)

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
