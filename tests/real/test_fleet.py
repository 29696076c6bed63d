"""A fleet: real exporters, Prometheus in agent mode beside each, and rules evaluated centrally on
what they send, by a Prometheus and by VictoriaMetrics with vmalert.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench.prometheus import Prometheus, Sample, wait_for
from tests.real import remote_write
from tests.real.fleet_support import (
    ROOT,
    RULES,
    Server,
    agent,
    copied_deployment,
    edited,
    http_sd,
    prometheus,
    victoriametrics,
    vmalert,
)
from tests.support import (
    CannotMakeCgroupsError,
    RunningExporter,
    end,
    join,
    made_slice,
    make_worker,
    running_exporter,
)
from tests.tools import missing, require

NODES = ("edge-a", "edge-b")
OURS = 'node=~"edge-.*"'
BURN = """
import time
while True:
    end = time.process_time() + 0.03
    while time.process_time() < end: pass
    time.sleep(0.07)
"""
BUSY = (sys.executable, "-I", "-S", "-c", BURN)
IDLE = ("sleep", "1000")
OFTEN = {"scrape_interval: 15s": "scrape_interval: 1s"}
STORAGES = ("prometheus", "victoriametrics")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two nodes whose agents send all to both storages, which both evaluate the rules."""

    exporters: dict[str, RunningExporter]
    agents: dict[str, Server]
    prometheus: Server
    victoriametrics: Server
    vmalert: Server

    def storage(self, name: str) -> Server:
        return self.prometheus if name == "prometheus" else self.victoriametrics

    def rules_of(self, name: str) -> Server:
        """Who evaluates the rules on that storage."""
        return self.prometheus if name == "prometheus" else self.vmalert


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    for program in ("prometheus", "victoria-metrics", "vmalert"):
        require(program)
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        central = stack.enter_context(
            prometheus(folder / "central", OFTEN, "--web.enable-remote-write-receiver")
        )
        metrics = stack.enter_context(victoriametrics(folder / "victoriametrics"))
        alerts = stack.enter_context(
            vmalert(folder / "vmalert", metrics, folder / "central" / "rules")
        )
        for storage in (central, metrics):
            write_history(storage)
        exporters = {
            name: _exporter(stack, name, command)
            for name, command in zip(NODES, (BUSY, IDLE), strict=True)
        }
        agents = {
            name: stack.enter_context(
                agent(folder / name, name, _sending(label, exporters[name], central, metrics))
            )
            for name, label in zip(NODES, ("edge-a", "${NODE}"), strict=True)
        }
        yield Fleet(exporters, agents, central, metrics, alerts)


def _exporter(stack: ExitStack, node: str, command: tuple[str, ...]) -> RunningExporter:
    """The exporter of a node, whose worker llm/8080 runs `command`."""
    name = f"fleet{os.getpid()}{node.removeprefix('edge-')}.slice"
    try:
        directory = stack.enter_context(made_slice(name))
    except CannotMakeCgroupsError as error:
        missing(str(error))
    process = subprocess.Popen(command)
    stack.callback(end, process)
    join(make_worker(directory, "llm", "8080"), process.pid)
    flags = (f"--worker.slice={name}", "--no-collector.units")
    return stack.enter_context(running_exporter(*flags))


def _sending(label: str, exporter: RunningExporter, *storages: Server) -> dict[str, str]:
    """What to change in the shipped agent.yml for a node, named by `label`.

    Nobody answers at the port of its sidecar.
    """
    soon = "\n    queue_config: {batch_send_deadline: 200ms}"
    urls = "\n  - url: ".join(f"{each.url}/{remote_write.PATH}{soon}" for each in storages)
    return {
        **OFTEN,
        "node: this-host": f"node: {label}",
        "localhost:10390": f"{exporter.host}:{exporter.port}",
        "http://metrics.example.org:9090/api/v1/write": urls,
    }


