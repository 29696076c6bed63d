"""Two launchers as one: who gets a worker, who is asked for it, and a daemon that is silent."""

import pytest
from tests.unit.fake_launcher import FakeLauncher, running

from worker_sidecar.errors import (
    AlreadyRunningError,
    InputOutputError,
    NotFoundError,
    RefusedError,
)
from worker_sidecar.launch.combined import Combined
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import State, WorkerSpec

PROCESS = WorkerSpec("llm", "8080", ("sleep", "9"))
CONTAINER = WorkerSpec("llm", "8080", (), image="busybox")


@pytest.fixture
def process() -> FakeLauncher:
    return FakeLauncher("process")


@pytest.fixture
def docker() -> FakeLauncher:
    return FakeLauncher("docker")


@pytest.fixture
def combined(process: FakeLauncher, docker: FakeLauncher) -> Combined:
    return Combined(process, docker)


def hang(launcher: FakeLauncher) -> None:
    launcher.hangs = InputOutputError("the daemon does not answer")


def test_an_image_goes_to_docker_and_a_command_to_the_other(
    combined: Combined, process: FakeLauncher, docker: FakeLauncher
) -> None:
    assert combined.start(WorkerSpec("web", "1", (), image="nginx")).launcher == "docker"
    assert combined.start(PROCESS).launcher == "process"
    assert [(each.name, each.launcher) for each in combined.list()] == [
        ("llm/8080", "process"),
        ("web/1", "docker"),
    ]
    assert combined.commands(CONTAINER) == ["start llm/8080"]
    assert "commands llm/8080" in docker.calls
    assert "commands llm/8080" not in process.calls
    assert combined.name == "process"


@pytest.mark.parametrize(("first", "second"), [(PROCESS, CONTAINER), (CONTAINER, PROCESS)])
def test_one_name_runs_once_whoever_started_it(
    combined: Combined, first: WorkerSpec, second: WorkerSpec
) -> None:
    launcher = combined.start(first).launcher
    with pytest.raises(AlreadyRunningError, match=f"llm/8080 is already running: {launcher} has"):
        combined.start(second)
    assert len(combined.list()) == 1


def test_what_ended_with_the_one_may_start_with_the_other(
    combined: Combined, process: FakeLauncher
) -> None:
    process.workers["llm", "8080"] = running("llm", "8080", state=State.FAILED)
    assert combined.start(CONTAINER).launcher == "docker"
    assert combined.status("llm", "8080").launcher == "docker"


def test_the_worker_is_stopped_where_it_lives(
    combined: Combined, process: FakeLauncher, docker: FakeLauncher
) -> None:
    docker.workers["llm", "8080"] = running("llm", "8080", launcher="docker")
    process.workers["llm", "8080"] = running("llm", "8080", state=State.ENDED)
    combined.stop("llm", "8080", 3)
    assert docker.changes() == ["stop(3) llm/8080"]
    assert process.changes() == []
    combined.kill("llm", "8080")
    assert process.changes() == ["kill llm/8080"]
    with pytest.raises(NotFoundError):
        combined.stop("llm", "8080")


def test_a_living_process_costs_no_call_to_the_daemon(
    combined: Combined, process: FakeLauncher, docker: FakeLauncher
) -> None:
    combined.start(PROCESS)
    docker.calls.clear()
    combined.status("llm", "8080")
    combined.logs("llm", "8080", 5, follow=False)
    combined.stop("llm", "8080")
    assert docker.calls == []


def test_a_containers_directory_is_not_a_second_worker(
    combined: Combined, process: FakeLauncher, docker: FakeLauncher
) -> None:
    """Docker with the cgroupfs driver, as the launcher of plain cgroups sees it."""
    declaration = encode(CONTAINER)
    process.workers["llm", "8080"] = running("llm", "8080", declaration=declaration)
    docker.workers["llm", "8080"] = running("llm", "8080", launcher="docker")
    assert [each.launcher for each in combined.list()] == ["docker"]
    combined.stop("llm", "8080")
    assert docker.changes() == ["stop(5) llm/8080"]
    assert process.changes() == []


def test_a_silent_daemon_costs_no_other_worker(
    combined: Combined,
    process: FakeLauncher,
    docker: FakeLauncher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hang(docker)
    assert combined.start(PROCESS).launcher == "process"
    assert [each.name for each in combined.list()] == ["llm/8080"]
    assert "containers are missing from the list" in caplog.text
    process.workers["llm", "8080"] = running("llm", "8080", state=State.ENDED)
    combined.stop("llm", "8080")
    with pytest.raises(InputOutputError, match="does not answer"):
        combined.status("llm", "8080")  # nobody can say that there is none
    with pytest.raises(InputOutputError):
        combined.down()
    assert "down(5)" in process.calls


def test_a_silent_daemon_is_waited_for_once(
    combined: Combined, docker: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang(docker)
    monkeypatch.setattr("worker_sidecar.launch.combined._SLOW", 0.0)
    combined.start(PROCESS)
    assert docker.calls == ["status llm/8080"]
    combined.start(WorkerSpec("llm", "8081", ("sleep", "9")))
    assert [each.instance for each in combined.list()] == ["8080", "8081"]
    assert docker.calls == ["status llm/8080"]
    with pytest.raises(InputOutputError):
        combined.start(WorkerSpec("web", "1", (), image="nginx"))
    assert docker.calls[1:] == ["start web/1"], "its own workers always ask it"


def test_a_daemon_that_was_silent_is_asked_again(
    combined: Combined, docker: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang(docker)
    monkeypatch.setattr("worker_sidecar.launch.combined._SLOW", 0.0)
    monkeypatch.setattr("worker_sidecar.launch.combined._SILENCE", 0.0)
    combined.list()
    docker.hangs = None
    docker.workers["web", "1"] = running("web", "1", launcher="docker")
    assert [each.name for each in combined.list()] == ["web/1"]


def test_an_error_that_comes_at_once_is_no_silence(
    combined: Combined, docker: FakeLauncher
) -> None:
    hang(docker)
    combined.list()
    combined.list()
    assert docker.calls == ["list", "list"]


def test_without_docker_an_image_is_refused_with_the_reason(process: FakeLauncher) -> None:
    combined = Combined(process, None, "there is no socket")
    with pytest.raises(RefusedError, match="llm/8080 has an image, but there is no socket"):
        combined.start(CONTAINER)
    with pytest.raises(RefusedError, match="there is no socket"):
        combined.commands(CONTAINER)
    process.workers["web", "1"] = running("web", "1", declaration=encode(CONTAINER))
    with pytest.raises(RefusedError, match="web/1 is a container"):
        combined.stop("web", "1")
    assert process.changes() == []
    combined.start(PROCESS)
    assert [each.service for each in combined.list()] == ["llm", "web"]


def test_down_takes_containers_first(
    combined: Combined, process: FakeLauncher, docker: FakeLauncher
) -> None:
    order: list[str] = []
    for launcher in (process, docker):
        launcher.workers["llm", launcher.name] = running("llm", launcher.name)
    ended = combined.down(1)
    order += [each.instance for each in ended]
    assert order == ["docker", "process"]
