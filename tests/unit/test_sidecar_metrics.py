"""The sidecar's metrics about itself, read back by a Prometheus client's parsers."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from tests.parsers import read_openmetrics, read_text

from worker_exporter import __version__
from worker_sidecar import errors
from worker_sidecar.metrics import (
    LAUNCH_RESULTS,
    METHODS,
    PROBE_RESULTS,
    STARTED,
    SidecarMetrics,
)

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
GUIDE = Path(__file__).parents[2] / "docs/sidecar.md"
ROW = re.compile(r"\| `(worker_\w+)` \| (\w+) \| (.*?) \|")
LABELS = ("service", "instance", "method", "code", "result", "le")

Figures = dict[tuple[str, ...], float]


@pytest.fixture
def metrics() -> SidecarMetrics:
    return SidecarMetrics(CollectorRegistry())


def families(metrics: SidecarMetrics) -> list[Metric]:
    body, _ = metrics.exposition(OPENMETRICS)
    return list(read_openmetrics(body.decode()))


def figures(metrics: SidecarMetrics) -> Figures:
    return {
        (sample.name, *(sample.labels[name] for name in LABELS if name in sample.labels)): (
            sample.value
        )
        for family in families(metrics)
        for sample in family.samples
    }


def test_launches_of_a_declared_service_are_counted_from_zero(metrics: SidecarMetrics) -> None:
    metrics.declare(["llm"])
    found = figures(metrics)
    kinds = {
        "started",
        "already-running",
        "creation-failed",
        "bad-input",
        "io",
        "permission-denied",
        "refused",
        "failed",
    }
    assert set(LAUNCH_RESULTS) == kinds
    assert {found["worker_sidecar_launches_total", "llm", kind] for kind in kinds} == {0}
    metrics.launched("llm", STARTED)
    metrics.launched("llm", STARTED)
    metrics.launched("llm", errors.AlreadyRunningError.kind)
    found = figures(metrics)
    assert found["worker_sidecar_launches_total", "llm", "started"] == 2
    assert found["worker_sidecar_launches_total", "llm", "already-running"] == 1
    assert found["worker_sidecar_launches_total", "llm", "failed"] == 0


def test_a_desired_worker_declares_its_service(metrics: SidecarMetrics) -> None:
    metrics.desired([("llm", "8080", 1)])
    assert figures(metrics)["worker_sidecar_launches_total", "llm", "started"] == 0


def test_an_unknown_result_is_a_failure(metrics: SidecarMetrics) -> None:
    metrics.declare(["llm"])
    metrics.launched("llm", "kill-failed")
    found = figures(metrics)
    assert found["worker_sidecar_launches_total", "llm", "failed"] == 1
    assert ("worker_sidecar_launches_total", "llm", "kill-failed") not in found


def test_invented_services_make_no_series(metrics: SidecarMetrics) -> None:
    for number in range(100):
        metrics.launched(f"invented{number}", "permission-denied")
        metrics.launch_took(0.5, f"invented{number}")
    found = figures(metrics)
    assert found["worker_sidecar_launches_total", "", "permission-denied"] == 100
    assert found["worker_sidecar_launch_duration_seconds_count", ""] == 100
    assert not [key for key in found if "invented" in "".join(key)]


def test_a_service_that_ran_has_a_name(metrics: SidecarMetrics) -> None:
    metrics.launched("batch", STARTED)
    metrics.launch_took(0.5, "batch")
    found = figures(metrics)
    assert found["worker_sidecar_launches_total", "batch", "started"] == 1
    assert found["worker_sidecar_launch_duration_seconds_count", "batch"] == 1


def test_probes_are_counted_from_zero(metrics: SidecarMetrics) -> None:
    metrics.probing(["llm"])
    found = figures(metrics)
    assert {found["worker_sidecar_probes_total", "llm", each] for each in PROBE_RESULTS} == {0}
    metrics.probed("llm", "timeout")
    assert figures(metrics)["worker_sidecar_probes_total", "llm", "timeout"] == 1


def test_durations_are_summed(metrics: SidecarMetrics) -> None:
    metrics.declare(["llm"])
    for seconds in (0.02, 0.3, 100):
        metrics.launch_took(seconds, "llm")
        metrics.probe_took(seconds, "llm")
    found = figures(metrics)
    for name in ("worker_sidecar_launch_duration_seconds", "worker_sidecar_probe_duration_seconds"):
        assert found[f"{name}_count", "llm"] == 3
        assert found[f"{name}_sum", "llm"] == pytest.approx(100.32)
        assert found[f"{name}_bucket", "llm", "0.025"] == 1
        assert found[f"{name}_bucket", "llm", "0.5"] == 2
        assert found[f"{name}_bucket", "llm", "10.0"] == 2
        assert found[f"{name}_bucket", "llm", "+Inf"] == 3


def test_desired_workers_are_the_last_that_were_told(metrics: SidecarMetrics) -> None:
    def desired() -> Figures:
        return {key: value for key, value in figures(metrics).items() if key[0] == "worker_desired"}

    assert desired() == {}
    metrics.desired([("llm", "8080", 1), ("llm", "8081", 0)])
    assert desired() == {
        ("worker_desired", "llm", "8080"): 1,
        ("worker_desired", "llm", "8081"): 0,
    }
    metrics.desired([("llm", "8081", 1)])
    assert desired() == {("worker_desired", "llm", "8081"): 1}


def test_requests_are_counted_and_invented_methods_share_a_series(metrics: SidecarMetrics) -> None:
    metrics.requested("GET", 200)
    metrics.requested("GET", 200)
    metrics.requested("POST", 429)
    metrics.requested("SPLINE", 405)
    metrics.requested("RETICULATE", 405)
    found = figures(metrics)
    assert found["worker_sidecar_api_requests_total", "GET", "200"] == 2
    assert found["worker_sidecar_api_requests_total", "POST", "429"] == 1
    assert found["worker_sidecar_api_requests_total", "other", "405"] == 2
    assert "other" not in METHODS


def test_the_version_is_told(metrics: SidecarMetrics) -> None:
    [build] = [each for each in families(metrics) if each.name == "worker_sidecar_build_info"]
    [sample] = build.samples
    assert (sample.labels["version"], sample.value) == (__version__, 1)


def test_the_process_is_told(metrics: SidecarMetrics) -> None:
    names = {family.name for family in families(metrics)}
    assert {"process_cpu_seconds", "process_open_fds", "process_start_time_seconds"} <= names


def test_the_accept_header_chooses_the_format(metrics: SidecarMetrics) -> None:
    metrics.declare(["llm"])
    text, text_type = metrics.exposition("text/plain")
    openmetrics, openmetrics_type = metrics.exposition(OPENMETRICS)
    assert text_type == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert openmetrics.endswith(b"# EOF\n")
    assert b"# EOF" not in text
    names = {family.name.removesuffix("_total") for family in read_text(text.decode())}
    assert names == {family.name for family in families(metrics)}


def test_no_creation_times(metrics: SidecarMetrics) -> None:
    metrics.declare(["llm"])
    metrics.launch_took(1, "llm")
    assert b"_created" not in metrics.exposition(OPENMETRICS)[0] + metrics.exposition("")[0]


def test_the_guide_lists_what_is_served(metrics: SidecarMetrics) -> None:
    documented = {
        match[1]: (match[2], set(re.findall(r"`(\w+)`", match[3])))
        for line in GUIDE.read_text().splitlines()
        if (match := ROW.match(line))
    }
    metrics.desired([("llm", "8080", 1)])
    metrics.probing(["llm"])
    metrics.launch_took(1, "llm")
    metrics.probe_took(1, "llm")
    metrics.requested("GET", 200)
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name: (
            family.type,
            set(family.samples[0].labels) - {"le"},
        )
        for family in families(metrics)
        if family.name.startswith("worker_")
    }
    assert documented == served
