"""The pages, over real sockets."""

import asyncio
import base64
import gzip
import logging
import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser

import bcrypt
import pytest
from aiohttp import ClientSession
from tests.unit.web_support import PATIENCE, FakeSource, place_of, serving

from worker_exporter import __version__
from worker_exporter.errors import UserError
from worker_exporter.web.app import Site, check_telemetry_path, deadline, patience
from worker_exporter.web.config import WebConfig

PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "Accept-Encoding": "gzip",
}
IDENTITY = {"Accept-Encoding": "identity"}
TIMEOUT = "X-Prometheus-Scrape-Timeout-Seconds"


def drive(
    scenario: Callable[[ClientSession], Awaitable[None]],
    source: FakeSource | None = None,
    site: Site | None = None,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            async with serving(source or FakeSource(), site) as client:
                await scenario(client)

    asyncio.run(run())


async def get(client: ClientSession, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    async with client.get(path, headers=IDENTITY | headers) as response:
        return response.status, await response.text()


def test_prometheus_gets_openmetrics_in_gzip() -> None:
    async def scenario(client: ClientSession) -> None:
        async with client.get("/metrics", headers=PROMETHEUS) as response:
            body = await response.read()
        assert response.status == 200
        expected = "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert response.headers["Content-Type"] == expected
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert int(response.headers["Content-Length"]) == len(body)
        assert gzip.decompress(body) == b"openmetrics 1 cpu,io,memory\n# EOF\n"

    drive(scenario)


def test_a_plain_client_gets_plain_text() -> None:
    async def scenario(client: ClientSession) -> None:
        async with client.get("/metrics", headers=IDENTITY | {"Accept": "*/*"}) as response:
            assert await response.read() == b"text 1 cpu,io,memory\n"
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "Content-Encoding" not in response.headers

    drive(scenario)


def test_repeated_accept_headers_are_one_list() -> None:
    async def scenario(client: ClientSession) -> None:
        reader, writer = await asyncio.open_connection(*place_of(client))
        writer.write(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Accept: text/plain;q=0.1\r\nAccept: application/openmetrics-text;q=0.2\r\n\r\n"
        )
        assert b"\nopenmetrics 1" in await reader.read()
        writer.close()

    drive(scenario)


def test_head_has_the_headers_only_and_other_methods_are_refused() -> None:
    async def scenario(client: ClientSession) -> None:
        async with client.head("/metrics", headers=PROMETHEUS) as response:
            assert response.status == 200 and await response.read() == b""
            assert int(response.headers["Content-Length"]) > 20
        for path in ("/metrics", "/workers", "/", "/-/healthy", "/-/ready"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                async with client.request(method, path) as response:
                    assert response.status == 405, (method, path)
                    assert response.headers["Allow"] == "GET,HEAD"

    drive(scenario)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "cpu,io,memory"),
        ("?collect[]=cpu", "cpu"),
        ("?collect%5B%5D=cpu&collect[]=io", "cpu,io"),
        ("?exclude[]=cpu", "io,memory"),
        ("?exclude[]=cpu&exclude[]=io&exclude[]=memory", ""),
        ("?unknown=1", "cpu,io,memory"),
    ],
)
def test_queries_choose_collectors(query: str, expected: str) -> None:
    async def scenario(client: ClientSession) -> None:
        assert await get(client, f"/metrics{query}") == (200, f"text 1 {expected}\n")

    drive(scenario)


@pytest.mark.parametrize(
    "query",
    [
        "?collect[]=gpu",
        "?exclude[]=gpu",
        "?collect[]=",
        "?collect[]=a%0Ab",
        "?collect[]=cpu&exclude[]=io",
    ],
)
def test_a_wrong_query_gets_one_line_with_the_known_collectors(query: str) -> None:
    source = FakeSource()

    async def scenario(client: ClientSession) -> None:
        status, text = await get(client, f"/metrics{query}")
        assert status == 400
        assert text.count("\n") == 1 and text.endswith("cpu, io, memory\n")

    drive(scenario, source)
    assert source.snapshots == []


