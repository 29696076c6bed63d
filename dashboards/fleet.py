"""Workers / Fleet: all nodes, and what is wrong now."""

from grafana_foundation_sdk.models import dashboard as models

from dashboards import annotations, links, looks, promql, variables
from dashboards.alerts import firing_now, firing_over_time
from dashboards.devices import devices
from dashboards.frame import dashboard
from dashboards.grid import Row, Section
from dashboards.panels import (
    BYTES,
    BYTES_PER_SECOND,
    RATIO,
    Series,
    alert_above,
    graph,
    number,
)
from dashboards.promql import (
    EXPORTERS,
    GPU,
    NODE,
    NODES,
    RANGE,
    SERVICE,
    SERVICES,
    SIDECARS,
    WORKER,
    counted,
    largest,
    total,
)
from dashboards.tables import Label, Value, matrix, table

_ALERTS = f'{NODES}, service=~"$service|"'


def built() -> models.Dashboard:
    """The dashboard."""
    return dashboard(
        "fleet",
        "All nodes and their workers: what is wrong now, where, and who uses how much.",
        [variables.datasource(), variables.nodes(), variables.services()],
        [annotations.critical_alerts(_ALERTS).enable(False)],
        [
            Section("", [_top_line(), Row(9, [firing_now(_ALERTS, span=24)])]),
            Section("Nodes and services", [Row(7, [_matrix()]), Row(8, [_nodes()])]),
            Section("Who uses most", [Row(8, [_top_cpu(), _top_memory(), _top_vram()])]),
            Section("Over time", _over_time()),
            Section("GPUs", [Row(9, [_gpus()])], collapsed=True),
        ],
    )


def _top_line() -> Row:
    exporters = promql.answers(EXPORTERS)
    ready = f"worker_ready{{{SERVICES}}}"
    kills = promql.oom_kills(SERVICES, RANGE)
    return Row(
        4,
        [
            number(
                "Exporters",
                "Nodes whose exporter answers Prometheus, and those that were there in the last "
                "hour and do not (`up` of the job worker-exporter): those that were taken out of "
                "service, too. Of the workers of a silent node nothing is known, and no other "
                "panel shows them.",
                "short",
                Series(counted(f"{exporters} == 1", exporters), "answering"),
                Series(counted(f"{exporters} == 0", exporters), "silent", steps=looks.ANY_IS_BAD),
                span=4,
                link=links.keeping("exporter", "node"),
            ),
            number(
                "Running",
                "Workers that have a living process (`worker_up`).",
                "short",
                Series(f"sum({largest(WORKER, f'worker_up{{{SERVICES}}}')})", "running"),
                span=3,
            ),
            number(
                "Down",
                "Workers that workers.yaml declares, that nobody stopped on purpose, and that have "
                "no process, on nodes whose exporter answers. Above 0: WorkerDown fires, or will "
                "within two minutes. A dash means that no sidecar says what is declared, or no "
                "exporter answers.",
                "short",
                Series(counted(promql.down(SERVICES), promql.declared(SERVICES)), "down"),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Not ready",
                "Workers that live, but whose last health probe failed (`worker_ready`). A dash "
                "means that none is probed.",
                "short",
                Series(counted(promql.unready(SERVICES), ready), "not ready"),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Critical",
                "Alerts that fire and for which somebody should get up. The table below names "
                "them. It says so if the rules are not loaded: then 0 would mean nothing.",
                "short",
                Series(counted(_alerts("critical"), promql.WATCHDOG), "critical"),
                span=3,
                steps=looks.ANY_IS_BAD,
                empty="no rules loaded",
            ),
            number(
                "Warnings",
                "Alerts that fire and at which somebody should look today. The table below names "
                "them.",
                "short",
                Series(counted(_alerts("warning"), promql.WATCHDOG), "warning"),
                span=3,
                steps=looks.ANY_IS_WARNING,
                empty="no rules loaded",
            ),
            number(
                "In this time range",
                "Processes that the kernel killed for memory (`worker_service_memory_events_total`,"
                " from the services' slices), and restarts by systemd (`worker_restarts_total`), "
                "in the time range. A dash means that no node can tell: without the memory "
                "controller, or without systemd.",
                "short",
                Series(f"round(sum({kills}))", "OOM kills", steps=looks.ANY_IS_BAD),
                Series(
                    f"round(sum({promql.restarts(SERVICES, RANGE)}))",
                    "restarts",
                    steps=looks.ANY_IS_WARNING,
                ),
                span=5,
            ),
        ],
    )


