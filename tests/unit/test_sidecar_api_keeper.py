"""How the configuration is kept in force, with everything real but the launcher."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.api_support import FILE, PATIENCE
from tests.unit.fake_launcher import FakeLauncher, running

from worker_sidecar.api import keeper as keepers
from worker_sidecar.api.host import Current, Host
from worker_sidecar.api.keeper import Keeper, undeclared
from worker_sidecar.control import Control
from worker_sidecar.errors import CreationFailedError, InputOutputError
from worker_sidecar.health import Prober
from worker_sidecar.launch.launcher import State
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.spec import Declared, load
from worker_sidecar.stopped import Stopped

PROBED = FILE.replace(
    "    model: small\n", "    model: small\n    health: {tcp: 'localhost:{port}'}\n"
)


class Probes(Prober):
    """Remembers for whom it was told to care."""

    def update(self, workers: Sequence[Declared]) -> None:
        super().update(workers)
        self.names = [worker.spec.name for worker in workers if worker.probe]


@dataclass
class Scene:
    file: Path
    launcher: FakeLauncher
    stopped: Stopped
    current: Current
    probes: Probes
    registry: CollectorRegistry
    keeper: Keeper
    log: pytest.LogCaptureFixture

    async def until(self, message: str, times: int = 1) -> None:
        """Until the log has said `message`."""
        async with asyncio.timeout(PATIENCE):
            while self.said(message) < times:
                await asyncio.sleep(0.001)

    def said(self, message: str) -> int:
        return sum(record.getMessage() == message for record in self.log.records)

    def launches(self, service: str, result: str) -> float | None:
        labels = {"service": service, "result": result}
        return self.registry.get_sample_value("worker_sidecar_launches_total", labels)


@pytest.fixture
def scene(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Scene:
    caplog.set_level(logging.INFO)
    file = tmp_path / "workers.yaml"
    file.write_text(FILE)
    launcher, stopped = FakeLauncher(), Stopped(str(tmp_path / "run"))

    def load_host() -> Host:
        config = load(str(file))
        control = Control(launcher, stopped, None, config, config.slice_name)
        return Host(config, control, lambda *_: None)

    registry = CollectorRegistry()
    metrics = SidecarMetrics(registry)
    current = Current(load_host())
    probes = Probes((), lambda *_: None, metrics)
    keeper = Keeper(current, load_host, probes, metrics)
    return Scene(file, launcher, stopped, current, probes, registry, keeper, caplog)


def drive(scene: Scene, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run `scenario` beside the keeper."""

    async def run() -> None:
        keeping = asyncio.create_task(scene.keeper.run())
        try:
            await scenario()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    asyncio.run(run())


def test_what_is_declared_is_started_and_what_was_stopped_on_purpose_is_not(scene: Scene) -> None:
    scene.stopped.mark("llm", "8081")

    async def scenario() -> None:
        await scene.until("workers.yaml was applied")
        assert list(scene.launcher.workers) == [("llm", "8080")]
        assert list(scene.current.host.desired()) == [("llm", "8080", 1), ("llm", "8081", 0)]
        assert scene.launches("llm", "started") == 1

    drive(scene, scenario)


def test_workers_that_no_exporter_can_see_are_not_said_to_be_wanted(scene: Scene) -> None:
    host = scene.current.host
    assert [name for _, name, _ in host.desired()] == ["8080", "8081"]
    unseen = replace(host, control=replace(host.control, monitored=False))
    assert list(unseen.desired()) == []


