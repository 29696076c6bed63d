"""Workers / Worker: everything about one of them."""

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
    OPERATIONS_PER_SECOND,
    RATIO,
    SECONDS,
    Series,
    alert_above,
    graph,
    limit,
    mark,
    number,
    timeline,
)
from dashboards.promql import (
    GPU,
    INTERVAL,
    ONE_NODE,
    ONE_WORKER,
    RANGE,
    SERVICE_ON_NODE,
    WORKER,
    largest,
)
from dashboards.tables import Label, Value, table

_ALERTS = (ONE_WORKER, f'{SERVICE_ON_NODE}, instance=""')
"""Those of its service too: a limit that workers share is its own concern."""

_NO_MEMORY = "Not told: the memory controller is off"
_NO_IO = "Not told: IO is not accounted, or there was none"
_NO_GPU = "It holds no GPU, or the driver does not tell"
_NO_TASKS = "Not told: the pids controller is off"


def built() -> models.Dashboard:
    """The dashboard."""
    return dashboard(
        "worker",
        "Everything about one worker: what state it is in and was in, what it uses of its limits, "
        "what it waits for, and what became of its last run.",
        [
            variables.datasource(),
            variables.one_service(),
            variables.one_node(),
            variables.one_instance(),
        ],
        [
            annotations.starts(ONE_WORKER),
            annotations.restarts(ONE_WORKER),
            annotations.oom_kills(SERVICE_ON_NODE),
            annotations.critical_alerts(*_ALERTS),
        ],
        [
            Section(
                "",
                [_top_line(), Row(7, [_states(), _alerts()]), Row(4, [_identity(), _last_run()])],
            ),
            Section("CPU", [Row(8, [_cpu(), _throttled(), _cpu_pressure()])]),
            Section(
                "Memory",
                [
                    Row(9, [_memory(), _memory_ratio(), _memory_pressure()]),
                    Row(8, [_memory_events(), _swap(), _resident()]),
                ],
            ),
            Section(
                "IO",
                [Row(8, [_io_bytes(), _io_operations(), _io_pressure()])],
            ),
            Section("GPU", [Row(8, [_vram(), _gpu_busy(), _gpu_processes()])]),
            Section("Tasks and restarts", [Row(8, [_tasks(), _task_hits(), _restarts()])]),
            Section("Paging", [Row(8, [_faults(), _refaults()])], collapsed=True),
        ],
        since="now-3h",
    )


def _of(metric: str) -> str:
    return largest(WORKER, f"{metric}{{{ONE_WORKER}}}")


def _rate(label: str, counter: str) -> str:
    return largest(label, f"rate({counter}{{{ONE_WORKER}}}{INTERVAL})")


def _top_line() -> Row:
    kills = f'increase(worker_memory_events_total{{event="oom_kill", {ONE_WORKER}}}{RANGE})'
    return Row(
        4,
        [
            number(
                "Now",
                "Running: it has a living process. Down: it is declared, nobody stopped it, and it "
                "has none. Ended: it has none, and nobody declares it (a finished job). Unknown: "
                "nobody has seen it, or the exporter does not answer.",
                NUMBER,
                Series(promql.state(ONE_WORKER, ONE_NODE), "state"),
                span=3,
                texts=looks.RUNS,
                empty="unknown",
                link=links.keeping("service", "node", "service"),
            ),
            number(
                "Probe",
                "What the sidecar's last probe found. A dash: it is not probed, or the probe is "
                "older than three intervals, and WorkerProbeStale fires.",
                NUMBER,
                Series(_of("worker_ready"), "probe"),
                span=3,
                texts=looks.READY,
            ),
            number(
                "Uptime",
                "How long its processes have been running, since its last restart if there was "
                "one (`worker_start_time_seconds`). A dash: it does not run.",
                SECONDS,
                Series(promql.uptime(ONE_WORKER), "uptime"),
                span=3,
                decimals=1,
            ),
            number(
                "CPU",
                "Cores that it uses (cpu.stat).",
                NUMBER,
                Series(_of("worker:worker_cpu_seconds:rate2m"), "cores"),
                span=3,
                decimals=2,
            ),
            number(
                "Memory",
                "Its memory, page cache not counted; without the memory controller the sum over "
                "its processes.",
                BYTES,
                Series(promql.memory_used(ONE_WORKER), "memory"),
                span=3,
            ),
            number(
                "Of limit",
                "Its memory, page cache not counted, against the smallest limit on its path. At "
                "100 % the kernel kills. A dash: there is no limit, or no memory controller.",
                RATIO,
                Series(_of("worker:worker_memory_limit:ratio"), "of the limit"),
                span=3,
                steps=looks.FULL,
                decimals=0,
            ),
            number(
                "GPU memory",
                "GPU memory that it holds, over all GPUs. A dash: none, or the driver does not "
                "answer.",
                BYTES,
                Series(_of("worker:worker_gpu_memory_used_bytes:sum"), "VRAM"),
                span=3,
                link=links.keeping("gpu", "node"),
            ),
            number(
                "In range",
                "Restarts by systemd, and processes in it that the kernel killed for memory, in "
                "the time range. A kill that ended it is counted in its service only: its own "
                "counter ends with it.",
                NUMBER,
                Series(
                    f"round({promql.restarts(ONE_WORKER, RANGE)})",
                    "restarts",
                    steps=looks.ANY_IS_WARNING,
                ),
                Series(f"round({largest(WORKER, kills)})", "OOM kills", steps=looks.ANY_IS_BAD),
                span=3,
            ),
        ],
    )


