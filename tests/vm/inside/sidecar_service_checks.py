"""Checks on the sidecar as a service: what it declares, answers, survives and leaves."""

import http.client
import os
import random
import signal
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from prometheus_client.parser import text_string_to_metric_families

from worker_sidecar.control import open_control
from worker_sidecar.errors import NotFoundError
from worker_sidecar.reconcile import Did, Result, apply
from worker_sidecar.spec import load

from .scraped import scrape, start_exporter
from .sidecar_service_scene import (
    DECLARED,
    DECLARED_NAMES,
    DEPLOY,
    FILE,
    METRICS,
    SIDECAR,
    SOCKET,
    SOCKET_GROUP,
    UNIT,
    OverSocket,
    api,
    as_nobody,
    await_service,
    install,
    pids,
    ps,
    run,
    show,
    systemctl,
    unit_of,
)
from .workers import MOUNT, wait_for

WEB = "web/8091"
API = "/api/v1/workers"


def service_starts_what_is_declared() -> None:
    """Installed as the guide says, it starts every declared worker, and says so as systemd does."""
    install()
    assert show(UNIT, "ActiveState") == "active"
    await_service()
    found = ps()
    assert list(found) == DECLARED_NAMES
    for name, worker in found.items():
        assert worker["state"] == "running" and worker["declared"], worker
        assert str(worker["pid"]) == show(unit_of(name), "MainPID")
        assert f"/{worker['cgroup']}" == show(unit_of(name), "ControlGroup")
        assert worker["unapplied"] == [], worker
    assert show(unit_of(WEB), "MemoryMax") == str(96 << 20)
    assert show("worker-web.slice", "MemoryMax") == str(300 << 20)
    assert found["web/8092"]["metadata"]["model"] == "fancy"


def exporter_sees_what_is_declared() -> None:
    """Labels, limits and readiness, from the cgroups alone."""
    start_exporter()
    labels = {"service": "web", "instance": "8091"}
    wait_for(lambda: scrape().get("worker_ready", labels) == 1, "the probe of the web server")
    found = scrape()
    assert found.value("worker_info", {**labels, "port": "8091", "model": "plain"}) == 1
    assert found.value("worker_memory_limit_bytes", labels) == 96 << 20
    assert found.value("worker_cpu_limit_cores", labels) == 0.5
    assert found.get("worker_ready", {"service": "rest", "instance": "a"}) is None


def own_metrics() -> None:
    """Who is desired, and the launches, on a port that has nothing else."""
    samples = _own_samples()
    desired = [
        f"{dict(key)['service']}/{dict(key)['instance']}" for key in samples["worker_desired"]
    ]
    assert sorted(desired) == DECLARED_NAMES
    assert set(samples["worker_desired"].values()) == {1.0}
    launches = samples["worker_sidecar_launches_total"]
    assert launches[frozenset({("service", "web"), ("result", "started")})] == 2
    try:
        urllib.request.urlopen(METRICS.replace("/metrics", API))
    except urllib.error.HTTPError as error:
        assert error.code == 404
    else:
        raise AssertionError("the API answers where the metrics are")


def socket_is_for_its_group() -> None:
    """Mode 0660 of the group that was given: another user is refused by the kernel."""
    status = os.stat(SOCKET)
    assert stat.S_IMODE(status.st_mode) == 0o660
    gid = subprocess.check_output(["getent", "group", SOCKET_GROUP], text=True).split(":")[2]
    assert (status.st_uid, str(status.st_gid)) == (0, gid)
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({SOCKET!r})"
    assert as_nobody(f"try: exec({connect!r})\nexcept PermissionError: raise SystemExit(7)") == 7
    assert api("GET", "/healthz")[0] == 200


def second_service_is_refused() -> None:
    """It does not steal the socket."""
    before = os.stat(SOCKET).st_ino
    said = run("serve", "--telemetry-address=off", code=4)
    assert "another server answers on" in said, said
    assert os.stat(SOCKET).st_ino == before
    assert api("GET", "/healthz")[0] == 200


def ten_equal_requests_start_one() -> None:
    """One 201, nine 409; and one process."""
    body = {"service": "web", "instance": "8093", "parameters": {"model": "third"}}
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: api("POST", API, body), range(10)))
    assert sorted(status for status, _ in answers) == [201, *[409] * 9], answers
    kinds = {content["error"] for status, content in answers if status == 409}
    assert kinds == {"already-running"}
    status, worker = api("GET", f"{API}/web/8093")
    assert (status, worker["state"], worker["declared"]) == (200, "running", False)
    assert str(worker["pid"]) == show(unit_of("web/8093"), "MainPID")
    assert worker["metadata"]["model"] == "third"
    status, ended = api("DELETE", f"{API}/web/8093?grace=10")
    assert (status, ended["forced"]) == (200, False), ended
    assert show(unit_of("web/8093"), "LoadState") == "not-found"