def test_a_new_file_is_taken_over(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.until("workers.yaml was applied")
        scene.file.write_text(PROBED.replace("8081: {model: large}", "8082: {}"))
        scene.keeper.reload()
        await scene.until("workers.yaml was applied", 2)
        assert sorted(scene.launcher.workers) == [("llm", "8080"), ("llm", "8081"), ("llm", "8082")]
        assert [name for _, name, _ in scene.current.host.desired()] == ["8080", "8082"]
        # 8081 is no longer declared, but it lives and its service tells how to ask it.
        assert sorted(scene.probes.names) == ["llm/8080", "llm/8081", "llm/8082"]

    drive(scene, scenario)


@pytest.mark.parametrize("text", ["services: [", "sorvices: {}", "services: {llm: {}}"])
def test_a_bad_file_is_one_error_line_and_changes_nothing(scene: Scene, text: str) -> None:
    async def scenario() -> None:
        await scene.until("workers.yaml was applied")
        before = scene.current.host
        calls = scene.launcher.changes()
        scene.file.write_text(text)
        scene.keeper.reload()
        await scene.until("workers.yaml is unusable, the last good one stays in force")
        assert scene.current.host is before
        assert scene.launcher.changes() == calls
        scene.file.write_text(FILE)
        scene.keeper.reload()
        await scene.until("workers.yaml was applied", 2)

    drive(scene, scenario)
    (record,) = [one for one in scene.log.records if one.levelno >= logging.ERROR]
    assert "\n" not in vars(record)["fields"]["err"] and "workers.yaml" in str(vars(record))


def test_what_does_not_answer_is_asked_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "RETRY", (0.0,))
    scene.launcher.hangs = InputOutputError("systemd does not answer")

    async def scenario() -> None:
        await scene.until("workers.yaml could not be applied", 3)
        assert "systemd does not answer" in str(scene.keeper.trouble)
        scene.launcher.hangs = None
        await scene.until("workers.yaml was applied")
        assert scene.keeper.trouble is None
        assert len(scene.launcher.workers) == 2

    drive(scene, scenario)


def test_while_something_does_not_answer_a_new_file_is_taken_over(scene: Scene) -> None:
    scene.launcher.hangs = InputOutputError("systemd does not answer")

    async def scenario() -> None:
        await scene.until("apply is tried again")
        scene.launcher.hangs = None
        scene.keeper.reload()
        await scene.until("workers.yaml was applied")

    drive(scene, scenario)


def test_a_worker_that_cannot_be_started_is_told_once_and_keeps_no_other(scene: Scene) -> None:
    scene.launcher.fails["llm/8080"] = CreationFailedError("no such\nfile")

    async def scenario() -> None:
        await scene.until("workers.yaml was applied")
        assert list(scene.launcher.workers) == [("llm", "8081")]
        assert scene.said("worker not started") == 1 and scene.said("apply is tried again") == 0
        assert scene.launches("llm", "creation-failed") == 1
        assert scene.launches("llm", "started") == 1

    drive(scene, scenario)


def test_a_worker_started_beside_the_file_is_probed_as_its_service_says(scene: Scene) -> None:
    scene.file.write_text(PROBED)

    async def scenario() -> None:
        scene.keeper.reload()
        await scene.until("workers.yaml was applied", 2)
        scene.keeper.started(scene.current.host.config.request("llm", "9000", {"level": 5}))
        assert sorted(scene.probes.names) == ["llm/8080", "llm/8081", "llm/9000"]
        scene.keeper.started(scene.current.host.config.request("llm", "8080", {"level": 5}))
        assert sorted(scene.probes.names) == ["llm/8080", "llm/8081", "llm/9000"]

    drive(scene, scenario)


def test_what_lives_beside_the_file_is_found_again(scene: Scene) -> None:
    scene.file.write_text(PROBED)
    config = load(str(scene.file))
    alive = running("llm", "9000", metadata={"model": "small", "port": "9000"})
    needs_more, other = running("job", "1"), running("other", "1")
    dead = running("llm", "9001", state=State.FAILED)
    found = undeclared(config, [alive, dead, needs_more, other, running("llm", "8080")])
    assert list(found) == [("llm", "9000")]
    probe = found["llm", "9000"].probe
    assert probe is not None and probe.target == "localhost:9000"
