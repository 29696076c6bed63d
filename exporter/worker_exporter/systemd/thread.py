"""A thread with an event loop of its own, which never holds the exit."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from worker_exporter import log

T = TypeVar("T")


class LoopThread:
    """Runs coroutines in a daemon thread. Raises OSError when no descriptor is left for it, and
    RuntimeError when no thread is.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_report)
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:
            self._loop.close()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin `work` in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """End the thread after `last`, and whatever else runs in it; does not wait."""
        self.submit(last).add_done_callback(
            lambda _: self._loop.call_soon_threadsafe(self._loop.stop)
        )

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_end_others())
        self._loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a task's error that nobody waits for.

    dbus-fast leaves futures of lost connections behind, whose errors its calls raise too.
    """
    error = context.get("exception")
    if error is not None and isinstance(context.get("task"), asyncio.Task):
        log.error("asking systemd failed", **log.describe(error))