@pytest.mark.parametrize(
    ("header", "offset", "expected"),
    [
        (None, 0.5, None),
        ("", 0.5, None),
        ("ten", 0.5, None),
        ("nan", 0.5, None),
        ("inf", 0.5, None),
        ("-1", 0.5, None),
        ("0", 0.5, None),
        ("10", 0.5, 9.5),
        ("10.25", 0.0, 10.25),
        ("0.5", 0.5, 0.5),
        ("0.3", 0.5, 0.3),
    ],
)
def test_deadline(header: str | None, offset: float, expected: float | None) -> None:
    assert deadline(header, offset) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, 2.0), (9.5, 2.0), (4.0, 2.0), (0.5, 0.25), (0.1, 0.05)]
)
def test_a_pass_waits_for_others_only_as_long_as_the_rest_is_on_time(
    seconds: float | None, expected: float
) -> None:
    assert patience(seconds) == pytest.approx(expected)


def test_the_scrapers_own_timeout_says_how_long_a_pass_may_wait() -> None:
    source = FakeSource()

    async def scenario(client: ClientSession) -> None:
        await get(client, **{TIMEOUT: "1"})
        await get(client)

    drive(scenario, source)
    assert source.patience == [pytest.approx(0.25), 2.0]


def test_a_missed_deadline_is_503_and_costs_nobody_else_the_pass() -> None:
    source = FakeSource(held=True)

    async def scenario(client: ClientSession) -> None:
        patient = asyncio.create_task(get(client))
        await source.wait_begun()
        status, text = await get(client, **{TIMEOUT: "0.55"})
        assert status == 503
        assert text == "no answer within 0.05 s, the scrape timeout less --web.timeout-offset\n"
        source.go.set()
        assert await patient == (200, "text 1 cpu,io,memory\n")

    drive(scenario, source)
    assert len(source.snapshots) == 1


def test_a_failed_pass_is_one_line_and_the_next_is_fresh(caplog: pytest.LogCaptureFixture) -> None:
    source = FakeSource()
    source.failure = RuntimeError("broken")

    async def scenario(client: ClientSession) -> None:
        status, text = await get(client)
        assert (status, text.count("\n")) == (500, 1)
        assert "broken" not in text
        source.failure = None
        assert (await get(client))[0] == 200

    with caplog.at_level(logging.INFO):
        drive(scenario, source)
    assert [record.getMessage() for record in caplog.records] == ["scrape failed"]


def test_more_than_the_allowed_requests_are_turned_away() -> None:
    source = FakeSource(held=True)

    async def scenario(client: ClientSession) -> None:
        first = asyncio.create_task(get(client))
        await source.wait_begun()
        status, text = await get(client)
        assert status == 503 and text.count("\n") == 1 and "--web.max-requests" in text
        assert (await get(client, "/-/healthy"))[0] == 200
        source.go.set()
        assert (await first)[0] == 200
        assert (await get(client))[0] == 200

    drive(scenario, source, Site(max_requests=1))


def test_the_workers_are_json_of_a_pass_by_all_collectors() -> None:
    async def scenario(client: ClientSession) -> None:
        for query in ("", "?collect[]=cpu"):
            async with client.get(f"/workers{query}", headers=PROMETHEUS) as response:
                packed = await response.read()
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json; charset=utf-8"
            assert response.headers["Content-Encoding"] == "gzip"
            assert response.headers["Vary"] == "Accept-Encoding"
            assert gzip.decompress(packed).endswith(b' cpu,io,memory"]\n')
        assert await get(client, "/workers") == (200, '["workers 3 cpu,io,memory"]\n')

    drive(scenario)


