"""Checks on the stack as `docker compose up` makes it, before any worker runs."""

import errno
import re
import socket
import urllib.request

import yaml

from .scraped import scrape
from .sidecar_docker_daemon import docker, inspect
from .stack_scene import (
    ALERTMANAGER,
    CHECKOUT,
    PROMETHEUS,
    ask,
    await_series,
    compose,
    container,
    hostname,
    log_of,
    series,
    status_of,
)
from .workers import wait_for

NOBODY = 65534
SERVERS = ("exporter", "prometheus", "alertmanager", "grafana")
LOOPBACK = "127.0.0.1"
PYTHON = "/opt/worker-exporter/bin/python"


def comes_up() -> None:
    """With nothing given; each part waits for what it needs."""
    compose("up", "--detach", "--wait", "--no-build")


def all_are_well() -> None:
    """Every health check passes; setup has done its work and ended."""
    states = {name: container(name)["State"] for name in (*SERVERS, "setup")}
    health = {name: states[name]["Health"]["Status"] for name in SERVERS}
    assert set(health.values()) == {"healthy"}, health
    assert (states["setup"]["Status"], states["setup"]["ExitCode"]) == ("exited", 0), states


def image_has_no_more_than_it_needs() -> None:
    """Neither root, nor pip, nor what it was built of."""
    said = inspect("worker-exporter")["Config"]
    assert (said["User"], said["StopSignal"]) == (f"{NOBODY}:{NOBODY}", "SIGTERM")
    assert said["Labels"]["org.opencontainers.image.base.name"].startswith("python:"), said
    looking = "import os, importlib.util; print(os.listdir('/'), importlib.util.find_spec('pip'))"
    words = ("run", "--rm", "--network=none", f"--entrypoint={PYTHON}", "worker-exporter")
    found = docker(*words, "-c", looking).stdout
    assert "'opt'" in found and "'src'" not in found and "'wheel'" not in found, found
    assert found.endswith(" None\n"), found


def all_are_confined() -> None:
    """Nobody runs as root, has a capability, can get one, or can write to its image."""
    for name in SERVERS:
        said = container(name)
        status = status_of(said["State"]["Pid"])
        owner = 472 if name == "grafana" else NOBODY
        assert status["Uid"].split() == [str(owner)] * 4, (name, status["Uid"])
        for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, (name, kind)
        assert status["NoNewPrivs"] == "1", name
        written = docker("exec", said["Id"], "sh", "-c", ": > /new", check=False)
        assert "Read-only file system" in written.stderr, (name, written)


def only_loopback_is_served() -> None:
    """What is published is on 127.0.0.1, and there only."""
    ports = {"exporter": 10390, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000}
    (bridge,) = (
        each["Gateway"] for each in container("exporter")["NetworkSettings"]["Networks"].values()
    )
    for name, port in ports.items():
        published = container(name)["NetworkSettings"]["Ports"].values()
        assert list(published) == [[{"HostIp": LOOPBACK, "HostPort": str(port)}]], (name, published)
        socket.create_connection((LOOPBACK, port), 10).close()
        with socket.socket() as attempt:
            failed = attempt.connect_ex((bridge, port))
        assert failed == errno.ECONNREFUSED, (name, failed)


def grafana_has_what_it_reads() -> None:
    """Its user can read dashboards, provisioning and the password, which nobody else is told."""
    files = ("/secrets/grafana-admin", "/dashboards/fleet.json", "/etc/stack/grafana.ini")
    words = ("exec", container("grafana")["Id"], "head", "-n", "1", *files)
    said = docker(*words, "/etc/grafana/provisioning/dashboards/workers.yml").stdout
    headed = [part.partition(" <==\n")[::2] for part in said.split("==> ")[1:]]
    first = {name: text.strip() for name, text in headed}
    assert all(first.values()) and len(first) == 4, first
    password = first["/secrets/grafana-admin"]
    assert len(password) >= 20 and password not in "".join(log_of("setup")), password
    mounts = {name: container(name)["Mounts"] for name in SERVERS}
    knows = {name for name in SERVERS for each in mounts[name] if "secrets" in each["Source"]}
    assert knows == {"grafana"}, knows


def exporter_has_nothing_to_complain_of() -> None:
    """No warning at any scrape, and no collector failed."""
    scrapes = [scrape() for _ in range(2)]
    success = dict(scrapes[-1].samples["worker_exporter_collector_success"])
    assert success and set(success.values()) == {1.0}, success
    lines = log_of("exporter")
    assert any('msg="listening"' in line for line in lines), lines
    assert not [line for line in lines if re.search(r"level=(warn|error)|Traceback", line)], lines


def node_is_the_host() -> None:
    """Prometheus scrapes all that it should, and calls this host by its name."""
    await_series('count(up) == 4 and on () up{job="worker-exporter"} == 1')
    up = {labels["job"]: (labels.get("node"), value) for labels, value in series("up")}
    assert up == {
        "worker-exporter": (hostname(), 1),
        "prometheus": (None, 1),
        "alertmanager": (None, 1),
        # What stands in for it has no metrics.
        "grafana": (None, 0),
    }, up
    ((labels, _),) = series("worker_exporter_build_info")
    assert labels["node"] == hostname()


def rules_are_loaded() -> None:
    """All groups of alerts/, with all their rules."""
    groups = ask(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
    loaded = {(group["name"], len(group["rules"])) for group in groups}
    files = [yaml.safe_load(path.read_text()) for path in (CHECKOUT / "alerts").glob("*.yml")]
    shipped = {(group["name"], len(group["rules"])) for file in files for group in file["groups"]}
    assert loaded == shipped != set(), (loaded, shipped)


def changed_rules_are_seen() -> None:
    """A rule file that an editor puts in place of the old one is there after a reload."""
    path = CHECKOUT / "alerts" / "own.yml"
    path.write_text("groups: [{name: own, rules: [{record: own:one, expr: vector(1)}]}]\n")
    try:
        _reload()
        groups = ask(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
        assert "own" in {group["name"] for group in groups}
    finally:
        path.unlink()
        _reload()


def alerts_reach_alertmanager() -> None:
    """The alert that always fires is there."""

    def names() -> set[str]:
        return {each["labels"]["alertname"] for each in ask(f"{ALERTMANAGER}/api/v2/alerts")}

    wait_for(lambda: "WorkerWatchdog" in names(), "WorkerWatchdog at Alertmanager")
    (alert,) = (
        each
        for each in ask(f"{ALERTMANAGER}/api/v2/alerts")
        if each["labels"]["alertname"] == "WorkerWatchdog"
    )
    assert alert["generatorURL"].startswith("http://localhost:9090/"), alert


def _reload() -> None:
    request = urllib.request.Request(f"{PROMETHEUS}/-/reload", method="POST")
    urllib.request.urlopen(request, timeout=120).close()
