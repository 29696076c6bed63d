"""Who is asked when, and what is left on the worker's directory."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.trees import set_attribute

from worker_exporter.cgroup.metadata import HEALTH, Health, parse_health
from worker_sidecar.health import Prober, living, prober
from worker_sidecar.health.place import open_directory, write
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.spec import Declared, Probe

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

INTERVAL = 0.05

Told = tuple[str, str]


class Metrics(SidecarMetrics):
    """Tells a test of every probe: service and result. What a probe leaves is there by then."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self.told: asyncio.Queue[Told] = asyncio.Queue()

    def probed(self, service: str, result: str) -> None:
        super().probed(service, result)
        self.told.put_nowait((service, result))

    async def next(self, service: str) -> str:
        """The next result of `service`; others are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                name, result = await self.told.get()
                if name == service:
                    return result

    def forget(self) -> None:
        while not self.told.empty():
            self.told.get_nowait()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """First probes come at once."""
    monkeypatch.setattr(prober, "_SPREAD", INTERVAL)


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    directory = tmp_path / "llm"
    directory.mkdir()
    set_attribute(directory, "user.worker.model", b"llama")
    return directory


def tcp(target: str, interval: float = INTERVAL, timeout: float = PATIENCE) -> Probe:
    return Probe(kind="tcp", target=target, argv=(), interval=interval, timeout=timeout)


def command(*argv: str, interval: float = INTERVAL, timeout: float = PATIENCE) -> Probe:
    return Probe(kind="command", target="", argv=argv, interval=interval, timeout=timeout)


def declared(probe: Probe | None, service: str = "llm", instance: str = "8080") -> Declared:
    return Declared(WorkerSpec(service, instance, ("sleep", "1")), probe)


def health(directory: Path) -> Health:
    return parse_health(os.getxattr(directory, HEALTH))


def has_health(directory: Path) -> bool:
    return HEALTH in os.listxattr(directory)


@asynccontextmanager
async def probing(
    workers: list[Declared], place: Callable[[str, str], str | None]
) -> AsyncIterator[tuple[Prober, Metrics]]:
    metrics = Metrics()
    probes = Prober(workers, place, metrics)
    running = asyncio.create_task(probes.run())
    try:
        async with asyncio.timeout(PATIENCE):
            yield probes, metrics
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """Accepts connections, and nothing more; HOST:PORT."""

    async def client(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(client, "127.0.0.1", 0) as listening:
        yield "{}:{}".format(*listening.sockets[0].getsockname())


def test_a_result_is_written_where_the_worker_lives(cgroup: Path) -> None:
    asked: list[Told] = []

    def place(service: str, instance: str) -> str:
        asked.append((service, instance))
        return str(cgroup)

    async def scenario() -> None:
        before = time.time()
        async with server() as target, probing([declared(tcp(target, 0.25))], place) as found:
            assert await found[1].next("llm") == "ready"
            result = health(cgroup)
        assert result.ready == b"1"
        assert before - 0.001 <= result.time <= time.time() + 0.001
        assert result.interval == 0.25
        assert set(asked) == {("llm", "8080")}

    asyncio.run(scenario())


def test_it_changes_with_the_worker(cgroup: Path) -> None:
    async def scenario() -> None:
        async with probing([], lambda *_: str(cgroup)) as (probes, metrics):
            async with server() as target:
                probes.update([declared(tcp(target))])
                assert await metrics.next("llm") == "ready"
                assert health(cgroup).ready == b"1"
            while await metrics.next("llm") != "not_ready":
                pass
            assert health(cgroup).ready == b"0"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("probe", "result"),
    [
        (command("true"), "ready"),
        (command("false"), "not_ready"),
        (command("sleep", "1000", timeout=0.02), "timeout"),
        (command("/no/such/program"), "error"),
        (Probe("http", "http://no-such-host.invalid/", (), INTERVAL, PATIENCE), "error"),
        (tcp("127.0.0.1:"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_each_result_is_counted_and_only_ready_is_ready(
    cgroup: Path, probe: Probe, result: str
) -> None:
    async def scenario() -> None:
        async with probing([declared(probe)], lambda *_: str(cgroup)) as (_, metrics):
            assert await metrics.next("llm") == result
            assert health(cgroup).ready == (b"1" if result == "ready" else b"0")
        answer = metrics.exposition("")[0].decode()
        for each in ("ready", "not_ready", "timeout", "error"):
            line = f'worker_sidecar_probes_total{{result="{each}",service="llm"}} '
            assert (line + "0.0" in answer) == (each != result)
        assert 'worker_sidecar_probe_duration_seconds_count{service="llm"} 0.0' not in answer
        assert 'worker_sidecar_probe_duration_seconds_count{service="llm"}' in answer

    asyncio.run(scenario())


def test_an_interval_is_kept(cgroup: Path) -> None:
    looks: list[float] = []

    def place(*_: str) -> str:
        looks.append(time.monotonic())
        return str(cgroup)

    async def scenario() -> None:
        began = time.monotonic()
        async with probing([declared(command("true", interval=0.2))], place) as (_, metrics):
            for _ in range(4):
                await metrics.next("llm")
        assert looks[3] - began >= 3 * 0.2

    asyncio.run(scenario())


def test_who_does_not_live_is_not_asked(cgroup: Path) -> None:
    looks = 0

    def place(service: str, _: str) -> str | None:
        nonlocal looks
        looks += service == "dead"
        return str(cgroup) if service == "other" else None

    async def scenario() -> None:
        workers = [declared(command("true"), name) for name in ("dead", "other")]
        async with probing(workers, place) as (_, metrics):
            while looks < 3:
                await metrics.next("other")
            assert 'result="ready",service="dead"} 0.0' in metrics.exposition("")[0].decode()

    asyncio.run(scenario())


def test_a_cgroup_that_vanishes_is_no_error_and_the_next_gets_its_own_result(
    cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first answer comes when another directory has the name already."""
    gone = asyncio.Event()

    async def client(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not gone.is_set():
            cgroup.rmdir()
            cgroup.mkdir()
            gone.set()
            unprobed.append(not has_health(cgroup))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    unprobed: list[bool] = []

    async def scenario() -> None:
        async with await asyncio.start_server(client, "127.0.0.1", 0) as listening:
            url = "http://{}:{}/".format(*listening.sockets[0].getsockname())
            probe = Probe("http", url, (), INTERVAL, PATIENCE)
            async with probing([declared(probe)], lambda *_: str(cgroup)) as (_, metrics):
                assert await metrics.next("llm") == "ready"
                unprobed.append(not has_health(cgroup))
                assert await metrics.next("llm") == "ready"
                assert health(cgroup).ready == b"1"

    asyncio.run(scenario())
    assert unprobed == [True, True]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_slow_probe_delays_no_other(cgroup: Path) -> None:
    async def scenario() -> None:
        workers = [
            declared(command("sleep", "1000"), "slow"),
            declared(tcp("192.0.2.1:9"), "silent"),
            declared(command("true"), "quick"),
        ]
        async with probing(workers, lambda *_: str(cgroup)) as (_, metrics):
            for _ in range(5):
                assert await metrics.next("quick") == "ready"
            answer = metrics.exposition("")[0].decode()
            assert 'duration_seconds_count{service="slow"}' not in answer

    asyncio.run(scenario())


def test_a_probe_that_takes_longer_than_its_interval_is_not_made_twice(
    cgroup: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    script = f"mkdir {alone} || exit 1; sleep 0.2; rmdir {alone}"

    async def scenario() -> None:
        probe = command("sh", "-c", script, interval=0.01)
        async with probing([declared(probe)], lambda *_: str(cgroup)) as (_, metrics):
            assert [await metrics.next("llm") for _ in range(3)] == ["ready"] * 3

    asyncio.run(scenario())


def test_a_reload_leaves_unchanged_probes_alone(cgroup: Path, tmp_path: Path) -> None:
    """The one that runs goes on, though all workers are told anew."""
    runs = tmp_path / "runs"
    os.mkfifo(tmp_path / "go")
    script = f"echo run >> {runs}; read -r word < {tmp_path / 'go'}"
    kept = declared(command("sh", "-c", script), "kept")

    async def scenario() -> None:
        workers = [kept, declared(command("true"), "other")]
        async with probing(workers, lambda *_: str(cgroup)) as (probes, metrics):
            go = await asyncio.to_thread(os.open, tmp_path / "go", os.O_WRONLY)
            probes.update([replace(kept), declared(command("true", "again"), "other")])
            for _ in range(5):
                await metrics.next("other")
            assert runs.read_text() == "run\n"
            os.write(go, b"go\n")
            os.close(go)
            assert await metrics.next("kept") == "ready"

    asyncio.run(scenario())


def test_a_reload_changes_adds_and_removes(cgroup: Path) -> None:
    async def scenario() -> None:
        workers = [declared(command("true"), "changed"), declared(command("true"), "gone")]
        async with probing(workers, lambda *_: str(cgroup)) as (probes, metrics):
            assert await metrics.next("changed") == "ready"
            probes.update([declared(command("false"), "changed"), declared(None, "mute")])
            while await metrics.next("changed") != "not_ready":
                pass
            probes.update([declared(command("true"), "new")])
            await metrics.next("new")
            metrics.forget()
            assert {(await metrics.told.get())[0] for _ in range(5)} == {"new"}

    asyncio.run(scenario())


def test_a_reload_can_come_from_another_thread(cgroup: Path) -> None:
    async def scenario() -> None:
        first = declared(command("true"), "first")
        async with probing([first], lambda *_: str(cgroup)) as (probes, metrics):
            assert await metrics.next("first") == "ready"
            await asyncio.to_thread(probes.update, [declared(command("true"))])
            assert await metrics.next("llm") == "ready"

    # asyncio itself then raises for what is not thread-safe
    asyncio.run(scenario(), debug=True)


def test_a_fault_costs_one_probe(cgroup: Path, caplog: pytest.LogCaptureFixture) -> None:
    looks = 0

    def place(*_: str) -> str:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("broken")
        return str(cgroup)

    async def scenario() -> None:
        async with probing([declared(command("true"))], place) as (_, metrics):
            assert await metrics.next("llm") == "ready"

    asyncio.run(scenario())
    [fault] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "RuntimeError: broken" in str(fault.__dict__["fields"])


def test_changes_are_logged_and_nothing_else(
    cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    state = cgroup.parent / "state"

    async def scenario() -> None:
        workers = [declared(command("test", "-e", str(state)))]
        async with probing(workers, lambda *_: str(cgroup)) as (_, metrics):
            for _ in range(3):
                assert await metrics.next("llm") == "not_ready"
            state.touch()
            while await metrics.next("llm") != "ready":
                pass
            for _ in range(2):
                assert await metrics.next("llm") == "ready"

    asyncio.run(scenario())
    said = [(record.message, record.__dict__["fields"]["reason"]) for record in caplog.records]
    assert said == [
        ("worker is not ready", "exit code 1"),
        ("worker is ready", "exit code 0"),
    ]


def test_a_refusal_to_write_is_said_once(
    cgroup: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setxattr", refuse)

    async def scenario() -> None:
        async with probing([declared(command("true"))], lambda *_: str(cgroup)) as (_, metrics):
            for _ in range(3):
                await metrics.next("llm")

    asyncio.run(scenario())
    [said] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.message == "health cannot be written"


def test_first_probes_spread_evenly_and_always_alike() -> None:
    shares = sorted(prober._share(f"llm/{8000 + number}") for number in range(1000))
    assert shares[0] >= 0
    assert shares[-1] < 1
    for tenth in range(10):
        inside = [share for share in shares if tenth / 10 <= share < (tenth + 1) / 10]
        assert 50 <= len(inside) <= 150
    assert prober._share("llm/8080") == 0x793951D4 / 2**32


def test_living_workers_are_found_in_each_layout(tmp_path: Path) -> None:
    user = f"user.slice/user-{os.geteuid()}.slice/user@{os.geteuid()}.service"
    layouts = {
        "8080": "my.slice/my-team.slice/my-team-llm.slice/my-team-llm@8080.service",
        "8090": "my.slice/my-team.slice/my-team-llm.slice/my-team-llm-8090.slice",
        "main": "my.slice/my-team.slice/llm/main",
        "box": "my-team/llm/box",
        "8081": f"{user}/my.slice/my-team.slice/my-team-llm.slice/my-team-llm@8081.service",
    }
    for path in layouts.values():
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    place = living(Site("my-team.slice", str(tmp_path), "/run/x", "/var/log/x"))
    found = {instance: place("llm", instance) for instance in layouts}
    assert found == {instance: f"{tmp_path}/{path}" for instance, path in layouts.items()}
    (tmp_path / layouts["main"] / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert place("llm", "main") is None
    assert place("llm", "absent") is None


def test_without_cgroups_nobody_lives() -> None:
    assert living(Site("worker.slice", None, "/run/x", "/var/log/x"))("llm", "8080") is None


def test_what_is_written_is_what_the_exporter_reads(cgroup: Path) -> None:
    directory = open_directory(str(cgroup))
    assert directory is not None
    try:
        write(directory, ready=True, time=1767225600.25, interval=10)
        assert os.getxattr(cgroup, HEALTH) == b"1 1767225600.250 10"
        write(directory, ready=False, time=1767225600.5, interval=0.5)
        assert health(cgroup) == Health(b"0", 1767225600.5, 0.5)
    finally:
        os.close(directory)
    assert open_directory(f"{cgroup}/gone") is None
