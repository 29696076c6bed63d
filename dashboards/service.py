"""Workers / Service: the workers of a service side by side, and what they use in all."""

from grafana_foundation_sdk.models import dashboard as models

from dashboards import annotations, links, looks, promql, variables
from dashboards.alerts import alerts_over_time
from dashboards.frame import dashboard
from dashboards.grid import Row, Section
from dashboards.panels import (
    BYTES,
    BYTES_PER_SECOND,
    EVENTS_PER_SECOND,
    NUMBER,
    RATIO,
    SECONDS,
    Series,
    alert_above,
    graph,
    limit,
    number,
    timeline,
)
from dashboards.promql import (
    INTERVAL,
    ONE_SERVICE,
    RANGE,
    SERVICE,
    WORKER,
    counted,
    largest,
    per_second,
    total,
)
from dashboards.tables import Label, Value, table

_WORKER = "{{node}} {{instance}}"
_TO_WORKER = links.from_series("worker", "node", "service", "instance")


def built() -> models.Dashboard:
    """The dashboard."""
    return dashboard(
        "service",
        "The workers of a service side by side, and what the service uses of its limits in all.",
        [variables.datasource(), variables.nodes(), variables.service_of_nodes()],
        [
            annotations.critical_alerts(ONE_SERVICE),
            annotations.oom_kills(ONE_SERVICE),
            annotations.restarts(ONE_SERVICE),
        ],
        [
            Section("", [_top_line(), Row(9, [_workers()]), Row(6, [_alerts()])]),
            Section(
                "Each worker",
                [
                    Row(7, [_readiness()]),
                    Row(8, [_cpu(), _memory(), _vram()]),
                    Row(8, [_pressure_cpu(), _pressure_memory(), _pressure_io()]),
                    Row(8, [_memory_ratio(), _throttled(), _tasks()]),
                    Row(8, [_read(), _written()]),
                ],
            ),
            Section(
                "The service in all",
                [
                    Row(8, [_total_cpu(), _total_throttled()]),
                    Row(8, [_total_memory(), _total_events()]),
                    Row(8, [_restarts(), _launches(), _probes()]),
                    Row(8, [_total_io(), _launch_seconds()]),
                ],
            ),
        ],
    )


def _each(record: str) -> str:
    return largest(WORKER, f"{record}{{{ONE_SERVICE}}}")


def _most(record: str) -> str:
    return promql.most(WORKER, f"{record}{{{ONE_SERVICE}}}")


def _slice(record: str) -> str:
    return largest(SERVICE, f"{record}{{{ONE_SERVICE}}}")


def _slice_rate(counter: str) -> str:
    return largest(SERVICE, f"rate({counter}{{{ONE_SERVICE}}}{INTERVAL})")


def _top_line() -> Row:
    kills = promql.oom_kills(ONE_SERVICE, RANGE)
    up = f"worker_up{{{ONE_SERVICE}}}"
    return Row(
        4,
        [
            number(
                "Running",
                "Workers of the service that have a living process (`worker_up`).",
                NUMBER,
                Series(f"sum({largest(WORKER, up)})", "running"),
                span=3,
            ),
            number(
                "Down",
                "Workers that workers.yaml declares, that nobody stopped on purpose, and that have "
                "no process, where the exporter answers. A dash means that no sidecar says what is "
                "declared, or that no exporter answers.",
                NUMBER,
                Series(counted(promql.down(ONE_SERVICE), promql.declared(ONE_SERVICE)), "down"),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Not ready",
                "Workers that live, but whose last health probe failed (`worker_ready`). A dash "
                "means that none is probed.",
                NUMBER,
                Series(
                    counted(promql.unready(ONE_SERVICE), f"worker_ready{{{ONE_SERVICE}}}"),
                    "unready",
                ),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "CPU in all",
                "Cores that the service uses, over all chosen nodes.",
                NUMBER,
                Series(f"sum({_slice('service:worker_cpu_seconds:rate2m')})", "cores"),
                span=3,
                decimals=2,
            ),
            number(
                "Of limit",
                "Memory of the service's workers, page cache not counted, against the limit of "
                "its slice; on the node where that is nearest. At 100 % the kernel kills. A dash "
                "means that the slice has no limit.",
                RATIO,
                Series(f"max({_slice('service:worker_memory_limit:ratio')})", "of the limit"),
                span=3,
                steps=looks.FULL,
                decimals=0,
            ),
            number(
                "VRAM",
                "GPU memory that the service's workers hold, over all chosen nodes.",
                BYTES,
                Series(f"sum({_slice('service:worker_gpu_memory_used_bytes:sum')})", "VRAM"),
                span=3,
            ),
            number(
                "OOM kills",
                "Processes of the service that the kernel killed for memory in the time range, "
                "those of workers that are gone too (the slice's memory.events; without a slice "
                "the workers' own).",
                NUMBER,
                Series(f"round(sum({kills}))", "OOM kills"),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Restarts",
                "How often systemd started workers of the service again in the time range. A dash "
                "means that systemd is not asked, or does not run them.",
                NUMBER,
                Series(f"round(sum({promql.restarts(ONE_SERVICE, RANGE)}))", "restarts"),
                span=3,
                steps=looks.ANY_IS_WARNING,
            ),
        ],
    )


