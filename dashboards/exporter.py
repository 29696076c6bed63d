"""Workers / Exporter: the health and the cost of the exporter and the sidecar themselves."""

from grafana_foundation_sdk.models import dashboard as models

from dashboards import annotations, looks, variables
from dashboards.alerts import alerts_over_time
from dashboards.frame import dashboard
from dashboards.grid import Row, Section
from dashboards.panels import (
    BYTES,
    EVENTS_PER_SECOND,
    NUMBER,
    SECONDS,
    Series,
    alert_above,
    graph,
    limit,
    number,
    timeline,
)
from dashboards.promql import (
    EXPORTERS,
    INTERVAL,
    NODE,
    NODES,
    RANGE,
    SIDECARS,
    answers,
    counted,
    largest,
    per_second,
    total,
)
from dashboards.tables import Label, Value, table

_OWN_ALERTS = f'{NODES}, service=""'
"""Those that are about no worker and no service."""


def built() -> models.Dashboard:
    """The dashboard."""
    return dashboard(
        "exporter",
        "Whether the exporters and sidecars can be believed, and what they cost. When other "
        "dashboards have gaps, the reason is here.",
        [variables.datasource(), variables.nodes()],
        [annotations.critical_alerts(_OWN_ALERTS)],
        [
            Section("", [_top_line(), Row(8, [_nodes()]), Row(7, [_failing(), _alerts()])]),
            Section(
                "What is left out",
                [Row(8, [_read_errors(), _left_out(), _memory_source()])],
            ),
            Section(
                "What a scrape costs",
                [
                    Row(8, [_duration(), _collectors(), _samples()]),
                    Row(8, [_cpu("exporter"), _memory("exporter"), _descriptors()]),
                ],
            ),
            Section(
                "Sidecar",
                [
                    Row(8, [_launches(), _probes(), _requests()]),
                    Row(
                        8,
                        [_launch_seconds(), _probe_seconds(), _cpu("sidecar"), _memory("sidecar")],
                    ),
                ],
                collapsed=True,
            ),
        ],
    )


def _of(metric: str) -> str:
    return largest(NODE, f"{metric}{{{NODES}}}")


def _both(job: str, matchers: str, about: str) -> models.Panel:
    targets = answers(matchers)
    return number(
        f"{job}s",
        f"How many {job.lower()}s answer Prometheus, and how many were there in the last hour and "
        f"do not (`up`). {about}",
        NUMBER,
        Series(counted(f"{targets} == 1", targets), "answering"),
        Series(counted(f"{targets} == 0", targets), "silent", steps=looks.ANY_IS_BAD),
        span=4,
        empty="no target",
    )


def _top_line() -> Row:
    success = f"worker_exporter_collector_success{{{NODES}}}"
    errors = f"increase(worker_exporter_read_errors_total{{{NODES}}}{RANGE})"
    return Row(
        4,
        [
            _both("Exporter", EXPORTERS, "Of the workers of a silent one nothing is known at all."),
            _both(
                "Sidecar",
                SIDECARS,
                "Where one is silent nobody probes workers, and none that is down is noticed.",
            ),
            number(
                "Failing",
                "Collectors that could not do all their work in the last scrape, over all nodes. "
                "What they could not read is missing everywhere; the panel below names them.",
                NUMBER,
                Series(counted(f"{largest('node, collector', success)} == 0", success), "failing"),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Left out",
                "Cgroups that are in no series: over --worker.max, with a name that is no label "
                "value, or with the name of another (a duplicate). No alert covers them.",
                NUMBER,
                Series(
                    f"sum({_of('worker_exporter_dropped_workers')}"
                    f" + {_of('worker_exporter_duplicate_workers')})",
                    "left out",
                ),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Read errors",
                "Reads of kernel files that failed though the file is there, or made no sense, in "
                "the time range.",
                NUMBER,
                Series(
                    f"round(sum({largest('node, file', errors)}))"
                    f" or 0 * sum({_of('worker_exporter_workers')})",
                    "errors",
                ),
                span=4,
                steps=looks.ANY_IS_WARNING,
            ),
            number(
                "Slowest",
                "The node whose scrape takes longest, by Prometheus' clock. Above 5 s for five "
                "minutes WorkerScrapeSlow fires; above scrape_timeout all its figures are lost.",
                SECONDS,
                Series(f"max(scrape_duration_seconds{{{EXPORTERS}}})", "slowest"),
                span=3,
                steps=looks.SLOW,
            ),
            number(
                "Samples",
                "Samples in one scrape of all chosen exporters together: what Prometheus has to "
                "store.",
                NUMBER,
                Series(
                    f"sum({largest(NODE, f'scrape_samples_scraped{{{EXPORTERS}}}')})", "samples"
                ),
                span=3,
            ),
        ],
    )