def test_the_workers_share_the_limit_the_deadline_and_the_pass_of_the_metrics() -> None:
    source = FakeSource(held=True)

    async def scenario(client: ClientSession) -> None:
        asked = [asyncio.create_task(get(client)), asyncio.create_task(get(client, "/workers"))]
        await source.wait_begun()
        while "--web.max-requests" not in (await get(client, **{TIMEOUT: "0.01"}))[1]:
            await asyncio.sleep(0)
        status, text = await get(client, "/workers")
        assert status == 503 and "already 2 scrapes at a time" in text
        source.go.set()
        metrics, workers = await asyncio.gather(*asked)
        assert metrics == (200, "text 1 cpu,io,memory\n")
        assert workers == (200, '["workers 1 cpu,io,memory"]\n')
        source.go.clear()
        status, text = await get(client, "/workers", **{TIMEOUT: "0.55"})
        assert (status, text.partition(",")[0]) == (503, "no answer within 0.05 s")

    drive(scenario, source, Site(max_requests=2))


def test_a_failed_pass_fails_the_workers_in_one_line() -> None:
    source = FakeSource()
    source.failure = RuntimeError("broken")

    async def scenario(client: ClientSession) -> None:
        failed = (500, "the scrape failed; the exporter's log says why\n")
        assert await get(client, "/workers") == failed

    drive(scenario, source)


def test_zero_allowed_requests_means_no_limit() -> None:
    source = FakeSource(held=True)

    async def scenario(client: ClientSession) -> None:
        asked = [asyncio.create_task(get(client)) for _ in range(60)]
        await source.wait_begun()
        source.go.set()
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}

    drive(scenario, source, Site(max_requests=0))


def test_a_client_that_went_away_gives_its_place_back() -> None:
    source = FakeSource(held=True)

    async def scenario(client: ClientSession) -> None:
        gone = asyncio.create_task(get(client))
        await source.wait_begun()
        assert "--web.max-requests" in (await get(client, **{TIMEOUT: "0.01"}))[1]
        gone.cancel()
        await asyncio.wait([gone])
        # The server learns of it through its socket; then another joins the held pass.
        while "no answer within" not in (await get(client, **{TIMEOUT: "0.01"}))[1]:
            await asyncio.sleep(0)

    drive(scenario, source, Site(max_requests=1))


def test_health_and_readiness_do_not_scrape() -> None:
    source = FakeSource(held=True)

    async def scenario(client: ClientSession) -> None:
        assert await get(client, "/health") == (200, "ok\n")
        assert await get(client, "/-/healthy") == (200, "ok\n")
        assert await get(client, "/-/ready") == (200, "ready\n")
        assert (await get(client, "/nothing"))[0] == 404

    drive(scenario, source)
    assert source.snapshots == []


def test_before_and_after_the_sockets_are_up_it_is_not_ready_but_healthy() -> None:
    async def run() -> None:
        async with serving(FakeSource(), ready=False) as client:
            assert await get(client, "/-/ready") == (503, "not ready\n")
            assert (await get(client, "/-/healthy"))[0] == 200

    asyncio.run(run())


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_landing_page_links_to_pages_that_answer() -> None:
    async def scenario(client: ClientSession) -> None:
        status, page = await get(client, "/")
        links = Links()
        links.feed(page)
        assert status == 200 and __version__ in page
        assert "CPU &lt;time&gt;" in page
        assert {"/m", "/workers", "/-/healthy", "/m?collect%5B%5D=cpu"} <= set(links.found)
        for link in links.found:
            assert (await get(client, link))[0] == 200, link

    drive(scenario, site=Site(telemetry_path="/m", summaries={"cpu": "CPU <time>"}))


def test_the_metrics_may_be_at_the_root() -> None:
    async def scenario(client: ClientSession) -> None:
        assert await get(client, "/") == (200, "text 1 cpu,io,memory\n")

    drive(scenario, site=Site(telemetry_path="/"))


@pytest.mark.parametrize(
    "path", ["", "metrics", "/{x}", "/a b", "/a?b", "/health", "/-/ready", "/workers"]
)
def test_a_telemetry_path_that_cannot_be(path: str) -> None:
    with pytest.raises(UserError, match="telemetry path"):
        check_telemetry_path(path)