def _states() -> models.Panel:
    return timeline(
        "State",
        "From workers.yaml (declared), the kernel (process, frozen), the sidecar's probe, and "
        "systemd (unit). Read down at one moment: declared without a process is an outage; a "
        "process that is not ready hangs or loads; activating again and again is a crash loop; a "
        "gap means that nothing was known.",
        Series(_of("worker_desired"), "declared", texts=looks.DECLARED),
        Series(_of("worker_up"), "process", texts=looks.PROCESS),
        Series(_of("worker_ready"), "probe", texts=looks.READY),
        Series(_of("worker_frozen"), "frozen", texts=looks.FROZEN),
        Series(promql.unit_state(ONE_WORKER), "unit", texts=looks.UNIT),
        span=14,
        empty="Nothing is known of it in this time range",
    )


def _alerts() -> models.Panel:
    return alerts_over_time(*_ALERTS, span=10)


def _identity() -> models.Panel:
    labels = ("cgroup", "unit", "model", "port", "gpu")
    return table(
        "What it is",
        "Its cgroup and unit, and what its launcher wrote down: model, port, GPU "
        "(`worker_info`). Look into the cgroup's files for every figure shown here.",
        Label("cgroup", "Cgroup"),
        Label("unit", "Unit"),
        Label("model", "Model"),
        Label("port", "Port", width=70),
        Label("gpu", "GPU", width=90),
        Value("", largest(", ".join((WORKER, *labels)), f"worker_info{{{ONE_WORKER}}}")),
        Value(
            "Started",
            f"1000 * {_of('worker_start_time_seconds')}",
            "dateTimeAsLocal",
            width=180,
        ),
        span=14,
        empty="It has no cgroup",
    )


def _last_run() -> models.Panel:
    result = largest(f"{WORKER}, result", f"worker_unit_result{{{ONE_WORKER}}}")
    return table(
        "Its last run",
        "How the last run ended, while systemd still holds it (failed, or waiting for the "
        "restart): result, exit status (128 + n is signal n), and what it used. Empty while all "
        "is well.",
        Label("instance", "Instance", width=90),
        Label("result", "Result"),
        Value("", result),
        Value("Exit status", _of("worker_last_exit_status")),
        Value("Lived", _of("worker_last_run_duration_seconds"), SECONDS),
        Value("CPU", _of("worker_last_run_cpu_seconds"), SECONDS),
        Value("Memory peak", _of("worker_last_run_peak_memory_bytes"), BYTES),
        span=10,
        empty="systemd holds no ended run",
    )


def _cpu() -> models.Panel:
    return graph(
        "CPU by mode, and its limit",
        "Cores that it uses, in its own code and in the kernel (cpu.stat), and what it may use "
        "(dashed; absent without a quota). Much system time is IO, paging or many threads.",
        NUMBER,
        Series(_rate("mode", "worker_cpu_seconds_total"), "{{mode}}"),
        limit(_of("worker_cpu_limit_cores")),
        span=12,
        stacked=True,
        axis="cores",
    )


def _throttled() -> models.Panel:
    return graph(
        "Throttled",
        "Share of its quota's periods in which it was stopped, and the share of time for which "
        "(cpu.stat). Above the dashed line for 15 minutes WorkerCPUThrottled fires. It answers "
        "late even though the CPU does not look full. Absent without a quota of its own.",
        RATIO,
        Series(_of("worker:worker_cpu_throttled_periods:ratio_rate5m"), "of the periods"),
        Series(_rate(WORKER, "worker_cpu_throttled_seconds_total"), "of the time, over all CPUs"),
        alert_above("worker_cpu_throttled_periods:ratio"),
        span=6,
    )