def _nodes() -> models.Panel:
    version = f"{NODE}, version, python"
    start = largest(NODE, f"process_start_time_seconds{{{EXPORTERS}}}")
    return table(
        "Each exporter",
        "The exporter of each node: whether it and the sidecar answer, what runs, how many workers "
        "it sees and leaves out, what a scrape takes, and what it uses. More than one target means "
        "that two exporters share a node's name and mix silently. Different versions are an "
        "upgrade that is not finished.",
        Label("node", "Node"),
        Label("version", "Version", width=90),
        Label("python", "Python", width=90),
        Value("Answers", answers(EXPORTERS), cell="text", texts=looks.ANSWERS),
        Value("Sidecar", answers(SIDECARS), cell="text", texts=looks.ANSWERS),
        Value("", largest(version, f"worker_exporter_build_info{{{NODES}}}")),
        Value(
            "Targets",
            f"count by ({NODE}) (up{{{EXPORTERS}}})",
            cell="text",
            steps=((2, looks.BAD),),
        ),
        Value("Workers", _of("worker_exporter_workers")),
        Value(
            "Dropped",
            _of("worker_exporter_dropped_workers"),
            cell="text",
            steps=looks.ANY_IS_BAD,
        ),
        Value(
            "Duplicates",
            _of("worker_exporter_duplicate_workers"),
            cell="text",
            steps=looks.ANY_IS_BAD,
        ),
        Value(
            "Scrape",
            largest(NODE, f"scrape_duration_seconds{{{EXPORTERS}}}"),
            SECONDS,
            "text",
            looks.SLOW,
        ),
        Value("Samples", largest(NODE, f"scrape_samples_scraped{{{EXPORTERS}}}")),
        Value("Memory", largest(NODE, f"process_resident_memory_bytes{{{EXPORTERS}}}"), BYTES),
        Value("Uptime", f"time() - {start}", SECONDS),
        span=24,
        empty="No exporter is known",
    )


def _failing() -> models.Panel:
    success = f"worker_exporter_collector_success{{{NODES}}}"
    worst = f"min_over_time(worker_exporter_collector_success{{{NODES}}}{RANGE} @ end())"
    each = "node, collector"
    return timeline(
        "Collectors that failed",
        "Every collector that failed at least once in the time range: red while it could not do "
        "all its work. gpu: the driver; units: systemd's bus; others: files of the kernel. The "
        "exporter's log has the reason.",
        Series(
            f"min by ({each}) ({success}) and on ({each}) (min by ({each}) ({worst}) == 0)",
            "{{node}} {{collector}}",
            texts=looks.SUCCESS,
        ),
        Series(f"min({success})", "all together", texts=looks.SUCCESS),
        span=12,
        empty="No collector failed",
    )


def _alerts() -> models.Panel:
    return alerts_over_time(_OWN_ALERTS, span=12)


def _read_errors() -> models.Panel:
    errors = f"increase(worker_exporter_read_errors_total{{{NODES}}}{INTERVAL})"
    return graph(
        "Read errors by file",
        "Reads that failed though the file is there, or made no sense, by file. More than five in "
        "ten minutes and WorkerReadErrors fires: permissions, or a kernel that writes otherwise.",
        NUMBER,
        Series(total("file", largest("node, file", errors)), "{{file}}"),
        span=8,
        bars=True,
    )


def _left_out() -> models.Panel:
    return graph(
        "Workers seen and left out",
        "Workers in each scrape, those that were dropped, and those whose name another one has. "
        "Any that is left out is in no dashboard and no alert.",
        NUMBER,
        Series(_of("worker_exporter_workers"), "seen {{node}}"),
        Series(_of("worker_exporter_dropped_workers"), "dropped {{node}}"),
        Series(_of("worker_exporter_duplicate_workers"), "duplicates {{node}}"),
        span=8,
    )


def _memory_source() -> models.Panel:
    source = f"worker_exporter_memory_source{{{NODES}}}"
    return graph(
        "Where resident memory comes from",
        "How many workers have `worker_memory_rss_bytes` from the cgroup, and how many from "
        "/proc, which is an upper bound: there the memory controller is not on.",
        NUMBER,
        Series(total("source", largest("node, source", source)), "{{source}}"),
        span=8,
        stacked=True,
    )


def _duration() -> models.Panel:
    return graph(
        "How long a scrape takes",
        "By Prometheus' clock, with the network, and by the exporter's own. Far apart: the "
        "network, or a busy node. Above the dashed line for five minutes WorkerScrapeSlow fires.",
        SECONDS,
        Series(largest(NODE, f"scrape_duration_seconds{{{EXPORTERS}}}"), "{{node}} in all"),
        Series(_of("worker_exporter_scrape_duration_seconds"), "{{node}} in the exporter"),
        alert_above("worker_scrape:seconds"),
        span=8,
    )