def bad_requests_start_nothing() -> None:
    """Each with its status, and no unit more than before."""
    before = systemctl("list-units", "--all", "--plain", "--no-legend", "worker-*")
    for body, expected in (
        ({"service": "nobody_knows", "instance": "1"}, 404),
        ({"service": "web", "instance": "8094", "parameters": {"port": 70000}}, 400),
        ({"service": "web", "instance": "../x"}, 400),
        ({"service": "web", "instance": "a\n"}, 400),
        ({"service": "web", "instance": "cgroup.procs"}, 400),
        ({"service": "x", "instance": "1", "command": ["/bin/true"]}, 403),
        ({"service": "web", "instance": "main", "parameters": {"port": 8091}}, 403),
    ):
        status, answer = api("POST", API, body)
        assert status == expected, (body, status, answer)
    assert systemctl("list-units", "--all", "--plain", "--no-legend", "worker-*") == before


def output_is_followed() -> None:
    """The web server's own line about a request comes while somebody follows."""
    connection = OverSocket("localhost")
    connection.request("GET", f"{API}/web/8091/logs?lines=1&follow=true")
    answer = connection.getresponse()
    assert answer.status == 200
    urllib.request.urlopen("http://127.0.0.1:8091/?mark-of-the-test").read()
    seen = b""
    while b"mark-of-the-test" not in seen:
        piece = answer.read1(65536)
        assert piece, f"the stream ended: {seen!r}"
        seen += piece
    connection.close()


def deliberate_stop_stays() -> None:
    """Over a restart of the sidecar, and until it is started again; it never looks failed."""
    status, ended = api("DELETE", f"{API}/{WEB}")
    assert status == 200, ended
    assert show(unit_of(WEB), "LoadState") == "not-found"
    assert _desired(WEB) == 0
    systemctl("restart", UNIT)
    wait_for(lambda: api("GET", "/healthz")[0] == 200, "the API")
    assert "stays stopped" in run("apply")
    assert ps()[WEB]["state"] == "stopped"
    assert show(unit_of(WEB), "LoadState") == "not-found"
    run("run", *WEB.split("/"))
    assert ps()[WEB]["state"] == "running"
    assert _desired(WEB) == 1


def workers_outlive_the_service() -> None:
    """A restart, and a SIGKILL, of the sidecar: the same processes, and a service that works."""
    before = pids()
    systemctl("restart", UNIT)
    systemctl("kill", "--signal=KILL", UNIT)
    main = show(UNIT, "MainPID")
    systemctl("restart", UNIT)
    assert show(UNIT, "MainPID") != main
    await_service()
    assert pids() == before
    assert api("GET", "/healthz")[0] == 200


def dead_worker_comes_back_at_reload() -> None:
    """SIGHUP applies the file again: what is missing is started, the rest is left alone."""
    before = pids()
    os.kill(int(before["rest/a"]), signal.SIGKILL)
    wait_for(lambda: ps()["rest/a"]["state"] == "failed", "the end of rest/a")
    assert ps()["rest/a"]["result"] == "signal"
    FILE.write_text(DECLARED.replace("{a: , b: , c: }", "{a: , b: , c: , d: }"))
    systemctl("reload", UNIT)
    wait_for(lambda: show(unit_of("rest/d"), "ActiveState") == "active", "rest/d")
    wait_for(lambda: show(unit_of("rest/a"), "ActiveState") == "active", "rest/a")
    after = pids()
    assert {name: pid for name, pid in after.items() if name != "rest/a"} == {
        name: pid for name, pid in before.items() if name != "rest/a"
    }
    FILE.write_text(DECLARED)
    assert "rest/d: stopped" in run("apply", "--prune")
    systemctl("reload", UNIT)


def bad_file_changes_nothing() -> None:
    """The last good one stays in force."""
    FILE.write_text("services: {web: {commando: [x]}}\n")
    before = pids()
    systemctl("reload", UNIT)
    said = run("apply", code=2)
    assert "workers.yaml:1: services.web.commando" in said, said
    assert api("GET", f"{API}/{WEB}")[1]["declared"] is True
    assert pids() == before
    FILE.write_text(DECLARED)
    systemctl("reload", UNIT)