def _pressure(resource: str, name: str, consequence: str, span: int) -> models.Panel:
    waiting = f"worker:worker_pressure_{resource}_waiting_seconds:rate5m"
    stalled = f"worker:worker_pressure_{resource}_stalled_seconds:rate5m"
    thresholds = [] if resource == "cpu" else [alert_above(f"worker_{resource}_stalled:ratio")]
    return graph(
        f"Waiting for {name}",
        f"Share of time in which some of its tasks waited for {name}, and in which all that were "
        f"not idle did ({resource}.pressure). {consequence}",
        RATIO,
        Series(_of(waiting), "some task waits"),
        Series(_of(stalled), "all stand still"),
        *thresholds,
        span=span,
    )


def _cpu_pressure() -> models.Panel:
    return _pressure(
        "cpu", "CPU", "High without throttling: the node, or its service's quota, is full.", 6
    )


def _memory_pressure() -> models.Panel:
    return _pressure(
        "memory",
        "memory",
        "It reads back what was just reclaimed: its limit is too small. Above the dashed line for "
        "five minutes WorkerMemoryPressure fires.",
        6,
    )


def _io_pressure() -> models.Panel:
    return _pressure(
        "io",
        "IO",
        "The disk is the bottleneck. Above the dashed line for 15 minutes WorkerIOPressure fires.",
        8,
    )


def _memory() -> models.Panel:
    file, shmem = _of("worker_memory_file_bytes"), _of("worker_memory_shmem_bytes")
    return graph(
        "Memory by its parts, and its limits",
        "What its memory consists of (memory.stat): anonymous, shared (shmem and tmpfs), the "
        "kernel's own, and page cache, which can be dropped. The red dashed line is its limit, the "
        "orange one memory.high, above which it is slowed down. Page cache up to the limit is "
        "well; when the rest comes near, it is killed.",
        BYTES,
        Series(_of("worker_memory_anon_bytes"), "anonymous"),
        Series(shmem, "shared"),
        Series(_of("worker_memory_kernel_bytes"), "kernel"),
        Series(f"clamp_min({file} - {shmem}, 0)", "page cache"),
        limit(_of("worker_memory_limit_bytes")),
        mark(_of("worker_memory_high_bytes"), "slowed down above"),
        span=12,
        stacked=True,
        empty=_NO_MEMORY,
    )


def _memory_ratio() -> models.Panel:
    return graph(
        "Memory of its limit",
        "Its memory, page cache not counted, against its limit. Above the dashed line for five "
        "minutes WorkerMemoryNearLimit fires; at 100 % the kernel kills.",
        RATIO,
        Series(_of("worker:worker_memory_limit:ratio"), "of the limit"),
        alert_above("worker_memory_limit:ratio"),
        span=6,
        empty=_NO_MEMORY,
    )


def _memory_events() -> models.Panel:
    events = f"increase(worker_memory_events_total{{{ONE_WORKER}}}{INTERVAL})"
    return graph(
        "Memory events",
        "How often a memory limit was met (memory.events): high and max are reclaim, oom is a "
        "failed try, oom_kill a killed process, oom_group_kill all of it. Limits of its service "
        "count here too.",
        NUMBER,
        Series(largest("event", events), "{{event}}"),
        span=8,
        bars=True,
        empty=_NO_MEMORY,
    )


def _swap() -> models.Panel:
    return graph(
        "Swap",
        "Swap that it uses, and how much it may (dashed; absent without a limit). A worker in "
        "swap is slow long before it is out of memory.",
        BYTES,
        Series(_of("worker_memory_swap_bytes"), "swap"),
        limit(_of("worker_memory_swap_limit_bytes")),
        span=8,
        empty=_NO_MEMORY,
    )


def _resident() -> models.Panel:
    return graph(
        "Charged, working set, resident",
        "All that is charged to it (memory.current), what of it cannot be dropped at once, what "
        "its processes have mapped, and the most that ever was. Without the memory controller "
        "there is only the resident sum over its processes, an upper bound.",
        BYTES,
        Series(_of("worker_memory_current_bytes"), "charged"),
        Series(_of("worker_memory_working_set_bytes"), "working set"),
        Series(_of("worker_memory_rss_bytes"), "resident"),
        Series(_of("worker_memory_peak_bytes"), "peak"),
        span=8,
    )


def _io_bytes() -> models.Panel:
    return graph(
        "Bytes by device",
        "What it reads and writes (io.stat). On device-mapper disks the kernel counts the disk "
        "below as well. Absent where IO is not accounted.",
        BYTES_PER_SECOND,
        Series(_rate("device", "worker_io_read_bytes_total"), "read {{device}}"),
        Series(_rate("device", "worker_io_written_bytes_total"), "written {{device}}"),
        span=8,
        empty=_NO_IO,
    )