def _collectors() -> models.Panel:
    seconds = f"worker_exporter_collector_duration_seconds{{{NODES}}}"
    return graph(
        "The slowest node of each collector",
        "How long each collector takes, on the node where it takes longest. units and gpu run "
        "beside the others and are given up when they are late.",
        SECONDS,
        Series(largest("collector", seconds), "{{collector}}"),
        span=8,
    )


def _samples() -> models.Panel:
    return graph(
        "Samples of each scrape",
        "Samples of one scrape, at most 60 a worker. A breach of Prometheus' sample_limit loses "
        "the whole scrape.",
        NUMBER,
        Series(largest(NODE, f"scrape_samples_scraped{{{EXPORTERS}}}"), "{{node}}"),
        span=8,
    )


def _matchers(program: str) -> str:
    return EXPORTERS if program == "exporter" else SIDECARS


def _span(program: str) -> int:
    return 8 if program == "exporter" else 6


def _cpu(program: str) -> models.Panel:
    used = f"rate(process_cpu_seconds_total{{{_matchers(program)}}}{INTERVAL})"
    return graph(
        f"CPU of the {program}",
        f"Cores that each {program} uses. Without scrapes and requests it uses none.",
        NUMBER,
        Series(largest(NODE, used), "{{node}}"),
        span=_span(program),
        axis="cores",
    )


def _memory(program: str) -> models.Panel:
    used = f"process_resident_memory_bytes{{{_matchers(program)}}}"
    return graph(
        f"Memory of the {program}",
        f"Resident memory of each {program}. It grows with the number of workers, and stays "
        "there; a steady rise with the same workers is a leak.",
        BYTES,
        Series(largest(NODE, used), "{{node}}"),
        span=_span(program),
    )


def _descriptors() -> models.Panel:
    return graph(
        "Open files of the exporter",
        "Files that each exporter keeps open, and how many it may (dashed). At the limit it goes "
        "on, and opens files anew for every scrape, which costs more. Absent on kernels before "
        "6.2 with more than 1,024.",
        NUMBER,
        Series(largest(NODE, f"process_open_fds{{{EXPORTERS}}}"), "{{node}}"),
        limit(largest(NODE, f"process_max_fds{{{EXPORTERS}}}"), "limit {{node}}"),
        span=8,
    )


def _counted(metric: str, labels: str, by: str) -> str:
    each = f"rate({metric}{{{NODES}}}{INTERVAL})"
    return total(by, largest(f"node, {labels}", each))


def _launches() -> models.Panel:
    launches = f"increase(worker_sidecar_launches_total{{{NODES}}}{INTERVAL})"
    return graph(
        "Launches by result",
        "Starts that sidecars were asked for, by what became of them. All but started and "
        "already-running are failures: the sidecar's log has the reason.",
        NUMBER,
        Series(total("result", largest("node, service, result", launches)), "{{result}}"),
        span=8,
        bars=True,
    )


def _probes() -> models.Panel:
    return graph(
        "Probes by result",
        "Health probes of all sidecars, by what they found. A drop to nothing with workers "
        "running: they are not probed, and WorkerProbeStale fires.",
        EVENTS_PER_SECOND,
        Series(_counted("worker_sidecar_probes_total", "service, result", "result"), "{{result}}"),
        span=8,
    )


def _requests() -> models.Panel:
    return graph(
        "API requests by method and code",
        "Answers of the sidecars' APIs. 401 and 403 are clients without the right token, 429 a "
        "client that asks too often, 5xx a fault.",
        "reqps",
        Series(
            _counted("worker_sidecar_api_requests_total", "method, code", "method, code"),
            "{{method}} {{code}}",
        ),
        span=8,
    )


def _quantile(metric: str) -> str:
    return f"histogram_quantile(0.9, {per_second('node, le', f'{metric}_bucket{{{NODES}}}')})"


def _launch_seconds() -> models.Panel:
    return graph(
        "How long launches take",
        "The time from a request to the worker's first instruction, for the slowest tenth. Absent "
        "when nothing was launched.",
        SECONDS,
        Series(_quantile("worker_sidecar_launch_duration_seconds"), "9 of 10 within, {{node}}"),
        span=6,
    )


def _probe_seconds() -> models.Panel:
    return graph(
        "How long probes take",
        "How long workers take to answer a probe, for the slowest tenth. A rise comes before "
        "timeouts.",
        SECONDS,
        Series(_quantile("worker_sidecar_probe_duration_seconds"), "9 of 10 within, {{node}}"),
        span=6,
    )
