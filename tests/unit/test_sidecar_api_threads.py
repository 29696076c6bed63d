"""Threads that jobs wait for, in bounds."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from tests.unit.api_support import PATIENCE, acquired

from worker_sidecar.api.errors import BusyError
from worker_sidecar.api.threads import Threads


class Job:
    """Begins and ends when the test says so."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Event()
        self.runs = 0

    def __call__(self) -> int:
        self.runs += 1
        self.began.release()
        assert self.go.wait(PATIENCE)
        return self.runs


def drive(scenario: Callable[[Threads, Job], Awaitable[None]], count: int, waiting: int) -> None:
    async def run() -> None:
        threads, job = Threads("test", count, waiting), Job()
        try:
            await scenario(threads, job)
        finally:
            job.go.set()
            threads.close()

    asyncio.run(asyncio.wait_for(run(), 3 * PATIENCE))


def test_results_and_errors_come_back() -> None:
    async def scenario(threads: Threads, _: Job) -> None:
        assert await threads.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        with pytest.raises(SystemExit):
            await threads.run(lambda: exec("raise SystemExit"))
        assert await threads.run(lambda: 8) == 8

    drive(scenario, 1, 0)


def test_so_many_run_and_so_many_wait() -> None:
    async def scenario(threads: Threads, job: Job) -> None:
        held = [asyncio.create_task(threads.run(job)) for _ in range(5)]
        for _ in range(2):
            await acquired(job.began)
        with pytest.raises(BusyError):
            await threads.run(job)
        assert job.runs == 2
        job.go.set()
        await asyncio.gather(*held)
        assert await threads.run(lambda: 7) == 7

    drive(scenario, 2, 3)


def test_a_cancelled_caller_gives_his_place_back_when_the_job_has_ended() -> None:
    async def scenario(threads: Threads, job: Job) -> None:
        running = asyncio.create_task(threads.run(job))
        await acquired(job.began)
        waiting = asyncio.create_task(threads.run(job))
        await asyncio.sleep(0)
        for task in (running, waiting):
            task.cancel()
        await asyncio.wait([running, waiting])
        with pytest.raises(BusyError):
            # The job that runs holds its thread, whoever waits for it.
            for _ in range(2):
                asyncio.ensure_future(threads.run(lambda: 1)).add_done_callback(lambda _: None)
                await asyncio.sleep(0)
            await threads.run(lambda: 1)
        job.go.set()
        while True:
            try:
                assert await threads.run(lambda: 7) == 7
                break
            except BusyError:
                await asyncio.sleep(0)
        assert job.runs == 1

    drive(scenario, 1, 1)