def write_history(storage: Server) -> None:
    """What agents sent of two nodes until minutes ago: one died, of the other all was taken out."""
    now = time.time()
    samples = [(now - 900 + 15 * number, 1.0) for number in range(47)]
    died, removed = (
        {"__name__": "up", "job": "worker-exporter", "node": node, "instance": "x:10390"}
        for node in ("died", "removed")
    )
    ended = (samples[-1][0] + 15, None)
    remote_write.write_samples(storage.url, [(died, samples), (removed, [*samples, ended])])


def by_node(samples: list[Sample]) -> dict[str, float]:
    """The values by the label `node`, which must be different in each."""
    values = {sample.labels["node"]: sample.value for sample in samples}
    assert len(values) == len(samples), samples
    return values


def found_on_both(storage: Server, expression: str) -> dict[str, float]:
    """The values of `expression` by node, once both nodes have one."""

    def look() -> dict[str, float]:
        values = by_node(storage.queries.query(expression))
        return values if set(values) == set(NODES) else {}

    return wait_for(look, f"{expression} of both nodes")


@pytest.mark.parametrize("name", STORAGES)
def test_what_two_agents_send_stays_apart(fleet: Fleet, name: str) -> None:
    storage = fleet.storage(name)
    found_on_both(storage, 'worker_cpu_seconds_total{mode="user"} >= 0')
    worker = 'worker_up{node="edge-a",service="llm"}'
    one = wait_for(lambda: storage.queries.query(worker), worker)
    assert [sample.labels for sample in one] == [
        {
            "__name__": "worker_up",
            "job": "worker-exporter",
            "node": "edge-a",
            "service": "llm",
            "instance": "8080",
        }
    ]
    wait_for(
        lambda: storage.queries.query('worker_cpu_seconds_total{node="edge-a",mode="user"} > 0.3'),
        "CPU time of the busy worker",
    )
    time = 'worker_cpu_seconds_total{node="edge-b",mode="user"}'
    idle = wait_for(lambda: storage.queries.query(time), time)
    assert [sample.value < 0.2 for sample in idle] == [True]
    resets = by_node(storage.queries.query('resets(worker_cpu_seconds_total{mode="user"}[5m])'))
    assert resets == {"edge-a": 0, "edge-b": 0}


@pytest.mark.parametrize("name", STORAGES)
def test_targets_of_an_agent_are_told_by_node_too(fleet: Fleet, name: str) -> None:
    storage = fleet.storage(name)
    up = f'up{{job="worker-exporter",{OURS}}}'
    assert found_on_both(storage, f"{up} == 1") == {"edge-a": 1, "edge-b": 1}
    sidecars = found_on_both(storage, f'up{{job="worker-sidecar",{OURS}}}')
    assert sidecars == {"edge-a": 0, "edge-b": 0}
    [sample] = storage.queries.query('up{job="worker-exporter",node="edge-a"}')
    exporter = fleet.exporters["edge-a"]
    assert sample.labels == {
        "__name__": "up",
        "job": "worker-exporter",
        "node": "edge-a",
        "instance": f"{exporter.host}:{exporter.port}",
    }


@pytest.mark.parametrize("name", STORAGES)
def test_rules_are_recorded_centrally(fleet: Fleet, name: str) -> None:
    cores = "worker:worker_cpu_seconds:rate2m"
    storage = fleet.storage(name)
    wait_for(lambda: storage.queries.query(f'{cores}{{node="edge-a"}} > 0.02'), "the busy worker")
    values = found_on_both(storage, cores)
    assert values["edge-b"] < 0.01 < values["edge-a"]
    assert found_on_both(storage, "node:worker_cpu_seconds:rate2m").keys() == set(NODES)