def _alerts(severity: str) -> str:
    firing = promql.firing(f'severity="{severity}", {_ALERTS}')
    return largest(f"alertname, {WORKER}, gpu", firing)


def _matrix() -> models.Panel:
    wrong = f"-1 * count by ({SERVICE}) ({promql.wrong(SERVICES)})"
    running = total(SERVICE, largest(WORKER, f"worker_up{{{SERVICES}}}"))
    return matrix(
        "Workers of each service on each node",
        "A number is how many workers run. A red cell has workers that are wrong (declared and "
        "down, unit failed, or probe failing) and says how many. Gray: none runs, and none should. "
        "A cell leads to its service.",
        "node",
        "service",
        f"{wrong} or {running}",
        span=24,
        texts={
            **{-count: (f"{count} wrong", looks.BAD) for count in range(1, 31)},
            0: ("0", looks.QUIET),
        },
        steps=((-1e9, looks.BAD), (0, looks.QUIET), (1, looks.GOOD)),
        link=links.from_matrix(),
        row_link=links.from_row("exporter", node="Node"),
        empty="No worker is known",
    )


def _nodes() -> models.Panel:
    cpus = largest(NODE, f"worker_node_cpus{{{NODES}}}")
    busy = largest(NODE, f"node:worker_node_cpu_seconds:rate2m{{{NODES}}}")
    available = largest(NODE, f"node:worker_node_memory_available:ratio{{{NODES}}}")
    vram = total(NODE, largest(GPU, "{metric}"))
    used = vram.format(metric=f"worker_node_gpu_memory_used_bytes{{{NODES}}}")
    memory = vram.format(metric=f"worker_node_gpu_memory_total_bytes{{{NODES}}}")
    return table(
        "Nodes",
        "Each node: whether its exporter and its sidecar answer, how busy it is, what waits there, "
        "and its GPU memory. Pressure is the share of time that the worst worker spends waiting "
        "(CPU: some task; memory and IO: all of them). Unattributed GPU memory belongs to no "
        "worker; it is that of the GPU with most of it. Red: no answer, or more than 90 % used.",
        Label("node", "Node", links.from_row("exporter", node="Node")),
        Value("Exporter", promql.answers(EXPORTERS), cell="text", texts=looks.ANSWERS),
        Value("Sidecar", promql.answers(SIDECARS), cell="text", texts=looks.ANSWERS),
        Value("Workers", total(NODE, largest(WORKER, f"worker_up{{{NODES}}}"))),
        Value("CPUs", cpus),
        Value("CPU busy", f"{busy} / {cpus}", RATIO, "gauge", looks.FULL, decimals=0),
        Value("CPU by workers", _of_workers(cpus), RATIO, "gauge", decimals=0),
        Value("Memory used", f"1 - {available}", RATIO, "gauge", looks.FULL, decimals=0),
        Value("CPU waiting", _pressure("cpu_waiting"), RATIO, "text", looks.WAITING, decimals=0),
        Value(
            "Memory stalled", _pressure("memory_stalled"), RATIO, "text", looks.WAITING, decimals=0
        ),
        Value(
            "IO stalled", _pressure("io_stalled"), RATIO, "text", looks.WAITING_FOR_IO, decimals=0
        ),
        Value(
            "VRAM used",
            f"{used} / {memory}",
            RATIO,
            "gauge",
            decimals=0,
            link=links.from_row("gpu", node="Node"),
        ),
        Value(
            "VRAM unattributed",
            largest(NODE, f"worker_node_gpu_unattributed_memory_bytes{{{NODES}}}"),
            BYTES,
            "text",
            looks.FOREIGN,
            width=150,
        ),
        span=24,
    )


def _of_workers(cpus: str) -> str:
    return f"{largest(NODE, f'node:worker_cpu_seconds:rate2m{{{NODES}}}')} / {cpus}"


def _pressure(kind: str) -> str:
    resource, _, state = kind.partition("_")
    return largest(NODE, f"node:worker_pressure_{resource}_{state}_seconds:max_rate5m{{{NODES}}}")


def _top(title: str, description: str, header: str, expression: str, unit: str) -> models.Panel:
    return table(
        title,
        f"{description} A row leads to its worker.",
        Label("node", "Node"),
        Label("service", "Service", links.from_row("service", node="Node", service="Service")),
        Label(
            "instance",
            "Instance",
            links.from_row("worker", node="Node", service="Service", instance="Instance"),
        ),
        Value(header, f"topk(10, {expression})", unit, "gauge", decimals=2),
        span=8,
        sort_by=header,
        empty="No worker tells",
    )


