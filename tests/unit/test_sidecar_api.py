"""The API over its sockets: what it answers, does and refuses."""

import asyncio
import json
import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession, ServerDisconnectedError
from tests.unit.api_support import (
    FILE,
    HEADERS,
    PATIENCE,
    TOKEN,
    WORKERS,
    Scene,
    acquired,
    bearer,
    drive,
    us,
)
from tests.unit.fake_launcher import running

from worker_sidecar.api.handlers import MOST_BYTES
from worker_sidecar.api.settings import Rates
from worker_sidecar.errors import CreationFailedError, KillFailedError
from worker_sidecar.launch.launcher import Ended, State
from worker_sidecar.launch.limits import Limits

LLM = {"service": "llm", "instance": "8080"}
FREE = {"service": "own", "instance": "1", "command": ["sleep", "9"], "user": "root"}
FREE_FILE = FILE + "api: {free_commands: true}\n"


def test_a_worker_of_a_declared_service_is_started_with_its_parameters(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        body = {"service": "llm", "instance": "9000", "parameters": {"level": 7}}
        async with scene.unix.post(WORKERS, json=body) as response:
            worker = await response.json()
            assert response.status == 201
            assert response.headers["Location"] == f"{WORKERS}/llm/9000"
        assert scene.launcher.specs["llm/9000"].argv == (
            *("serve", "--port", "9000", "--level", "7", "--model", "small"),
        )
        assert (worker["state"], worker["declared"]) == ("running", False)
        assert worker["metadata"] == {"model": "small", "port": "9000"}
        assert await scene.ask("GET", f"{WORKERS}/llm/9000") == (200, worker)
        assert [one.spec.name for one in scene.started] == ["llm/9000"]

    drive(tmp_path, scenario)


def test_the_parameters_of_a_declared_instance_are_the_defaults(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        status, worker = await scene.ask("POST", WORKERS, {"service": "llm", "instance": "8081"})
        assert (status, worker["declared"]) == (201, True)
        assert scene.launcher.specs["llm/8081"].argv[-1] == "large"

    drive(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "status", "kind", "word"),
    [
        ({"service": "nope", "instance": "1"}, 404, "not-found", "nope"),
        ({"service": "llm", "instance": "."}, 400, "bad-input", "instance"),
        ({"service": "llm", "instance": "cgroup.procs"}, 400, "bad-input", "kernel file"),
        ({"service": "llm", "instance": "a\n"}, 400, "bad-input", "instance"),
        ({"service": "llm", "instance": "a" * 300}, 400, "bad-input", "instance"),
        ({"service": "L", "instance": "1"}, 400, "bad-input", "service"),
        ({"service": "llm"}, 400, "bad-input", "instance"),
        ({**LLM, "service": 5}, 400, "bad-input", "service"),
        ({**LLM, "instance": 8080}, 400, "bad-input", "instance"),
        ({**LLM, "x": 1}, 400, "bad-input", "x"),
        ({**LLM, "parameters": {"level": "7"}}, 400, "bad-input", "level"),
        ({**LLM, "parameters": {"level": 99}}, 400, "bad-input", "level"),
        ({**LLM, "parameters": {"level": None}}, 400, "bad-input", "level"),
        ({**LLM, "parameters": {"other": 1}}, 400, "bad-input", "other"),
        ({**LLM, "parameters": []}, 400, "bad-input", "parameters"),
        ({**LLM, "strict": "yes"}, 400, "bad-input", "strict"),
        ({"service": "job", "instance": "1"}, 400, "bad-input", "what"),
        ([], 400, "bad-input", "object"),
        (7, 400, "bad-input", "object"),
    ],
)
def test_a_start_that_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, body: object, status: int, kind: str, word: str
) -> None:
    async def scenario(scene: Scene) -> None:
        got, problem = await scene.ask("POST", WORKERS, body)
        assert (got, problem["error"]) == (status, kind)
        assert word in problem["message"] and "\n" not in problem["message"]
        assert scene.launcher.changes() == []

    drive(tmp_path, scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"service": "llm", "instance": "\xff"}',
        b"[" * 60_000,
        b"\xff\xfe{\x00",
        b'{"service": "llm", "instance": "\\ud800"}',
        b"{'service': 'llm'}",
        b"null",
        b'{"service": "llm", "instance": "1", "parameters": {"level": NaN}}',
        b'{"service": "llm", "instance": "1", "parameters": {"level": ' + b"9" * 5000 + b"}}",
    ],
)
def test_what_is_no_json_or_no_utf8_is_refused(tmp_path: Path, body: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        status, problem = await scene.ask(
            "POST", WORKERS, data=body, headers={"Content-Type": "application/json"}
        )
        assert (status, problem["error"]) == (400, "bad-input")
        assert "\n" not in problem["message"]
        assert scene.launcher.changes() == []

    drive(tmp_path, scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_only_plain_json_is_taken(tmp_path: Path, headers: dict[str, str]) -> None:
    async def scenario(scene: Scene) -> None:
        body = json.dumps(LLM).encode()
        status, problem = await scene.ask("POST", WORKERS, data=body, headers=headers)
        assert (status, problem["error"]) == (415, "wrong-content-type")
        assert "application/json" in problem["message"]

    drive(tmp_path, scenario)


def padded(size: int) -> bytes:
    """A good request of exactly `size` bytes."""
    body = json.dumps(LLM).encode()
    return body + b" " * (size - len(body))


def test_a_body_may_have_its_full_size_and_not_a_byte_more(tmp_path: Path) -> None:
    async def in_pieces(body: bytes) -> Any:
        for start in range(0, len(body), 4096):
            yield body[start : start + 4096]

    async def scenario(scene: Scene) -> None:
        headers = {"Content-Type": "application/json"}
        for size in (MOST_BYTES + 1, 10_000_000):
            for body in (padded(size), in_pieces(padded(size))):
                status, problem = await scene.ask("POST", WORKERS, data=body, headers=headers)
                assert (status, problem["error"]) == (413, "too-large")
        assert scene.launcher.changes() == []
        body = in_pieces(padded(MOST_BYTES))
        status, _ = await scene.ask("POST", WORKERS, data=body, headers=headers)
        assert status == 201

    drive(tmp_path, scenario)


def test_paths_and_methods_that_are_not_there(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for path in ("/", "/metrics", "/api/v1", WORKERS + "/", f"{WORKERS}/llm", "/api/v1/%ff"):
            status, problem = await scene.ask("GET", path)
            assert (status, problem["error"]) == (404, "not-found"), path
        async with scene.unix.put(WORKERS) as response:
            assert response.status == 405
            assert set(response.headers["Allow"].split(",")) == {"GET", "POST"}
            assert (await response.json())["error"] == "method-not-allowed"

    drive(tmp_path, scenario)


def test_configured_headers_are_on_every_answer(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for path in (WORKERS, "/healthz", "/nothing", f"{WORKERS}?x=1"):
            async with scene.unix.get(path) as response:
                assert HEADERS.items() <= dict(response.headers).items(), path

    drive(tmp_path, scenario)


def test_names_in_a_path_are_checked_whole(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for name in ("cgroup.procs", "a%0A", "a%2Fb", "%ff", "a" * 300, "a%00", ".a"):
            for method, more in (("GET", ""), ("DELETE", ""), ("POST", "/kill"), ("GET", "/logs")):
                status, problem = await scene.ask(method, f"{WORKERS}/llm/{name}{more}")
                assert (status, problem["error"]) == (400, "bad-input"), (method, name)
        assert scene.launcher.calls == []

    drive(tmp_path, scenario)


def test_a_free_command_is_for_those_whom_the_file_allows_it(tmp_path: Path) -> None:
    async def refused(scene: Scene) -> None:
        status, problem = await scene.ask("POST", WORKERS, FREE)
        assert (status, problem["error"]) == (403, "refused")
        assert "free_commands" in problem["message"]
        assert scene.launcher.changes() == []

    async def allowed(scene: Scene) -> None:
        limits = {
            "cpu": "150%",
            "memory": "300M",
            "tasks": 9,
            "io": [{"path": "/", "read_bandwidth": "10M"}],
        }
        more = {"limits": limits, "env": {"A": "b"}, "directory": "/", "metadata": {"model": "m"}}
        status, worker = await scene.ask("POST", WORKERS, {**FREE, **more, "grace": 2})
        assert (status, worker["declared"]) == (201, False)
        spec = scene.launcher.specs["own/1"]
        assert (spec.argv, spec.user, spec.grace) == (("sleep", "9"), "root", 2.0)
        assert (spec.env, spec.metadata) == ({"A": "b"}, {"model": "m"})
        assert (spec.limits.cpu, spec.limits.memory, spec.limits.tasks) == (1.5, 300 * 1024**2, 9)
        assert spec.limits.io[0].read_bandwidth == 10_000_000
        assert scene.started == []

    drive(tmp_path, refused)
    drive(tmp_path, allowed, text=FREE_FILE)


def test_a_free_command_keeps_the_totals_of_the_file(tmp_path: Path) -> None:
    """Those of its service only where the file declares that; else they are not ours to say."""

    async def scenario(scene: Scene) -> None:
        for service in ("llm", "own"):
            assert (await scene.ask("POST", WORKERS, {**FREE, "service": service}))[0] == 201
        specs = [scene.launcher.specs[name] for name in ("llm/1", "own/1")]
        assert [spec.service_limits for spec in specs] == [Limits(tasks=70), None]
        assert [spec.host_limits for spec in specs] == [Limits(memory=2**30)] * 2

    text = FREE_FILE.replace("  llm:", "  llm:\n    total: {tasks: 70}", 1)
    drive(tmp_path, scenario, text=f"{text}total: {{memory: 1G}}\n")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"command": []}, "command"),
        ({"command": "sleep 9"}, "command"),
        ({"command": ["a\0"]}, "NUL"),
        ({"image": "i", "volumes": ["/:/host"]}, "volumes"),
        ({"image": "i", "shm_size": "big"}, "shm_size"),
        ({"shm_size": "1G"}, "only a container"),
        ({"limits": {"memory": -1}}, "memory"),
        ({"limits": {"memory": True}}, "memory"),
        ({"limits": {"memory": "3 elephants"}}, "memory"),
        ({"limits": {"cpu": 1e300}}, "cpu"),
        ({"limits": {"cpu": "0"}}, "cpu"),
        ({"limits": {"cpus": "7-3"}}, "cpus"),
        ({"limits": {"moon": 1}}, "moon"),
        ({"limits": {"io": [{"path": "relative"}]}}, "relative"),
        ({"env": {"A=B": "x"}}, "A=B"),
        ({"env": {"A": 1}}, "env"),
        ({"directory": "here"}, "directory"),
        ({"grace": -1}, "grace"),
        ({"grace": 10**9}, "grace"),
        ({"restart": "sometimes"}, "restart"),
        ({"metadata": {"started": "1"}}, "started"),
        ({"secrets": {"a": "/etc/shadow"}}, "secrets"),
        ({"parameters": {}}, "parameters"),
    ],
)
def test_a_free_command_that_cannot_be(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    async def scenario(scene: Scene) -> None:
        status, problem = await scene.ask("POST", WORKERS, {**FREE, **change})
        assert (status, problem["error"]) == (400, "bad-input")
        assert word in problem["message"] and "\n" not in problem["message"]
        assert scene.launcher.changes() == []

    drive(tmp_path, scenario, text=FREE_FILE)


def test_root_is_only_who_is_called_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = {key: value for key, value in FREE.items() if key != "user"}

    async def scenario(scene: Scene) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        status, problem = await scene.ask("POST", WORKERS, nobody)
        assert (status, problem["error"]) == (400, "bad-input") and "user" in problem["message"]
        # A container's user is its image's.
        assert (await scene.ask("POST", WORKERS, {**nobody, "image": "i"}))[0] == 201
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert (await scene.ask("POST", WORKERS, {**nobody, "instance": "2"}))[0] == 201

    drive(tmp_path, scenario, text=FREE_FILE)


def test_what_was_sent_is_in_no_error_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario(scene: Scene) -> None:
        for change in ({"env": {"TOKEN": ["hunter2"]}}, {"user": {"hunter2": 1}}, {"x": "hunter2"}):
            _, problem = await scene.ask("POST", WORKERS, {**FREE, **change})
            assert "hunter2" not in problem["message"]

    drive(tmp_path, scenario, text=FREE_FILE)
    assert not [record for record in caplog.records if "hunter2" in str(vars(record))]


def test_ten_identical_starts_at_once_start_one_worker(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.go.clear()
        asked = [asyncio.create_task(scene.ask("POST", WORKERS, LLM)) for _ in range(10)]
        await acquired(scene.launcher.began)
        scene.launcher.go.set()
        answers = await asyncio.gather(*asked)
        assert sorted(status for status, _ in answers) == [201] + [409] * 9
        assert {answer["error"] for status, answer in answers if status == 409} == {
            "already-running"
        }
        launches = partial(scene.counted, "worker_sidecar_launches_total", service="llm")
        assert launches(result="started") == 1
        assert launches(result="already-running") == 9
        assert scene.counted("worker_sidecar_launch_duration_seconds_count", service="llm") == 1

    drive(tmp_path, scenario)


def test_a_client_that_leaves_does_not_stop_a_start_in_the_middle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(scene: Scene) -> None:
        scene.launcher.go.clear()
        leaving = asyncio.create_task(scene.ask("POST", WORKERS, LLM))
        await acquired(scene.launcher.began)
        leaving.cancel()
        await asyncio.wait([leaving])
        # The server has noticed when it has read the end of the connection.
        while scene.runner.server is not None and scene.runner.server.connections:
            await asyncio.sleep(0.001)
        scene.launcher.go.set()
        while ("llm", "8080") not in scene.launcher.workers:
            await asyncio.sleep(0.001)
        while not audited(caplog):
            await asyncio.sleep(0.001)
        assert (await scene.ask("POST", WORKERS, LLM))[0] == 409

    drive(tmp_path, scenario)
    assert [line["status"] for line in audited(caplog)] == [201, 409]


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The audit lines so far."""
    return [
        vars(record)["fields"] for record in caplog.records if record.getMessage() == "api request"
    ]


def test_what_changes_something_is_in_the_audit_log_with_who_did_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(scene: Scene) -> None:
        await scene.ask("POST", WORKERS, LLM)
        await scene.ask("GET", WORKERS)
        await scene.ask("POST", f"{WORKERS}/llm/8080/kill")
        await scene.ask("DELETE", f"{WORKERS}/llm/8080?grace=1")
        async with scene.tcp.delete(f"{WORKERS}/llm/8080") as response:
            assert response.status == 401

    drive(tmp_path, scenario)
    lines = audited(caplog)
    seen = [(line["method"], line["status"], line["result"]) for line in lines]
    assert seen == [
        ("POST", 201, "done"),
        ("POST", 200, "done"),
        ("DELETE", 404, "not-found"),
        ("DELETE", 401, "unauthorized"),
    ]
    assert {(line["service"], line["instance"]) for line in lines[:3]} == {("llm", "8080")}
    for line in lines[:3]:
        assert {"uid": str(line["uid"]), "pid": str(line["pid"])} == us()
    assert lines[3]["address"] == "127.0.0.1" and "uid" not in lines[3]


def test_the_list_has_all_there_is_and_all_there_should_be(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        failed = running("job", "9", state=State.FAILED, result="oom-kill")
        for status in (running("llm", "8080"), failed):
            scene.launcher.workers[status.service, status.instance] = status
        _, listed = await scene.ask("GET", WORKERS)
        assert states(listed) == [
            ("job", "9", "failed", False),
            ("llm", "8080", "running", True),
            ("llm", "8081", "missing", True),
        ]
        assert listed["workers"][0]["result"] == "oom-kill"
        scene.control.stopped.mark("llm", "8081")
        assert (await scene.ask("GET", f"{WORKERS}/llm/8081"))[1]["state"] == "stopped"
        assert (await scene.ask("GET", f"{WORKERS}/llm/8082"))[0] == 404
        for query, found in (
            ("state=stopped", ["8081"]),
            ("service=llm", ["8080", "8081"]),
            ("service=llm&state=running", ["8080"]),
            ("service=none", []),
        ):
            _, listed = await scene.ask("GET", f"{WORKERS}?{query}")
            assert [worker["instance"] for worker in listed["workers"]] == found, query

    drive(tmp_path, scenario)


def states(listed: Any) -> list[tuple[str, str, str, bool]]:
    return [
        (worker["service"], worker["instance"], worker["state"], worker["declared"])
        for worker in listed["workers"]
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{WORKERS}?state=dead"),
        ("GET", f"{WORKERS}?state=failed&state=running"),
        ("GET", f"{WORKERS}?colour=red"),
        ("GET", f"{WORKERS}/llm/8080?x=1"),
        ("GET", f"{WORKERS}/llm/8080/logs?lines=-1"),
        ("GET", f"{WORKERS}/llm/8080/logs?lines=1e2"),
        ("GET", f"{WORKERS}/llm/8080/logs?lines=99999999999"),
        ("GET", f"{WORKERS}/llm/8080/logs?follow=perhaps"),
        ("DELETE", f"{WORKERS}/llm/8080?grace=-1"),
        ("DELETE", f"{WORKERS}/llm/8080?grace=nan"),
        ("DELETE", f"{WORKERS}/llm/8080?grace=inf"),
        ("DELETE", f"{WORKERS}/llm/8080?grace=1_0"),
        ("DELETE", f"{WORKERS}/llm/8080?grace=1e999"),
        ("DELETE", f"{WORKERS}/llm/8080?grace=3601"),
        ("DELETE", f"{WORKERS}/llm/8080?grace="),
        ("POST", f"{WORKERS}/llm/8080/kill?grace=1"),
    ],
)
def test_a_query_that_cannot_be_meant(tmp_path: Path, method: str, path: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        status, problem = await scene.ask(method, path)
        assert (status, problem["error"]) == (400, "bad-input")
        name = path.partition("?")[2].partition("=")[0]
        assert name in problem["message"]
        assert scene.launcher.changes() == []

    drive(tmp_path, scenario)


def test_stop_and_kill(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ask("POST", WORKERS, LLM)
        status, ended = await scene.ask("DELETE", f"{WORKERS}/llm/8080?grace=2.5")
        assert (status, ended["forced"]) == (200, False)
        assert scene.control.stopped.names() == {("llm", "8080")}
        await scene.ask("POST", WORKERS, LLM)
        assert scene.control.stopped.names() == frozenset()
        status, ended = await scene.ask("POST", f"{WORKERS}/llm/8080/kill")
        assert (status, ended["forced"]) == (200, True)
        calls = [call for call in scene.launcher.changes() if not call.startswith("start")]
        assert calls == ["stop(2.5) llm/8080", "kill llm/8080"]
        assert (await scene.ask("DELETE", f"{WORKERS}/job/1"))[0] == 404

    drive(tmp_path, scenario)


def test_errors_of_launchers_keep_their_kind(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        scene.launcher.fails["llm/8080"] = KillFailedError("PID 7\n does not end")
        status, problem = await scene.ask("POST", f"{WORKERS}/llm/8080/kill")
        assert (status, problem["error"]) == (500, "kill-failed")
        assert problem["message"] == "PID 7 does not end"
        scene.launcher.failure = CreationFailedError("no such file")
        status, problem = await scene.ask("POST", WORKERS, {**LLM, "instance": "8081"})
        assert (status, problem["error"]) == (500, "creation-failed")
        failures = {"service": "llm", "result": "creation-failed"}
        assert scene.counted("worker_sidecar_launches_total", **failures) == 1

    drive(tmp_path, scenario)


def test_a_slice_of_somebody_else_names_its_owner(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.control.slice_name = "pact.slice"
        for method, path, body in (
            ("POST", WORKERS, LLM),
            ("DELETE", f"{WORKERS}/llm/8080", None),
            ("POST", f"{WORKERS}/llm/8080/kill", None),
        ):
            status, problem = await scene.ask(method, path, body)
            assert (status, problem["error"]) == (403, "permission-denied")
            assert problem["owner"] == "pact"
        assert (await scene.ask("GET", WORKERS))[0] == 200

    drive(tmp_path, scenario, text="owners: {pact.slice: pact}\n" + FILE)


def test_a_fault_of_ours_is_logged_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.failure = ZeroDivisionError("inside")
        status, problem = await scene.ask("POST", WORKERS, LLM)
        assert (status, problem["error"]) == (500, "failed")
        assert "inside" not in problem["message"]
        assert (await scene.ask("GET", WORKERS))[0] == 200

    drive(tmp_path, scenario)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "inside" in vars(record)["fields"]["err"]


def test_services_and_what_can_be_chosen(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        _, listed = await scene.ask("GET", "/api/v1/services")
        job, llm = listed["services"]
        assert (job["service"], job["required"], job["instances"]) == ("job", ["what"], [])
        assert llm["instances"] == ["8080", "8081"]
        assert llm["parameters"]["level"] == {
            "type": "integer",
            "default": 3,
            "minimum": 1,
            "maximum": 9,
        }
        assert llm["parameters"]["color"]["enum"] == ["red", "blue"]

    drive(tmp_path, scenario)


def test_over_tcp_only_the_token_opens(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for path in (WORKERS, "/healthz", "/openapi.json", "/nothing"):
            for headers in (
                {},
                bearer("wrong"),
                bearer(TOKEN[:-1]),
                bearer(TOKEN + "x"),
                {"Authorization": TOKEN},
                {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": "Bearer "},
                {"Authorization": "Bearer \udcff"},
            ):
                async with scene.tcp.get(path, headers=headers) as response:
                    assert response.status == 401, (path, headers)
                    assert response.headers["WWW-Authenticate"] == "Bearer"
                    problem = await response.json()
                    assert problem["error"] == "unauthorized" and TOKEN not in problem["message"]
        async with scene.tcp.get(WORKERS, headers=bearer()) as response:
            assert response.status == 200
        # The mode of the Unix socket is its lock.
        assert (await scene.ask("GET", WORKERS))[0] == 200

    drive(tmp_path, scenario)


def test_too_many_requests_of_one_peer_are_refused_and_start_nothing(tmp_path: Path) -> None:
    rates = Rates(peer=0.001, peer_burst=3, total=1e6, total_burst=10**6)

    async def scenario(scene: Scene) -> None:
        assert [(await scene.ask("GET", WORKERS))[0] for _ in range(3)] == [200] * 3
        async with scene.unix.post(WORKERS, json=LLM) as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["error"] == "rate-limited"
        assert scene.launcher.changes() == []
        # Another peer, and who only asks for health, are not concerned.
        async with scene.tcp.get(WORKERS, headers=bearer()) as response:
            assert response.status == 200
        assert (await scene.ask("GET", "/healthz")) == (200, {"status": "ok"})
        requests = partial(scene.counted, "worker_sidecar_api_requests_total")
        assert requests(method="POST", code="429") == 1
        assert requests(method="GET", code="200") == 5

    drive(tmp_path, scenario, rates=rates)


def test_who_has_no_token_uses_up_nothing_that_belongs_to_all(tmp_path: Path) -> None:
    rates = Rates(peer=1e6, peer_burst=10**6, total=0.001, total_burst=1)

    async def scenario(scene: Scene) -> None:
        for _ in range(20):
            async with scene.tcp.get(WORKERS) as response:
                assert response.status == 401
        assert (await scene.ask("GET", WORKERS))[0] == 200
        assert (await scene.ask("GET", WORKERS))[0] == 429

    drive(tmp_path, scenario, rates=rates)


def test_so_many_requests_are_answered_at_a_time(tmp_path: Path) -> None:
    rates = Rates(peer=1e6, peer_burst=10**6, total=1e6, total_burst=10**6, simultaneous=1)

    async def scenario(scene: Scene) -> None:
        scene.launcher.go.clear()
        slow = asyncio.create_task(scene.ask("POST", WORKERS, LLM))
        await acquired(scene.launcher.began)
        async with scene.unix.get(WORKERS) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"] == "busy"
        assert (await scene.ask("GET", "/healthz"))[0] == 200
        scene.launcher.go.set()
        assert (await slow)[0] == 201
        assert (await scene.ask("GET", WORKERS))[0] == 200

    drive(tmp_path, scenario, rates=rates)


def test_slow_starts_hold_up_no_question(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.go.clear()
        asked = [
            asyncio.create_task(scene.ask("POST", WORKERS, {"service": "llm", "instance": f"s{n}"}))
            for n in range(32)
        ]
        for _ in range(16):
            await acquired(scene.launcher.began)
        assert (await scene.ask("GET", WORKERS))[0] == 200
        scene.launcher.go.set()
        assert {status for status, _ in await asyncio.gather(*asked)} == {201}

    drive(tmp_path, scenario, text=FILE.replace('"{port}"', "x"))


def test_slow_stops_hold_up_neither_a_kill_nor_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Semaphore(0), threading.Event()

    def slow(service: str, instance: str, grace: float) -> Ended:
        began.release()
        assert go.wait(PATIENCE)
        return Ended(service, instance, forced=False)

    async def scenario(scene: Scene) -> None:
        assert (await scene.ask("POST", WORKERS, LLM))[0] == 201
        monkeypatch.setattr(scene.launcher, "stop", slow)
        asked = [
            asyncio.create_task(scene.ask("DELETE", f"{WORKERS}/llm/s{n}?grace=5"))
            for n in range(32)
        ]
        for _ in range(16):
            await acquired(began)
        async with asyncio.timeout(PATIENCE / 2):
            assert (await scene.ask("POST", f"{WORKERS}/llm/8080/kill"))[0] == 200
            assert (await scene.ask("POST", WORKERS, LLM))[0] == 201
        go.set()
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}

    drive(tmp_path, scenario)


def test_only_so_many_connections(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        held = [await asyncio.open_connection(*scene.place) for _ in range(3)]
        reader, writer = await asyncio.open_connection(*scene.place)
        # The kernel takes it, and we close it; over the Unix socket there is room of its own.
        assert await closed(reader)
        writer.close()
        assert (await scene.ask("GET", WORKERS))[0] == 200
        held.pop()[1].close()
        while True:
            try:
                async with scene.tcp.get(WORKERS, headers=bearer()) as response:
                    assert response.status == 200
                    break
            except (ServerDisconnectedError, ConnectionResetError):
                continue
        for _, other in held:
            other.close()

    drive(tmp_path, scenario, connections=3)


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def test_output_is_sent_as_it_comes_until_its_end(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        path = f"{WORKERS}/llm/8080/logs"
        async with scene.unix.get(f"{path}?lines=7&follow=true") as response:
            assert response.status == 200 and response.content_type == "text/plain"
            for piece in (b"one\n", b"two \xff\n"):
                scene.launcher.log.say(piece)
                assert await response.content.readexactly(len(piece)) == piece
            scene.launcher.log.close()
            assert await response.read() == b""
        assert (await scene.ask("GET", f"{WORKERS}/llm/1/logs"))[0] == 404
        async with scene.unix.get(path) as response:
            assert await response.read() == b""
        assert scene.launcher.asked == [(7, True), (100, False)]

    drive(tmp_path, scenario)


def test_a_client_that_leaves_closes_its_stream(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        async with ClientSession(connector=None) as other:
            url = f"http://{scene.place[0]}:{scene.place[1]}{WORKERS}/llm/8080/logs?follow=true"
            response = await other.get(url, headers=bearer())
            assert response.status == 200
            await acquired(scene.launcher.log.reading)
            response.close()
        assert await asyncio.to_thread(scene.launcher.log.closed.wait, 20)

    drive(tmp_path, scenario)


def test_a_client_that_takes_no_output_keeps_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_sidecar.api.streams._SEND_SECONDS", 0.2)

    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        async with scene.unix.get(f"{WORKERS}/llm/8080/logs?follow=true") as response:
            scene.launcher.log.say(b"more than any buffer holds\n" * 2**21)
            assert await asyncio.to_thread(scene.launcher.log.closed.wait, PATIENCE)
            with pytest.raises(ClientPayloadError):
                await response.read()

    drive(tmp_path, scenario)


def test_our_end_closes_all_streams(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        async with scene.unix.get(f"{WORKERS}/llm/8080/logs?follow=true") as response:
            await acquired(scene.launcher.log.reading)
            await scene.runner.cleanup()
            assert await response.read() == b""
        assert scene.launcher.log.closed.is_set()

    drive(tmp_path, scenario)


def test_so_many_read_output_at_a_time_and_hold_up_nobody_else(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher.workers["llm", "8080"] = running("llm", "8080")
        path = f"{WORKERS}/llm/8080/logs?follow=true"
        readers = [await scene.unix.get(path) for _ in range(16)]
        assert {reader.status for reader in readers} == {200}
        status, problem = await scene.ask("GET", path)
        assert (status, problem["error"]) == (503, "busy")
        assert (await scene.ask("GET", WORKERS))[0] == 200
        for reader in readers:
            reader.close()
        while (await scene.unix.get(path)).status != 200:
            await asyncio.sleep(0.001)

    drive(tmp_path, scenario)


def test_garbage_on_the_wire_is_refused_and_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(scene: Scene) -> None:
        bad_header = b"GET / HTTP/1.1\r\nA: \0\r\n\r\n"
        tls = b"\x16\x03\x01\x02\x00\x01\r\n\r\n"
        for garbage in (tls, b"GET\r\n\r\n", b"\0" * 100_000, bad_header):
            reader, writer = await asyncio.open_connection(*scene.place)
            writer.write(garbage)
            assert b" 400 " in (await reader.read()).partition(b"\r\n")[0]
            writer.close()
        assert (await scene.ask("GET", WORKERS))[0] == 200

    drive(tmp_path, scenario)
    assert caplog.records == []