def _workers() -> models.Panel:
    read = _each("worker:worker_io_read_bytes:rate2m")
    written = _each("worker:worker_io_written_bytes:rate2m")
    here = links.from_row("worker", "service", node="Node", instance="Instance")
    return table(
        "Workers",
        "Every worker of the service, declared ones without a process too; a click on it opens "
        "it. Compare: the one that differs is the one to look at. Memory does not count page "
        "cache. Pressure is the share of time that a worker waits (CPU: some task; memory and "
        "IO: all tasks). Empty cells are what the host cannot tell, or limits that are not set.",
        Label("node", "Node"),
        Label("instance", "Instance", here),
        Value("State", promql.state(ONE_SERVICE), cell="background", texts=looks.RUNS),
        Value("Probe", _each("worker_ready"), cell="text", texts=looks.READY),
        Value("Unit", promql.unit_state(ONE_SERVICE), cell="text", texts=looks.UNIT),
        Value("CPU cores", _each("worker:worker_cpu_seconds:rate2m"), decimals=2),
        Value(
            "CPU of limit",
            _each("worker:worker_cpu_limit:ratio_rate2m"),
            RATIO,
            "gauge",
            looks.FULL,
            decimals=0,
        ),
        Value("Memory", promql.memory_used(ONE_SERVICE), BYTES),
        Value(
            "Memory of limit",
            _each("worker:worker_memory_limit:ratio"),
            RATIO,
            "gauge",
            looks.FULL,
            decimals=0,
        ),
        Value("IO", f"{read} + {written}", BYTES_PER_SECOND),
        Value(
            "CPU waiting",
            _each("worker:worker_pressure_cpu_waiting_seconds:rate5m"),
            RATIO,
            "text",
            looks.WAITING,
            decimals=0,
        ),
        Value(
            "Memory stalled",
            _each("worker:worker_pressure_memory_stalled_seconds:rate5m"),
            RATIO,
            "text",
            looks.WAITING,
            decimals=0,
        ),
        Value(
            "IO stalled",
            _each("worker:worker_pressure_io_stalled_seconds:rate5m"),
            RATIO,
            "text",
            looks.WAITING_FOR_IO,
            decimals=0,
        ),
        Value(
            "Restarts",
            f"round({promql.restarts(ONE_SERVICE, RANGE)})",
            cell="text",
            steps=looks.ANY_IS_WARNING,
        ),
        Value("GPU memory", _each("worker:worker_gpu_memory_used_bytes:sum"), BYTES),
        Value("Uptime", promql.uptime(ONE_SERVICE), SECONDS),
        span=24,
        empty="No worker is known",
    )


def _alerts() -> models.Panel:
    return alerts_over_time(ONE_SERVICE, span=24)


def _readiness() -> models.Panel:
    ran = f"avg_over_time(worker_up{{{ONE_SERVICE}}}{RANGE} @ end())"
    expected = f"last_over_time(worker_desired{{{ONE_SERVICE}}}{RANGE} @ end())"
    least = f"bottomk(100, {largest(WORKER, ran)} or 0 * {largest(WORKER, expected)})"
    return timeline(
        "State of each worker",
        "Green while a worker has a process, red while it is down though declared; gray when it "
        "was stopped on purpose, or ended and nobody declares it. A gap means that nothing was "
        "known. Of more than 100 only those are shown that ran least.",
        Series(
            f"({promql.state(ONE_SERVICE)}) and on ({WORKER}) {least}", _WORKER, texts=looks.RUNS
        ),
        span=24,
        per_page=20,
        empty="No worker is known",
    )