def _top_cpu() -> models.Panel:
    return _top(
        "CPU",
        "The ten workers that use most CPU, in cores, over the last two minutes.",
        "Cores",
        largest(WORKER, f"worker:worker_cpu_seconds:rate2m{{{SERVICES}}}"),
        "short",
    )


def _top_memory() -> models.Panel:
    return _top(
        "Memory",
        "The ten workers that hold most memory, page cache not counted; on nodes without the "
        "memory controller the sum over their processes, in which what they share counts twice.",
        "Memory",
        f"({promql.memory_used(SERVICES)})",
        BYTES,
    )


def _top_vram() -> models.Panel:
    return _top(
        "GPU memory",
        "The ten workers that hold most GPU memory, over all GPUs of their node.",
        "VRAM",
        largest(WORKER, f"worker:worker_gpu_memory_used_bytes:sum{{{SERVICES}}}"),
        BYTES,
    )


def _over_time() -> list[Row]:
    cpus = largest(NODE, f"worker_node_cpus{{{NODES}}}")
    busy = largest(NODE, f"node:worker_node_cpu_seconds:rate2m{{{NODES}}}")
    available = largest(NODE, f"node:worker_node_memory_available:ratio{{{NODES}}}")
    running = total("service", largest(WORKER, f"worker_up{{{SERVICES}}}"))
    to_exporter = links.from_series("exporter", "node")
    return [
        Row(
            8,
            [
                firing_over_time(_ALERTS, span=12),
                graph(
                    "Workers running by service",
                    "How many workers of each service have a process (`worker_up`). A step down "
                    "that nobody made is an outage; a gap means that nothing was known.",
                    "short",
                    Series(running, "{{service}}"),
                    span=12,
                    stacked=True,
                ),
            ],
        ),
        Row(
            8,
            [
                graph(
                    "CPU busy by node",
                    "Share of all CPUs of a node that is in use, by whomever (/proc/stat). Near "
                    "100 % its workers wait for each other: see the pressure.",
                    RATIO,
                    Series(f"{busy} / {cpus}", "{{node}}"),
                    span=8,
                    maximum=1,
                    link=to_exporter,
                ),
                graph(
                    "Memory used by node",
                    "Share of a node's memory that is not available without swapping "
                    "(/proc/meminfo). Near 100 % the kernel reclaims, then kills.",
                    RATIO,
                    Series(f"1 - {available}", "{{node}}"),
                    span=8,
                    maximum=1,
                    link=to_exporter,
                ),
                graph(
                    "Worst memory pressure by node",
                    "Share of time in which the worst worker of a node stood still to wait for "
                    "memory. Above the dashed line for five minutes WorkerMemoryPressure fires.",
                    RATIO,
                    Series(_pressure("memory_stalled"), "{{node}}"),
                    alert_above("worker_memory_stalled:ratio"),
                    span=8,
                    link=to_exporter,
                ),
            ],
        ),
        Row(
            8,
            [
                graph(
                    "CPU by service",
                    "Cores that each service uses over all chosen nodes, also by workers that are "
                    "gone by now (the services' slices).",
                    "short",
                    Series(_by_service("service:worker_cpu_seconds:rate2m"), "{{service}}"),
                    span=8,
                    stacked=True,
                    axis="cores",
                ),
                graph(
                    "Bytes read and written by service",
                    "What each service reads from and writes to disks, over all chosen nodes. "
                    "Absent where IO is not accounted.",
                    BYTES_PER_SECOND,
                    Series(_by_service("service:worker_io_read_bytes:rate2m"), "{{service}} read"),
                    Series(
                        _by_service("service:worker_io_written_bytes:rate2m"),
                        "{{service}} written",
                    ),
                    span=8,
                    stacked=True,
                ),
                graph(
                    "GPU memory by service",
                    "GPU memory that the workers of each service hold, over all chosen nodes.",
                    BYTES,
                    Series(_by_service("service:worker_gpu_memory_used_bytes:sum"), "{{service}}"),
                    span=8,
                    stacked=True,
                ),
            ],
        ),
    ]


def _by_service(record: str) -> str:
    return total("service", largest(SERVICE, f"{record}{{{SERVICES}}}"))


def _gpus() -> models.Panel:
    return devices(NODES, span=24)