def killed_at_random_moments() -> None:
    """SIGKILL in the middle of a replacement of all that runs, 10 times: the list tells the truth,
    and the second run finishes the work.
    """
    systemctl("stop", UNIT)
    chance = random.Random(10)
    interrupted = 0
    for round_ in range(10):
        FILE.write_text(DECLARED.replace("default: one", f"default: round{round_}"))
        interrupted += _killed_after(chance.uniform(0.1, 2), _replace_all)
        _check_list(round_)
        _replace_all()
        for name in ("rest/a", "rest/b", "rest/c"):
            words = show(unit_of(name), "ExecStart")
            assert f"round{round_}" in words, (round_, name, words)
        assert {result.did for result in _replace_all()} == {Did.NOTHING}
    assert interrupted >= 3, f"only {interrupted} of 10 were in the middle of something"
    FILE.write_text(DECLARED)
    _replace_all()


def killed_in_the_middle_of_a_stop() -> None:
    """A second stop finishes it, and it stays stopped."""
    control = open_control(load(str(FILE)))
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        _killed_after(delay, lambda: control.stop("rest", "b"))
        with suppress(NotFoundError):  # the first one was through
            control.stop("rest", "b")
        assert ("rest", "b") in control.stopped.names()
        assert show(unit_of("rest/b"), "LoadState") == "not-found"
        control.start(control.config.request("rest", "b", {}).spec)
    assert ps()["rest/b"]["state"] == "running"


def socket_activation() -> None:
    """With the socket unit systemd opens the socket, and a request starts the service."""
    source = (DEPLOY / "worker-sidecar.socket").read_text()
    with open("/etc/systemd/system/worker-sidecar.socket", "w") as file:
        file.write(source)
    systemctl("daemon-reload")
    systemctl("start", "worker-sidecar.socket")
    assert show(UNIT, "ActiveState") == "inactive"
    before = os.stat(SOCKET).st_ino
    assert api("GET", "/healthz")[0] == 200
    assert show(UNIT, "ActiveState") == "active"
    systemctl("restart", UNIT)
    assert api("GET", "/healthz")[0] == 200
    assert os.stat(SOCKET).st_ino == before
    systemctl("stop", "worker-sidecar.socket", UNIT)


def tcp_wants_the_token() -> None:
    """Without it 401, with it an answer; a token that others can read is refused."""
    token = FILE.with_name("token")
    token.write_text("0123456789abcdef0123456789abcdef\n")
    command = [
        *(SIDECAR, "serve", "--listen-address=127.0.0.1:10392", f"--token-file={token}"),
        *("--socket=/run/worker-sidecar/tcp.sock", "--telemetry-address=off"),
    ]
    token.chmod(0o644)
    refused = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert refused.returncode == 4, refused
    token.chmod(0o600)
    server = subprocess.Popen(command)
    try:
        wait_for(lambda: _status("") is not None, "the API on TCP")
        assert _status("") == 401
        assert _status("Bearer 0123456789abcdef0123456789abcdee") == 401
        assert _status("Bearer 0123456789abcdef0123456789abcdef") == 200
    finally:
        server.terminate()
        assert server.wait(300) == 0


def doctor_is_content() -> None:
    """On a host as it should be it finds no problem."""
    said = run("doctor")
    assert "problem" not in said, said
    assert "systemd" in said and "unified" in said, said


def down_leaves_nothing() -> None:
    """No unit, no cgroup, no drop-in."""
    systemctl("stop", UNIT)
    run("down")
    assert systemctl("list-units", "--all", "--plain", "--no-legend", "worker-*@*") == ""
    assert not (MOUNT / "worker.slice").exists()
    assert ps() and {each["state"] for each in ps().values()} == {"stopped"}


def _replace_all() -> Sequence[Result]:
    """What `apply --replace` does, without the second that a new Python takes here."""
    config = load(str(FILE))
    outcome = apply(config, open_control(config), replace=True)
    assert not outcome.failed, outcome
    return outcome.results


def _killed_after(seconds: float, act: Callable[[], object]) -> bool:
    """Do it in a process that is killed after that time; whether it was not through by then."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            act()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _check_list(round_: int) -> None:
    """The list against systemctl, which must not change in between."""
    control = open_control(load(str(FILE)))
    for _ in range(50):
        before = {name: _state(name) for name in DECLARED_NAMES}
        said = {status.name: str(status.state) for status in control.list()}
        if {name: _state(name) for name in DECLARED_NAMES} == before:
            break
    words = {
        "active": "running",
        "activating": "starting",
        "deactivating": "stopping",
        "failed": "failed",
    }
    expected = {name: words[state] for name, state in before.items() if state in words}
    assert said == expected, (round_, said, before)


def _state(name: str) -> str:
    return show(unit_of(name), "ActiveState")


def _own_samples() -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    text = urllib.request.urlopen(METRICS).read().decode()
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def _desired(name: str) -> float:
    service, instance = name.split("/")
    key = frozenset({("service", service), ("instance", instance)})
    return _own_samples()["worker_desired"][key]


def _status(authorization: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", 10392, timeout=300)
    try:
        connection.request("GET", API, headers={"Authorization": authorization})
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()