def _graph(
    title: str,
    description: str,
    unit: str,
    expression: str,
    *more: Series,
    span: int,
    axis: str = "",
) -> models.Panel:
    """A line for each worker, that leads to it; of very many only for the highest."""
    return graph(
        title,
        f"{description} {promql.ONLY_MOST}",
        unit,
        Series(expression, _WORKER),
        *more,
        span=span,
        axis=axis,
        link=_TO_WORKER,
    )


def _cpu() -> models.Panel:
    return _graph(
        "CPU",
        "Cores that each worker uses (cpu.stat). One that is flat at 0 does nothing, one at its "
        "quota is held back: see throttling.",
        NUMBER,
        _most("worker:worker_cpu_seconds:rate2m"),
        span=8,
        axis="cores",
    )


def _memory() -> models.Panel:
    return _graph(
        "Memory",
        "Memory of each worker, page cache not counted (memory.stat); without the memory "
        "controller the sum over its processes. A line that only rises is a leak.",
        BYTES,
        promql.most(WORKER, *promql.memory(ONE_SERVICE)),
        span=8,
    )


def _vram() -> models.Panel:
    return _graph(
        "GPU memory",
        "GPU memory that each worker holds, over all GPUs (the driver, by PID).",
        BYTES,
        _most("worker:worker_gpu_memory_used_bytes:sum"),
        span=8,
    )


def _pressure_cpu() -> models.Panel:
    return _graph(
        "Waiting for CPU",
        "Share of time in which some task of a worker was ready and had no CPU (cpu.pressure). "
        "High with an idle node: its quota; high on all: the node is full.",
        RATIO,
        _most("worker:worker_pressure_cpu_waiting_seconds:rate5m"),
        span=8,
    )


def _pressure_memory() -> models.Panel:
    return _graph(
        "Stalled for memory",
        "Share of time in which a whole worker stood still to wait for memory (memory.pressure). "
        "Above the dashed line for five minutes WorkerMemoryPressure fires.",
        RATIO,
        _most("worker:worker_pressure_memory_stalled_seconds:rate5m"),
        alert_above("worker_memory_stalled:ratio"),
        span=8,
    )


def _pressure_io() -> models.Panel:
    return _graph(
        "Stalled for IO",
        "Share of time in which a whole worker stood still to wait for disks (io.pressure). Above "
        "the dashed line for 15 minutes WorkerIOPressure fires.",
        RATIO,
        _most("worker:worker_pressure_io_stalled_seconds:rate5m"),
        alert_above("worker_io_stalled:ratio"),
        span=8,
    )


def _memory_ratio() -> models.Panel:
    return _graph(
        "Memory of limit",
        "Memory of each worker, page cache not counted, against its limit. Above the dashed line "
        "for five minutes WorkerMemoryNearLimit fires; at 100 % the kernel kills.",
        RATIO,
        _most("worker:worker_memory_limit:ratio"),
        alert_above("worker_memory_limit:ratio"),
        span=8,
    )


def _throttled() -> models.Panel:
    return _graph(
        "Throttled by the CPU quota",
        "Share of its quota's periods in which a worker was stopped (cpu.stat nr_throttled). "
        "Latency suffers before the CPU looks full.",
        RATIO,
        _most("worker:worker_cpu_throttled_periods:ratio_rate5m"),
        alert_above("worker_cpu_throttled_periods:ratio"),
        span=8,
    )


def _tasks() -> models.Panel:
    return _graph(
        "Processes",
        "Processes of each worker (cgroup.procs). A steady rise is a leak of processes.",
        NUMBER,
        _most("worker_processes"),
        span=8,
    )


def _read() -> models.Panel:
    return _graph(
        "Bytes read",
        "What each worker reads from disks (io.stat). Much of it for long means that its model or "
        "data does not fit into the page cache.",
        BYTES_PER_SECOND,
        _most("worker:worker_io_read_bytes:rate2m"),
        span=12,
    )


def _written() -> models.Panel:
    return _graph(
        "Bytes written",
        "What each worker writes to disks (io.stat).",
        BYTES_PER_SECOND,
        _most("worker:worker_io_written_bytes:rate2m"),
        span=12,
    )