def rules_in(server: Server) -> list[dict[str, Any]]:
    """All rules, once each has been evaluated."""

    def look() -> list[dict[str, Any]]:
        groups = server.get("api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        done = rules and all(not rule["lastEvaluation"].startswith("0001") for rule in rules)
        return rules if done else []

    return wait_for(look, "every rule to be evaluated")


def shipped(kind: str) -> list[dict[str, Any]]:
    """The rules of the repository that have the key `kind`: alert, or record."""
    documents = [
        yaml.safe_load((RULES / name).read_text()) for name in ("recording.yml", "alerts.yml")
    ]
    groups = [group for document in documents for group in document["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


@pytest.mark.parametrize("name", STORAGES)
def test_no_rule_fails(fleet: Fleet, name: str) -> None:
    rules = rules_in(fleet.rules_of(name))
    assert len(rules) == len(shipped("alert")) + len(shipped("record"))
    assert [rule for rule in rules if rule.get("lastError") or rule["health"] != "ok"] == []


def firing(server: Server) -> set[tuple[str, str]]:
    """The alerts that fire there: name and node."""
    alerts = server.get("api/v1/alerts")["data"]["alerts"]
    return {
        (alert["labels"]["alertname"], alert["labels"].get("node", ""))
        for alert in alerts
        if alert["state"] == "firing"
    }


@pytest.mark.parametrize("name", STORAGES)
def test_alerts_name_the_node(fleet: Fleet, name: str) -> None:
    expected = {("WorkerWatchdog", ""), *(("WorkerSidecarDown", node) for node in NODES)}
    server = fleet.rules_of(name)
    wait_for(lambda: expected <= firing(server), f"{expected} in {name}")
    assert firing(server) - expected <= {("WorkerNodeGone", "died")}
    [alert] = [
        alert
        for alert in server.get("api/v1/alerts")["data"]["alerts"]
        if alert["labels"].get("node") == "edge-b"
    ]
    assert alert["labels"]["severity"] == "critical"
    assert "the worker-sidecar of edge-b." in alert["annotations"]["description"]


def test_every_rule_finds_the_same_in_both(fleet: Fleet) -> None:
    """What a Prometheus makes of the same samples is the measure of what VictoriaMetrics makes."""
    for rule in (*shipped("record"), *shipped("alert")):

        def agree(expression: str = rule["expr"]) -> bool:
            first, second = (
                {
                    frozenset(_named(sample))
                    for sample in fleet.storage(name).queries.query(expression)
                }
                for name in STORAGES
            )
            return first == second

        wait_for(agree, f"the same series of {rule.get('record') or rule['alert']} in both")


def _named(sample: Sample) -> Iterator[tuple[str, str]]:
    """The labels of a sample without those that vmalert puts on what it records."""
    return (each for each in sample.labels.items() if each[0] not in ("__name__", "alertgroup"))


@pytest.mark.parametrize("name", STORAGES)
def test_a_node_whose_agent_died_is_gone(fleet: Fleet, name: str) -> None:
    """Its samples just end, while that of a target that was taken out is ended."""
    server = fleet.rules_of(name)
    wait_for(lambda: ("WorkerNodeGone", "died") in firing(server), "WorkerNodeGone of the dead")
    gone = {node for alert, node in firing(server) if alert == "WorkerNodeGone"}
    assert gone == {"died"}


def test_the_queries_of_the_page_find_the_fleet(fleet: Fleet) -> None:
    """Samples a scrape, versions, and who is behind, which is nobody."""
    page = (ROOT / "docs/fleet.md").read_text()
    samples, versions, behind = re.findall(r"^ *```promql\n *(.*)\n", page, re.MULTILINE)
    prometheus = fleet.prometheus.queries
    assert found_on_both(fleet.prometheus, samples).keys() == set(NODES)
    wait_for(lambda: [each.value for each in prometheus.query(versions)] == [2], "both versions")
    assert prometheus.query(behind) == []


def test_a_target_that_is_taken_out_of_an_agent_ends(fleet: Fleet) -> None:
    """It leaves no trace that looks like a dead agent; an agent that is killed does."""
    sidecar = 'up{job="worker-sidecar",node="edge-a"}'
    reconfigured = fleet.agents["edge-a"]
    config = reconfigured.log.parent / "agent.yml"
    config.write_text(edited(config, {'["localhost:10391"]': "[]"}))
    reconfigured.process.send_signal(signal.SIGHUP)
    for name in STORAGES:
        queries = fleet.storage(name).queries
        wait_for(partial(_ended, queries, sidecar), f"the end of {sidecar} in {name}")

    fleet.agents["edge-b"].process.kill()
    fleet.agents["edge-b"].process.wait()
    for name in STORAGES:
        last = fleet.storage(name).queries.query('up{job="worker-exporter",node="edge-b"}')
        assert len(last) == 1, "it has not ended"


def _ended(queries: Prometheus, selector: str) -> bool:
    return not queries.query(selector)


OFFERED = re.compile(
    r"^( *)# (?=(?:external_labels|http_sd_configs|scheme|tls_config|basic_auth|sample_limit):)",
    re.MULTILINE,
)


@pytest.mark.parametrize("offers", [False, True], ids=["as it is", "with all it offers"])
@pytest.mark.parametrize("name", ["prometheus.yml", "agent.yml"])
def test_promtool_accepts_the_configuration(name: str, offers: bool, tmp_path: Path) -> None:
    folder = copied_deployment(tmp_path / "prometheus")
    file = folder / name
    if offers:
        text, count = OFFERED.subn(r"\1", file.read_text())
        assert count == {"prometheus.yml": 6, "agent.yml": 2}[name]
        file.write_text(text)
    (folder / "ca.crt").touch()
    (folder / "password").touch()
    mode = ["--agent"] if name == "agent.yml" else []
    said = subprocess.run(
        [require("promtool"), "check", "config", *mode, str(file)], capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert "WARNING" not in said.stdout


def test_promtool_accepts_the_rules_where_the_configuration_looks_for_them(tmp_path: Path) -> None:
    folder = copied_deployment(tmp_path / "prometheus")
    said = subprocess.run(
        [require("promtool"), "check", "config", str(folder / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stderr) == (0, "")
    for name, kind in (("recording", "record"), ("alerts", "alert")):
        count = len(yaml.safe_load((RULES / f"{name}.yml").read_text())["groups"][0]["rules"])
        assert f"{name}.yml\n  SUCCESS: {count} rules found" in said.stdout, kind


def targets(server: Server) -> set[tuple[str, str, str]]:
    """The active targets: job, node, address."""
    active = server.get("api/v1/targets?state=active")["data"]["activeTargets"]
    return {
        (
            target["labels"]["job"],
            target["labels"]["node"],
            target["discoveredLabels"]["__address__"],
        )
        for target in active
    }


def test_targets_come_and_go_with_files_and_servers(tmp_path: Path) -> None:
    require("prometheus")
    folder = tmp_path / "central"
    listed: list[dict[str, Any]] = [{"targets": ["127.0.0.3:10390"], "labels": {"node": "c"}}]
    with http_sd(listed) as url, prometheus(folder, http_sd_from(url)) as server:
        write_targets(
            folder,
            {"targets": ["127.0.0.1:10390", "127.0.0.1:10391"], "labels": {"node": "a"}},
            {"targets": ["127.0.0.2:10390"]},
        )
        expected = {
            ("worker-exporter", "a", "127.0.0.1:10390"),
            ("worker-sidecar", "a", "127.0.0.1:10391"),
            ("worker-exporter", "127.0.0.2", "127.0.0.2:10390"),
            ("worker-exporter", "c", "127.0.0.3:10390"),
        }
        wait_for(lambda: targets(server) == expected, "the targets")

        listed[0]["labels"]["node"] = "d"
        write_targets(folder, {"targets": ["127.0.0.2:10390"]})
        expected = {
            ("worker-exporter", "127.0.0.2", "127.0.0.2:10390"),
            ("worker-exporter", "d", "127.0.0.3:10390"),
        }
        wait_for(lambda: targets(server) == expected, "the changed targets")


def http_sd_from(url: str) -> dict[str, str]:
    """The edit that takes what the configuration offers for http_sd, asked at `url` each second."""
    return {
        '# http_sd_configs: [{url: "http://inventory.example.org/workers"': (
            f'http_sd_configs: [{{url: "{url}"'
        ),
        "refresh_interval: 1m": "refresh_interval: 1s",
    }


def write_targets(folder: Path, *groups: dict[str, Any]) -> None:
    """The file of targets, replaced at once."""
    written = folder / "written.yml"
    written.write_text(json.dumps(groups))
    written.rename(folder / "targets" / "written.yml")
