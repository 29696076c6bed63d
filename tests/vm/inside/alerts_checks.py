"""Checks on the way from the kernel's kill to a person, and on every query of what is shipped."""

import os
import signal

from tests.alerting import Alert
from tests.queries import check

from .alerts_scene import NODE, Scene, pid
from .sidecar_service_scene import api, run, show, unit_of
from .workers import wait_for

DYING, STOPPED = "llm/dies", "llm/stops"

# What finds nothing here, and why; everything else has to find something.
ABSENT = {
    "worker_last_run_peak_memory_bytes": "systemd tells it from 254 on",
    "rules / node:worker_targets_silent:count": "every target answers",
    "rules / service:worker_oom_kills_at_birth:min3m": "all slices were there before Prometheus",
    "gpu / Gone GPUs / A": "no GPU is gone",
    "(gpu|exporter) / annotation / Critical alerts": "what is critical here is about a worker",
}


def everything_is_scraped(scene: Scene) -> None:
    """All workers, what systemd says of them, and who is declared."""
    query = scene.prometheus.query
    wait_for(lambda: bool(query('count(worker_up{service="llm"} == 1) == 3')), "the workers")
    wait_for(
        lambda: bool(query('count(worker_desired{service="llm"} == 1) == 3')), "who is declared"
    )
    wait_for(lambda: bool(query('worker_unit_state{service="llm",state="active"} == 1')), "states")
    # So that the kill is an increase.
    kills = 'worker_service_memory_events_total{service="llm",event="oom_kill"}'
    wait_for(lambda: bool(query(f"count_over_time({kills}[1m]) > 1")), "kills of before")
    wait_for(lambda: bool(query("worker_gpu_memory_used_bytes")), "the GPU's figures")
    # A launch that Prometheus sees as one: the first were before its first scrape.
    launched = "worker_sidecar_launch_duration_seconds_count"
    wait_for(lambda: bool(query(f"count_over_time({launched}[1m]) > 1")), "launches of before")
    status, answer = api("POST", "/api/v1/workers", {"service": "llm", "instance": "late"})
    assert status == 201, answer
    requests = "worker_sidecar_api_requests_total"
    wait_for(lambda: bool(query(f"count_over_time({requests}[1m]) > 1")), "its request")


def oom_kill_is_told(scene: Scene) -> None:
    """At a receiver, by service, and the description names the instance.

    Prometheus is held meanwhile: no scrape comes between the kill and systemd's notice of it.
    """
    run("stop", *STOPPED.split("/"))
    os.kill(scene.prometheus.pid, signal.SIGSTOP)
    try:
        os.kill(pid(DYING), signal.SIGUSR1)
        wait_for(lambda: show(unit_of(DYING), "Result") == "oom-kill", "the kill")
    finally:
        os.kill(scene.prometheus.pid, signal.SIGCONT)
    receiver, killed = scene.inbox.alert("WorkerOOMKilled")
    assert receiver == "warning"
    assert killed == Alert(
        True,
        {"alertname": "WorkerOOMKilled", "severity": "warning", "node": NODE, "service": "llm"},
        {
            "summary": "The kernel killed a process of a worker because memory ran out.",
            "description": f"A process of the service llm on {NODE} was killed for memory in the "
            "last ten minutes; llm/dies ended by it.",
            "runbook_url": "docs/runbooks/WorkerOOMKilled.md",
        },
    ), killed


def failed_unit_is_told(scene: Scene) -> None:
    """With systemd's word for how it ended."""
    receiver, failed = scene.inbox.alert("WorkerFailed", instance="dies")
    assert receiver == "warning"
    assert failed.labels == _labels("WorkerFailed", "warning")
    said = f"llm/dies on {NODE} is failed with the result oom-kill."
    assert failed.annotations["description"] == said, failed


def dead_worker_is_told(scene: Scene) -> None:
    """It is declared, so somebody gets up."""
    receiver, down = scene.inbox.alert("WorkerDown", instance="dies")
    assert receiver == "critical"
    assert down.labels == _labels("WorkerDown", "critical")
    assert down.annotations["description"].startswith(f"llm/dies on {NODE} is declared"), down


def stopped_worker_is_silent(scene: Scene) -> None:
    """It was stopped before the other died, which was told by now: so it would have been, too."""
    query = scene.prometheus.query
    evaluated = 'timestamp(ALERTS{alertname="WorkerWatchdog"})'
    before = query(evaluated)[0].value
    wait_for(lambda: query(evaluated)[0].value > before, "one more evaluation")
    wanted = 'last_over_time(worker_desired{service="llm",instance="stops"}[1m])'
    assert [sample.value for sample in query(wanted)] == [0]
    assert not query('last_over_time(ALERTS{service="llm",instance="stops"}[15m])')
    told = {
        (alert.name, alert.labels.get("instance", ""))
        for message in scene.inbox.messages
        for alert in message.alerts
        if alert.labels.get("service") == "llm"
    }
    assert told == {("WorkerOOMKilled", ""), ("WorkerFailed", "dies"), ("WorkerDown", "dies")}, told


def every_query_finds_something(scene: Scene) -> None:
    """Each of every dashboard and rule: here all controllers are, systemd, and a driver.

    Those that ask for this moment must not come upon a scrape that was too slow for its second.
    """
    scene.scrape_every(5)
    check(scene.prometheus.url, ABSENT)


def _labels(name: str, severity: str) -> dict[str, str]:
    worker = {"node": NODE, "service": "llm", "instance": "dies"}
    return {"alertname": name, "severity": severity, **worker}