def _total_cpu() -> models.Panel:
    return graph(
        "CPU of the service",
        "Cores that all workers of the service use, those that are gone by now too, and what its "
        "slice may use (dashed; absent without a limit).",
        NUMBER,
        Series(_slice("service:worker_cpu_seconds:rate2m"), "{{node}}"),
        limit(_slice("worker_service_cpu_limit_cores"), "limit {{node}}"),
        span=12,
        axis="cores",
    )


def _total_throttled() -> models.Panel:
    return graph(
        "Throttled by the service's quota",
        "Share of the periods, and of the time, in which the quota of the service's slice stopped "
        "its workers. They do not see it in their own figures. Above the dashed line for 15 "
        "minutes WorkerServiceCPUThrottled fires.",
        RATIO,
        Series(
            _slice("service:worker_cpu_throttled_periods:ratio_rate5m"), "of the periods, {{node}}"
        ),
        Series(
            _slice_rate("worker_service_cpu_throttled_seconds_total"),
            "of the time, over all CPUs, {{node}}",
        ),
        alert_above("worker_cpu_throttled_periods:ratio"),
        span=12,
    )


def _total_memory() -> models.Panel:
    return graph(
        "Memory of the service",
        "Memory charged to the service's slice, page cache included, the part that is none, and "
        "the limit (dashed). Page cache may fill all up to the limit; when the rest comes near it, "
        "the kernel kills.",
        BYTES,
        Series(_slice("worker_service_memory_current_bytes"), "with page cache {{node}}"),
        Series(_slice("service:worker_memory_uncached_bytes:sum"), "without page cache {{node}}"),
        limit(_slice("worker_service_memory_limit_bytes"), "limit {{node}}"),
        span=12,
    )


def _total_events() -> models.Panel:
    events = f"increase(worker_service_memory_events_total{{{ONE_SERVICE}}}{INTERVAL})"
    return graph(
        "Memory events of the service",
        "How often a memory limit was met (the slice's memory.events): high and max are reclaim, "
        "oom is a failed try, oom_kill a killed process. Any oom_kill is a loss.",
        NUMBER,
        Series(total("node, event", largest("node, service, event", events)), "{{event}} {{node}}"),
        span=12,
        bars=True,
    )


def _restarts() -> models.Panel:
    return _graph(
        "Restarts of each worker",
        "How often systemd started each worker again in the hour before. Above the dashed line "
        "WorkerCrashLoop fires, until 20 minutes after the last.",
        NUMBER,
        _most("worker:worker_restarts:increase1h"),
        alert_above("worker_restarts:count"),
        span=8,
    )


def _launches() -> models.Panel:
    launches = f"increase(worker_sidecar_launches_total{{{ONE_SERVICE}}}{INTERVAL})"
    return graph(
        "Launches",
        "Starts that the sidecar was asked for, by what became of them. All but started need a "
        "look: the sidecar's log has the reason.",
        NUMBER,
        Series(total("result", largest(f"{SERVICE}, result", launches)), "{{result}}"),
        span=8,
        bars=True,
    )


def _probes() -> models.Panel:
    probes = f"rate(worker_sidecar_probes_total{{{ONE_SERVICE}}}{INTERVAL})"
    return graph(
        "Probes",
        "Health probes of the sidecar, by what they found. Timeouts under load come before "
        "workers count as not ready.",
        EVENTS_PER_SECOND,
        Series(total("result", largest(f"{SERVICE}, result", probes)), "{{result}}"),
        span=8,
    )


def _total_io() -> models.Panel:
    return graph(
        "IO of the service",
        "What all workers of the service read and write, those that are gone by now too where the "
        "slice accounts IO.",
        BYTES_PER_SECOND,
        Series(_slice("service:worker_io_read_bytes:rate2m"), "read {{node}}"),
        Series(_slice("service:worker_io_written_bytes:rate2m"), "written {{node}}"),
        span=12,
    )


def _launch_seconds() -> models.Panel:
    buckets = f"worker_sidecar_launch_duration_seconds_bucket{{{ONE_SERVICE}}}"
    rates = per_second("node, service, le", buckets)
    return graph(
        "How long launches take",
        "The time from a request to the worker's first instruction, for the slowest tenth of "
        "launches. Absent when nothing was launched.",
        SECONDS,
        Series(f"histogram_quantile(0.9, {rates})", "9 of 10 within, {{node}}"),
        span=12,
    )