def hashed(password: str, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, prefix)).decode()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_basic_auth_guards_every_page() -> None:
    # bcrypt never saw more than 72 bytes; other makers of hashes cut silently.
    users = {
        "anna": hashed("geheim:ü"),
        "long": hashed("a" * 72),
        "old": hashed("x", b"2a").replace("$2a$", "$2y$"),
    }

    async def scenario(client: ClientSession) -> None:
        for path in ("/metrics", "/workers", "/", "/-/healthy", "/nothing"):
            async with client.get(path) as response:
                assert response.status == 401, path
                assert response.headers["WWW-Authenticate"] == "Basic"
        for wrong in (
            basic("anna", "geheim"),
            basic("anna", ""),
            basic("eve", "geheim:ü"),
            basic("anna", "a" * 100),
            basic("anna", "geheim:ü\0"),
            "Basic !!!",
            "Basic YW5uYQ==",
            "Bearer abc",
        ):
            assert (await get(client, Authorization=wrong))[0] == 401, wrong
        for right in (basic("anna", "geheim:ü"), basic("old", "x"), basic("long", "a" * 80)):
            assert (await get(client, Authorization=right))[0] == 200

    drive(scenario, site=Site(config=WebConfig(users=users)))


def test_bcrypt_runs_once_for_a_right_password_and_always_for_wrong_and_unknown_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[bytes] = []
    real = bcrypt.checkpw

    def counting(password: bytes, hashed_password: bytes) -> bool:
        compared.append(hashed_password)
        return real(password, hashed_password)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    cheap, dear = hashed("a"), bcrypt.hashpw(b"b", bcrypt.gensalt(5)).decode()

    async def scenario(client: ClientSession) -> None:
        for _ in range(3):
            assert (await get(client, Authorization=basic("a", "a")))[0] == 200
        assert compared == [cheap.encode()]
        for _ in range(2):
            assert (await get(client, Authorization=basic("a", "b")))[0] == 401
            assert (await get(client, Authorization=basic("c", "b")))[0] == 401
        assert compared[1:] == [cheap.encode(), dear.encode()] * 2

    drive(scenario, site=Site(config=WebConfig(users={"a": cheap, "b": dear})))


def test_a_comparison_does_not_hold_up_those_who_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = {"a": hashed("a"), "b": hashed("b")}

    async def scenario(client: ClientSession) -> None:
        assert (await get(client, Authorization=basic("a", "a")))[0] == 200
        source = FakeSource(held=True)
        monkeypatch.setattr(bcrypt, "checkpw", lambda *_: bool(source.scrape(frozenset())))
        slow = asyncio.create_task(get(client, Authorization=basic("b", "b")))
        await source.wait_begun()
        assert (await get(client, Authorization=basic("a", "a")))[0] == 200
        assert not slow.done()
        source.go.set()
        assert (await slow)[0] == 200

    drive(scenario, site=Site(config=WebConfig(users=users)))


def test_configured_headers_are_on_every_answer() -> None:
    headers = {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=1"}

    async def scenario(client: ClientSession) -> None:
        for path in ("/metrics", "/workers", "/", "/-/ready", "/nothing", "/metrics?collect[]=x"):
            async with client.get(path) as response:
                assert headers.items() <= dict(response.headers).items(), path

    drive(scenario, site=Site(config=WebConfig(headers=headers)))


def test_garbage_on_the_wire_is_refused_in_one_piece() -> None:
    async def scenario(client: ClientSession) -> None:
        for garbage in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n"):
            reader, writer = await asyncio.open_connection(*place_of(client))
            writer.write(garbage)
            assert re.match(rb"HTTP/1\.[01] 400 ", await reader.read())
            writer.close()
        assert (await get(client))[0] == 200

    drive(scenario)


def test_the_source_is_closed_with_the_application() -> None:
    source = FakeSource()

    async def scenario(client: ClientSession) -> None:
        assert (await get(client))[0] == 200

    drive(scenario, source)
    assert source.closed.wait(PATIENCE)
