"""Simultaneous scrapes share a pass, and nobody harms anybody else's."""

import asyncio
import gzip
import json
import logging
from collections.abc import Callable
from concurrent.futures import wait

import pytest
from tests.unit.web_support import PATIENCE, FakeSource

from worker_exporter.web.negotiation import Format
from worker_exporter.web.passes import Page, PassError, Passes, Rendering

TEXT = Rendering(Format.TEXT, gzip=False)
TEXT_GZIP = Rendering(Format.TEXT, gzip=True)
OPENMETRICS_GZIP = Rendering(Format.OPENMETRICS, gzip=True)
WORKERS = Rendering(Page.WORKERS, gzip=False)
WORKERS_GZIP = Rendering(Page.WORKERS, gzip=True)
ALL = frozenset({"cpu", "io", "memory"})
CPU = frozenset({"cpu"})


def ask(
    passes: Passes, selected: frozenset[str] = ALL, how: Rendering = TEXT
) -> "asyncio.Task[bytes]":
    return asyncio.create_task(passes.body(selected, how, 1.0))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def test_a_request_joins_the_pass_that_runs_and_each_form_is_made_once() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        first = ask(passes)
        await source.wait_begun()
        others = [ask(passes, ALL, how) for how in (TEXT, TEXT_GZIP, TEXT_GZIP, OPENMETRICS_GZIP)]
        await asyncio.sleep(0)
        source.go.set()
        bodies = await asyncio.gather(first, *others)
        text = b"text 1 cpu,io,memory\n"
        assert bodies[:2] == [text, text]
        assert gzip.decompress(bodies[2]) == text
        assert bodies[3] is bodies[2]
        assert gzip.decompress(bodies[4]) == b"openmetrics 1 cpu,io,memory\n# EOF\n"
        assert [s.rendered for s in source.snapshots] == [["text", "openmetrics"]]
        passes.close()

    asyncio.run(scenario())


def test_pages_of_a_pass_share_it_and_are_made_in_its_thread_before_the_next() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        asked = [ask(passes, ALL, how) for how in (TEXT, WORKERS, WORKERS_GZIP)]
        await source.wait_begun()
        await asyncio.sleep(0)
        source.go.set()
        text, workers, packed = await asyncio.gather(*asked)
        assert text == b"text 1 cpu,io,memory\n"
        assert workers == gzip.decompress(packed) == b'["workers 1 cpu,io,memory"]\n'
        [snapshot] = source.snapshots
        assert (snapshot.rendered, snapshot.threads) == (["text", "workers"], {"scrape"})
        passes.close()

    asyncio.run(scenario())


def test_after_a_pass_ended_the_next_request_starts_a_new_one() -> None:
    async def scenario() -> None:
        source = FakeSource()
        passes = Passes(source)
        assert await ask(passes) == b"text 1 cpu,io,memory\n"
        assert await ask(passes) == b"text 2 cpu,io,memory\n"
        passes.close()

    asyncio.run(scenario())


def test_a_pass_that_ended_unnoticed_is_not_joined() -> None:
    async def scenario() -> None:
        source = FakeSource()
        passes = Passes(source)
        first = ask(passes)
        await asyncio.sleep(0)
        # The loop is held here, as by another handler, while the pass ends in its thread.
        wait([begun.job for begun in passes._passes.values()], PATIENCE)
        second = ask(passes)
        assert await first == b"text 1 cpu,io,memory\n"
        assert await second == b"text 2 cpu,io,memory\n"
        passes.close()

    asyncio.run(scenario())


def test_different_sets_run_one_after_another() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        both = [ask(passes), ask(passes, CPU)]
        await source.wait_begun()
        assert len(source.snapshots) == 1
        source.go.set()
        assert await asyncio.gather(*both) == [b"text 1 cpu,io,memory\n", b"text 2 cpu\n"]
        assert not source.overlapped
        passes.close()

    asyncio.run(scenario())


def test_a_client_that_leaves_does_not_end_the_others_pass() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        first, second = ask(passes), ask(passes)
        await source.wait_begun()
        first.cancel()
        await asyncio.wait([first])
        third = ask(passes)
        await asyncio.sleep(0)
        source.go.set()
        assert await second == await third == b"text 1 cpu,io,memory\n"
        assert first.cancelled()
        passes.close()

    asyncio.run(scenario())


def test_a_running_pass_that_nobody_waits_for_is_still_joined() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        first = ask(passes)
        await source.wait_begun()
        first.cancel()
        await asyncio.wait([first])
        second = ask(passes)
        await asyncio.sleep(0)
        source.go.set()
        assert await second == b"text 1 cpu,io,memory\n"
        passes.close()

    asyncio.run(scenario())


def test_a_pass_that_waits_its_turn_is_dropped_with_its_last_client() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        first, second = ask(passes), ask(passes, CPU)
        await source.wait_begun()
        second.cancel()
        await asyncio.wait([second])
        source.go.set()
        await first
        assert await ask(passes, CPU) == b"text 2 cpu\n"
        passes.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [ZeroDivisionError("by zero"), StopIteration(), SystemExit(3)])
def test_a_failed_pass_fails_all_its_clients_is_logged_once_and_the_next_is_fresh(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        source.failure = failure
        passes = Passes(source)
        asked = [ask(passes), ask(passes), ask(passes, ALL, TEXT_GZIP)]
        await source.wait_begun()
        source.go.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [PassError] * 3
        await until(lambda: caplog.records)
        source.failure = None
        assert await ask(passes) == b"text 2 cpu,io,memory\n"
        passes.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    (record,) = caplog.records
    fields = json.loads(json.dumps(record.__dict__["fields"]))
    assert record.getMessage() == "scrape failed"
    assert fields["err"] == f"{type(failure).__name__}: {failure}"
    assert fields["where"].startswith("web_support.py:") and fields["where"].endswith(" scrape")


def test_a_rendering_that_fails_fails_the_pass(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def text(self) -> bytes:
            raise ValueError("no text")

        def openmetrics(self) -> bytes:
            return b"# EOF\n"

        def workers(self) -> bytes:
            return b"[]\n"

    class Source(FakeSource):
        def scrape(self, selected: frozenset[str], patience: float = 1.0) -> Broken:  # type: ignore[override]
            return Broken()

    async def scenario() -> None:
        passes = Passes(Source())
        with pytest.raises(PassError):
            await ask(passes)
        assert gzip.decompress(await ask(passes, ALL, OPENMETRICS_GZIP)) == b"# EOF\n"
        passes.close()

    asyncio.run(scenario())


def test_who_comes_after_the_last_bytes_were_made_gets_the_next_pass() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        first = ask(passes)
        await source.wait_begun()
        # As after the thread's look at the list: joined, but not on it.
        late = ask(passes, ALL, TEXT_GZIP)
        await asyncio.sleep(0)
        passes._passes[ALL].wanted.remove(TEXT_GZIP)
        source.go.set()
        assert await first == b"text 1 cpu,io,memory\n"
        assert gzip.decompress(await late) == b"text 2 cpu,io,memory\n"
        assert [snapshot.rendered for snapshot in source.snapshots] == [["text"], ["text"]]
        passes.close()

    asyncio.run(scenario())


def test_close_waits_for_nobody_and_closes_the_source_after_the_running_pass() -> None:
    async def scenario() -> None:
        source = FakeSource(held=True)
        passes = Passes(source)
        first = ask(passes)
        await source.wait_begun()
        passes.close()
        assert not source.closed.is_set()
        source.go.set()
        assert await asyncio.to_thread(source.closed.wait, PATIENCE)
        await first

    asyncio.run(scenario())