def _io_operations() -> models.Panel:
    return graph(
        "Operations by device",
        "How often it reads and writes (io.stat). Many operations for few bytes are small ones, "
        "for which disks are slow.",
        OPERATIONS_PER_SECOND,
        Series(_rate("device", "worker_io_reads_total"), "reads {{device}}"),
        Series(_rate("device", "worker_io_writes_total"), "writes {{device}}"),
        span=8,
        empty=_NO_IO,
    )


def _vram() -> models.Panel:
    metric = f"worker_gpu_memory_used_bytes{{{ONE_WORKER}}}"
    return graph(
        "GPU memory by device",
        "GPU memory that its processes hold, by GPU (the driver, by PID). Absent when it holds "
        "none, or when the driver does not answer.",
        BYTES,
        Series(largest(GPU, metric), "GPU {{gpu}} {{mig}}"),
        span=8,
        stacked=True,
        link=links.from_series("gpu", "node", "gpu"),
        empty=_NO_GPU,
    )


def _gpu_busy() -> models.Panel:
    own = largest(GPU, f"worker_gpu_utilization_ratio{{{ONE_WORKER}}}")
    whole = largest(GPU, f"worker_node_gpu_utilization_ratio{{{ONE_NODE}}}")
    held = largest(GPU, f"worker_gpu_processes{{{ONE_WORKER}}}")
    return graph(
        "GPU busy",
        "Share of a GPU's time that this worker uses, and that all use together (dashed), for the "
        "GPUs it holds. Flat at 0 with memory held is an idle worker; the dashed line far above "
        "its own means that others keep it waiting.",
        RATIO,
        Series(own, "this worker, GPU {{gpu}} {{mig}}"),
        Series(f"{whole} and on ({GPU}) {held}", "all, GPU {{gpu}}", looks.QUIET),
        span=8,
        maximum=1,
        link=links.from_series("gpu", "node", "gpu"),
        empty=_NO_GPU,
    )


def _gpu_processes() -> models.Panel:
    metric = f"worker_gpu_process_memory_used_bytes{{{ONE_WORKER}}}"
    return graph(
        "GPU memory by process",
        "GPU memory of each of its processes. One that should be gone and still holds memory can "
        "be ended by its PID.",
        BYTES,
        Series(largest(f"{GPU}, pid", metric), "PID {{pid}}, GPU {{gpu}} {{mig}}"),
        span=8,
        stacked=True,
        empty=_NO_GPU,
    )


def _tasks() -> models.Panel:
    return graph(
        "Tasks and their limit",
        "Threads and processes that live in it (pids.current, cgroup.procs), and how many threads "
        "may (dashed). A steady rise is a leak.",
        NUMBER,
        Series(_of("worker_tasks"), "threads"),
        Series(_of("worker_processes"), "processes"),
        limit(_of("worker_tasks_limit")),
        span=8,
    )


def _task_hits() -> models.Panel:
    hits = f"increase(worker_tasks_limit_hits_total{{{ONE_WORKER}}}{INTERVAL})"
    return graph(
        "Refused threads",
        "How often it could not start a thread or process because of its limit (pids.events). "
        "Any is a failure in it, and WorkerTasksLimitHit fires.",
        NUMBER,
        Series(largest(WORKER, hits), "refused"),
        span=8,
        bars=True,
        empty=_NO_TASKS,
    )


def _restarts() -> models.Panel:
    return graph(
        "Restarts",
        "How often systemd started it again in the hour before. Above the dashed line "
        "WorkerCrashLoop fires, until 20 minutes after the last. A loop so fast that systemd gave "
        "up shows as a failed unit.",
        NUMBER,
        Series(_of("worker:worker_restarts:increase1h"), "in an hour"),
        alert_above("worker_restarts:count"),
        span=8,
    )


def _faults() -> models.Panel:
    return graph(
        "Page faults",
        "Pages that it touched and that were not mapped (memory.stat): minor ones are cheap, "
        "major ones waited for a disk.",
        EVENTS_PER_SECOND,
        Series(_rate("type", "worker_memory_page_faults_total"), "{{type}}"),
        span=12,
        empty=_NO_MEMORY,
    )


def _refaults() -> models.Panel:
    return graph(
        "Refaults",
        "Pages that it needed again just after they were reclaimed (memory.stat). Steady refaults "
        "mean that its memory is too small: file for page cache, anon for swap.",
        EVENTS_PER_SECOND,
        Series(_rate("type", "worker_memory_refaults_total"), "{{type}}"),
        span=12,
        empty=_NO_MEMORY,
    )
