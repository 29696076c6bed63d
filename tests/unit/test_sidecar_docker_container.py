"""What `docker inspect` says, in the sidecar's words. The answer is one of Docker 20.10."""

import copy
from pathlib import Path
from typing import Any

import pytest

from worker_sidecar.launch.docker.container import Container, container_of
from worker_sidecar.launch.launcher import State

NEVER = "0001-01-01T00:00:00Z"
RUNNING: dict[str, Any] = {
    "Id": "747f2abca9c856ca28e97bc392d6b92a1d3a93df833c632b893dfa5fd8d640ce",
    "Created": "2026-11-20T07:38:12.21260052Z",
    "State": {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 469,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "2026-11-20T07:38:15.30142075Z",
        "FinishedAt": NEVER,
    },
    "Name": "/worker-llm-8090",
    "RestartCount": 0,
    "HostConfig": {"CgroupParent": "worker-llm-8090.slice"},
    "Config": {
        "Labels": {
            "worker.service": "llm",
            "worker.instance": "8090",
            "worker.slice": "worker.slice",
            "worker.declaration": '{"argv":[],"image":"tools"}',
        }
    },
}


def answer(parent: str = "worker-llm-8090.slice", **state: Any) -> dict[str, Any]:
    changed = copy.deepcopy(RUNNING)
    changed["State"].update(state)
    changed["HostConfig"]["CgroupParent"] = parent
    return changed


def seen(said: dict[str, Any], mount: str = "/nowhere") -> Container:
    container = container_of(said, "worker.slice", mount)
    assert container is not None
    return container


def test_a_running_container() -> None:
    container = seen(RUNNING)
    assert (container.service, container.instance) == ("llm", "8090")
    assert container.state is State.RUNNING and container.alive
    assert (container.pid, container.restarts) == (469, 0)
    # date -u -d 2026-11-20T07:38:15 +%s
    assert container.started == pytest.approx(1795160295.30142, abs=1e-5)
    assert (container.result, container.exit_status) == (None, None)
    assert container.place.unit == "worker-llm-8090.slice"
    assert container.declaration == '{"argv":[],"image":"tools"}'


@pytest.mark.parametrize("parent", ["/worker/llm/8090", "/worker.slice/llm/8090"])
def test_a_container_of_the_other_driver(parent: str) -> None:
    place = seen(answer(parent)).place
    assert (place.cgroup, place.unit) == (parent[1:], None)


@pytest.mark.parametrize(
    "parent", ["", "system.slice", "worker-llm.slice", "worker-llm-8091.slice", "/docker", None]
)
def test_labels_alone_make_no_worker(parent: Any) -> None:
    assert container_of(answer(parent), "worker.slice", "/nowhere") is None


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("worker.service", "../etc"),
        ("worker.service", None),
        ("worker.instance", ""),
        ("worker.instance", "cgroup.procs"),
        ("worker.slice", "other.slice"),
    ],
)
def test_bad_labels_make_no_worker(label: str, value: str | None) -> None:
    said = answer()
    labels = said["Config"]["Labels"]
    labels[label] = value
    stem = f"worker-{labels['worker.service']}-{labels['worker.instance']}"
    said["HostConfig"]["CgroupParent"] = f"{stem}.slice"
    assert container_of(said, "worker.slice", "/nowhere") is None


@pytest.mark.parametrize("said", [{}, {"Config": None}, {"Config": {"Labels": None}}])
def test_other_containers_are_no_workers(said: dict[str, Any]) -> None:
    assert container_of(said, "worker.slice", "/nowhere") is None


@pytest.mark.parametrize(
    ("status", "code", "state", "result", "number"),
    [
        ("created", 0, State.ENDED, None, None),
        ("created", 127, State.ENDED, None, None),
        ("paused", 0, State.RUNNING, None, None),
        ("restarting", 3, State.RESTARTING, "exit-code", 3),
        ("removing", 0, State.STOPPING, None, None),
        ("exited", 0, State.ENDED, "success", 0),
        ("exited", 3, State.FAILED, "exit-code", 3),
        ("exited", 143, State.ENDED, "success", 15),
        ("exited", 130, State.ENDED, "success", 2),
        ("exited", 137, State.FAILED, "signal", 9),
        ("exited", 139, State.FAILED, "signal", 11),
        ("exited", 128, State.FAILED, "exit-code", 128),
        ("exited", 255, State.FAILED, "exit-code", 255),
        ("dead", 1, State.FAILED, "exit-code", 1),
        ("something new", 0, State.ENDED, None, None),
    ],
)
def test_states_and_results(
    status: str, code: int, state: State, result: str | None, number: int | None
) -> None:
    container = seen(answer(Status=status, ExitCode=code, Pid=0))
    assert (container.state, container.result, container.exit_status) == (state, result, number)
    assert container.pid is None


def test_want_of_memory_by_the_daemons_word() -> None:
    container = seen(answer(Status="exited", ExitCode=1, OOMKilled=True))
    assert (container.state, container.result, container.exit_status) == (
        State.FAILED,
        "oom-kill",
        9,
    )


@pytest.mark.parametrize(
    ("kills", "code", "result"),
    [("1", 137, "oom-kill"), ("0", 137, "signal"), ("1", 1, "exit-code"), ("x", 137, "signal")],
)
def test_want_of_memory_by_the_kernels_count(
    tmp_path: Path, kills: str, code: int, result: str
) -> None:
    folder = tmp_path / "worker.slice/worker-llm.slice/worker-llm-8090.slice"
    folder.mkdir(parents=True)
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 36\noom 1\noom_kill {kills}\n")
    assert seen(answer(Status="exited", ExitCode=code), str(tmp_path)).result == result


def test_the_log_of_a_run_begins_where_the_one_before_ended() -> None:
    assert seen(RUNNING).since == ""
    again = answer(FinishedAt="2026-11-20T07:38:14.25Z")
    # date -u -d 2026-11-20T07:38:14 +%s
    assert seen(again).since == "1795160294.250000"
    ended = answer(Status="exited", FinishedAt="2026-11-20T07:38:16.5Z")
    assert seen(ended).since == ""
