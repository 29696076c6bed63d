"""The metric families: one row each, from which come the exposition, the docs and the tests."""

from dataclasses import dataclass
from typing import Literal

COUNTER: Literal["counter"] = "counter"
GAUGE: Literal["gauge"] = "gauge"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    `name` is the name of its samples, `source` the kernel file, key or call it comes from.
    `labels` are those beside `service` and `instance`. Where the only further label has a fixed
    set of values, `values` lists them in the order in which the collector gives the figures.
    """

    collector: str
    name: str
    type: Literal["counter", "gauge"]
    summary: str
    source: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """The HELP text: what it is, and where it can be checked."""
        return f"{self.summary} ({self.source})."

    @property
    def stem(self) -> str:
        """The name OpenMetrics gives the family: a counter's without the _total of its samples."""
        return self.name.removesuffix("_total") if self.type == COUNTER else self.name

    @property
    def unit(self) -> str:
        """The OpenMetrics unit, the last part of the name, or ""."""
        last = self.stem.rpartition("_")[2]
        return last if last in ("seconds", "bytes", "cores") else ""


_INFO = (
    Family(
        "info",
        "worker_info",
        GAUGE,
        "Always 1; what the worker is, by its labels",
        "the cgroup's path, xattrs user.worker.model, .port, .gpu",
        ("cgroup", "unit", "model", "port", "gpu"),
    ),
    Family(
        "info",
        "worker_up",
        GAUGE,
        "1 while the worker has a living process, else 0; 0 too for a unit that failed or waits "
        "for its restart",
        "cgroup.events populated, systemd ActiveState",
    ),
    Family("info", "worker_frozen", GAUGE, "1 while the worker is frozen", "cgroup.events frozen"),
    Family(
        "info",
        "worker_start_time_seconds",
        GAUGE,
        "When the worker started, in seconds since the epoch",
        "xattr user.worker.started, else systemd's ExecMainStartTimestamp, else the oldest "
        "process's /proc/PID/stat",
    ),
)

_HEALTH = (
    Family(
        "health",
        "worker_ready",
        GAUGE,
        "1 when the last probe passed, 0 when it failed; absent after three missed intervals",
        "xattr user.worker.health",
    ),
    Family(
        "health",
        "worker_probe_timestamp_seconds",
        GAUGE,
        "When the worker was last probed, in seconds since the epoch",
        "xattr user.worker.health",
    ),
)

_CPU = (
    Family(
        "cpu",
        "worker_cpu_seconds_total",
        COUNTER,
        "CPU time used",
        "cpu.stat user_usec, system_usec",
        ("mode",),
        ("user", "system"),
    ),
    Family(
        "cpu",
        "worker_cpu_periods_total",
        COUNTER,
        "Periods of the CPU quota in which the worker ran",
        "cpu.stat nr_periods",
    ),
    Family(
        "cpu",
        "worker_cpu_throttled_periods_total",
        COUNTER,
        "Periods in which the CPU quota stopped the worker",
        "cpu.stat nr_throttled",
    ),
    Family(
        "cpu",
        "worker_cpu_throttled_seconds_total",
        COUNTER,
        "Time for which the CPU quota stopped the worker",
        "cpu.stat throttled_usec",
    ),
    Family(
        "cpu",
        "worker_cpu_limit_cores",
        GAUGE,
        "CPU cores the worker may use, the smallest on its path; absent when unlimited",
        "cpu.max, cpuset.cpus.effective",
    ),
    Family(
        "cpu",
        "worker_cpu_pct",
        GAUGE,
        "CPU use smoothed over time, 100 for one core; for people, rules use the counter",
        "cpu.stat usage_usec",
    ),
)

_MEMORY = (
    Family(
        "memory",
        "worker_memory_current_bytes",
        GAUGE,
        "Memory charged, page cache included",
        "memory.current",
    ),
    Family(
        "memory",
        "worker_memory_peak_bytes",
        GAUGE,
        "Most memory ever charged; since kernel 5.19",
        "memory.peak",
    ),
    Family("memory", "worker_memory_swap_bytes", GAUGE, "Swap used", "memory.swap.current"),
    Family(
        "memory",
        "worker_memory_rss_bytes",
        GAUGE,
        "Resident memory; worker_exporter_memory_source tells from where",
        "memory.stat anon + file_mapped, else the sum of /proc/PID/statm, an upper bound",
    ),
    Family("memory", "worker_memory_anon_bytes", GAUGE, "Anonymous memory", "memory.stat anon"),
    Family(
        "memory",
        "worker_memory_file_bytes",
        GAUGE,
        "Page cache, shmem included",
        "memory.stat file",
    ),
    Family(
        "memory", "worker_memory_shmem_bytes", GAUGE, "Shared memory and tmpfs", "memory.stat shmem"
    ),
    Family("memory", "worker_memory_kernel_bytes", GAUGE, "Kernel memory", "memory.stat kernel"),
    Family(
        "memory",
        "worker_memory_working_set_bytes",
        GAUGE,
        "Memory that cannot be dropped at once",
        "memory.current - memory.stat inactive_file",
    ),
    Family(
        "memory",
        "worker_memory_limit_bytes",
        GAUGE,
        "Memory limit, the smallest on the worker's path; absent when unlimited",
        "memory.max",
    ),
    Family(
        "memory",
        "worker_memory_high_bytes",
        GAUGE,
        "Memory above which it is throttled, the smallest on its path; absent when unlimited",
        "memory.high",
    ),
    Family(
        "memory",
        "worker_memory_swap_limit_bytes",
        GAUGE,
        "Swap limit, the smallest on the worker's path; absent when unlimited",
        "memory.swap.max",
    ),
    Family(
        "memory",
        "worker_memory_events_total",
        COUNTER,
        "How often a memory limit was met, by what then happened",
        "memory.events",
        ("event",),
        ("high", "max", "oom", "oom_kill", "oom_group_kill"),
    ),
    Family(
        "memory",
        "worker_memory_page_faults_total",
        COUNTER,
        "Page faults; major ones waited for a disk",
        "memory.stat pgfault - pgmajfault, pgmajfault",
        ("type",),
        ("minor", "major"),
    ),
    Family(
        "memory",
        "worker_memory_refaults_total",
        COUNTER,
        "Pages that were needed again after reclaim had dropped them",
        "memory.stat workingset_refault_anon, workingset_refault_file",
        ("type",),
        ("anon", "file"),
    ),
)

_IO = (
    Family(
        "io",
        "worker_io_read_bytes_total",
        COUNTER,
        "Bytes read, by device",
        "io.stat rbytes",
        ("device",),
    ),
    Family(
        "io",
        "worker_io_written_bytes_total",
        COUNTER,
        "Bytes written, by device",
        "io.stat wbytes",
        ("device",),
    ),
    Family("io", "worker_io_reads_total", COUNTER, "Reads, by device", "io.stat rios", ("device",)),
    Family(
        "io", "worker_io_writes_total", COUNTER, "Writes, by device", "io.stat wios", ("device",)
    ),
    Family(
        "io",
        "worker_io_read_bytes_per_second",
        GAUGE,
        "Read rate smoothed over time, over all devices with nothing below them",
        "io.stat rbytes",
    ),
    Family(
        "io",
        "worker_io_written_bytes_per_second",
        GAUGE,
        "Write rate smoothed over time, over all devices with nothing below them",
        "io.stat wbytes",
    ),
)

_PRESSURE = tuple(
    Family(
        "pressure",
        f"worker_pressure_{resource}_{state}_seconds_total",
        COUNTER,
        f"Time in which {who} waited for {what}",
        f"{resource}.pressure {key} total",
    )
    for resource, what in (("cpu", "the CPU"), ("memory", "memory"), ("io", "IO"))
    for state, key, who in (
        ("waiting", "some", "some task"),
        ("stalled", "full", "all tasks that were not idle"),
    )
)

_TASKS = (
    Family("tasks", "worker_tasks", GAUGE, "Tasks (threads) alive", "pids.current"),
    Family(
        "tasks",
        "worker_tasks_limit",
        GAUGE,
        "Tasks allowed, the smallest on the worker's path; absent when unlimited",
        "pids.max",
    ),
    Family(
        "tasks",
        "worker_processes",
        GAUGE,
        "Processes, those in nested cgroups included",
        "cgroup.procs",
    ),
    Family(
        "tasks",
        "worker_tasks_limit_hits_total",
        COUNTER,
        "Forks that the tasks limit refused",
        "pids.events max",
    ),
)

_NODE = (
    Family(
        "node",
        "worker_node_cpu_seconds_total",
        COUNTER,
        "CPU time of the node, summed over its CPUs",
        "/proc/stat cpu",
        ("mode",),
        ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"),
    ),
    Family("node", "worker_node_cpus", GAUGE, "CPUs online", "/proc/stat"),
    Family("node", "worker_node_memory_total_bytes", GAUGE, "Memory", "/proc/meminfo MemTotal"),
    Family(
        "node",
        "worker_node_memory_available_bytes",
        GAUGE,
        "Memory available without swapping",
        "/proc/meminfo MemAvailable",
    ),
)

EXPORTER = "exporter"
"""The collector named in rows about the exporter itself: they are in every scrape."""

_UNITS = (
    Family(
        "units",
        "worker_unit_state",
        GAUGE,
        "1 for the state that the worker's unit is in, else 0; also while it has no cgroup",
        "systemd ActiveState; reloading counts as active",
        ("state",),
        ("active", "activating", "deactivating", "failed", "inactive"),
    ),
    Family(
        "units",
        "worker_unit_result",
        GAUGE,
        "Always 1; how the last run of a unit ended that failed or waits for its restart",
        "systemd Result",
        ("result",),
    ),
    Family(
        "units",
        "worker_restarts_total",
        COUNTER,
        "Automatic restarts of the unit; 0 again after systemctl reset-failed",
        "systemd NRestarts",
    ),
    Family(
        "units",
        "worker_last_exit_status",
        GAUGE,
        "Exit status of the last run, 128 + n for signal n, while the unit is dead",
        "systemd ExecMainCode, ExecMainStatus",
    ),
    Family(
        "units",
        "worker_last_run_cpu_seconds",
        GAUGE,
        "CPU time that the last run used, while the unit is dead",
        "systemd CPUUsageNSec",
    ),
    Family(
        "units",
        "worker_last_run_peak_memory_bytes",
        GAUGE,
        "Most memory that the last run used, while the unit is dead",
        "systemd MemoryPeak, from systemd 254 on",
    ),
    Family(
        "units",
        "worker_last_run_duration_seconds",
        GAUGE,
        "How long the last run's main process lived, while the unit is dead",
        "systemd ExecMainStartTimestampMonotonic, ExecMainExitTimestampMonotonic",
    ),
)

_SERVICES = (
    Family(
        "services",
        "worker_service_cpu_seconds_total",
        COUNTER,
        "CPU time used by the service, by workers that are gone too",
        "the slice's cpu.stat user_usec, system_usec",
        ("mode",),
        ("user", "system"),
    ),
    Family(
        "services",
        "worker_service_cpu_periods_total",
        COUNTER,
        "Periods of the slice's own CPU quota in which the service ran",
        "the slice's cpu.stat nr_periods",
    ),
    Family(
        "services",
        "worker_service_cpu_throttled_periods_total",
        COUNTER,
        "Periods in which the slice's own CPU quota stopped the service",
        "the slice's cpu.stat nr_throttled",
    ),
    Family(
        "services",
        "worker_service_cpu_throttled_seconds_total",
        COUNTER,
        "Time for which the slice's own CPU quota stopped the service",
        "the slice's cpu.stat throttled_usec",
    ),
    Family(
        "services",
        "worker_service_cpu_limit_cores",
        GAUGE,
        "How many cores the service may use in all; absent when unlimited",
        "cpu.max, cpuset.cpus.effective, the smallest on the slice's path",
    ),
    Family(
        "services",
        "worker_service_memory_current_bytes",
        GAUGE,
        "Memory charged to the service, page cache included",
        "the slice's memory.current",
    ),
    Family(
        "services",
        "worker_service_memory_limit_bytes",
        GAUGE,
        "How much memory the service may use in all; absent when unlimited",
        "memory.max, the smallest on the slice's path",
    ),
    Family(
        "services",
        "worker_service_memory_events_total",
        COUNTER,
        "Memory events of the service, of workers that are gone too; limits of the slice "
        "and of its workers count alike",
        "the slice's memory.events",
        ("event",),
        ("high", "max", "oom", "oom_kill", "oom_group_kill"),
    ),
    Family(
        "services",
        "worker_service_io_read_bytes_total",
        COUNTER,
        "Bytes read by the service from a device",
        "the slice's io.stat rbytes",
        ("device",),
    ),
    Family(
        "services",
        "worker_service_io_written_bytes_total",
        COUNTER,
        "Bytes written by the service to a device",
        "the slice's io.stat wbytes",
        ("device",),
    ),
)

_DEVICE = ("gpu", "uuid", "mig")

_GPU = (
    Family(
        "gpu",
        "worker_gpu_memory_used_bytes",
        GAUGE,
        "GPU memory that the worker's processes hold",
        "NVML nvmlDeviceGetComputeRunningProcesses, nvmlDeviceGetGraphicsRunningProcesses, "
        "nvmlDeviceGetMPSComputeRunningProcesses; AMD /sys/class/kfd/kfd/proc/PID/vram_*; "
        "cgroup.procs, /proc/PID/cgroup",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_gpu_utilization_ratio",
        GAUGE,
        "Share of the GPU's time that the worker's processes used since the scrape before",
        "NVML nvmlDeviceGetProcessUtilization smUtil",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_gpu_processes",
        GAUGE,
        "The worker's processes that hold the GPU",
        "the same as worker_gpu_memory_used_bytes",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_gpu_process_memory_used_bytes",
        GAUGE,
        "GPU memory that one process of the worker holds",
        "the same as worker_gpu_memory_used_bytes",
        (*_DEVICE, "pid"),
    ),
    Family(
        "gpu",
        "worker_node_gpu_info",
        GAUGE,
        "Always 1; what the GPU is, by its labels",
        "NVML nvmlDeviceGetName, nvmlSystemGetDriverVersion; AMD product_name",
        (*_DEVICE, "name", "driver"),
    ),
    Family(
        "gpu",
        "worker_node_gpu_memory_used_bytes",
        GAUGE,
        "GPU memory in use, by whomever",
        "NVML nvmlDeviceGetMemoryInfo; AMD mem_info_vram_used",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_node_gpu_memory_total_bytes",
        GAUGE,
        "GPU memory there is",
        "NVML nvmlDeviceGetMemoryInfo; AMD mem_info_vram_total",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_node_gpu_unattributed_memory_bytes",
        GAUGE,
        "GPU memory that processes outside all workers hold; absent when part of it is unknown",
        "the same as worker_gpu_memory_used_bytes",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_node_gpu_utilization_ratio",
        GAUGE,
        "Share of the last moments in which the GPU was busy",
        "NVML nvmlDeviceGetUtilizationRates; AMD gpu_busy_percent",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_node_gpu_temperature_celsius",
        GAUGE,
        "Temperature of the GPU",
        "NVML nvmlDeviceGetTemperature; AMD hwmon temp1_input",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_node_gpu_power_watts",
        GAUGE,
        "Power that the GPU draws",
        "NVML nvmlDeviceGetPowerUsage; AMD hwmon power1_average, power1_input",
        _DEVICE,
    ),
    Family(
        "gpu",
        "worker_node_gpu_energy_joules_total",
        COUNTER,
        "Energy that the GPU has used since its driver was loaded",
        "NVML nvmlDeviceGetTotalEnergyConsumption",
        _DEVICE,
    ),
)

_EXPORTER = (
    Family(
        EXPORTER,
        "worker_exporter_build_info",
        GAUGE,
        "Always 1; the running version",
        "the package",
        ("version", "python"),
    ),
    Family(EXPORTER, "worker_exporter_workers", GAUGE, "Workers in this scrape", "the cgroup tree"),
    Family(
        EXPORTER,
        "worker_exporter_duplicate_workers",
        GAUGE,
        "Cgroups left out because another has the same service and instance",
        "the cgroup tree",
    ),
    Family(
        EXPORTER,
        "worker_exporter_dropped_workers",
        GAUGE,
        "Workers and services left out over --worker.max, or whose name is no label value",
        "the cgroup tree",
    ),
    Family(
        EXPORTER,
        "worker_exporter_memory_source",
        GAUGE,
        "Workers whose worker_memory_rss_bytes comes from this source",
        "cgroup: memory.stat, proc: /proc/PID/statm",
        ("source",),
        ("cgroup", "proc"),
    ),
    Family(
        EXPORTER,
        "worker_exporter_collector_duration_seconds",
        GAUGE,
        "How long a collector took in this scrape",
        "the monotonic clock",
        ("collector",),
    ),
    Family(
        EXPORTER,
        "worker_exporter_collector_success",
        GAUGE,
        "Whether a collector did all its work in this scrape; what it could not do is left out",
        "the exporter",
        ("collector",),
    ),
    Family(
        EXPORTER,
        "worker_exporter_read_errors_total",
        COUNTER,
        "Reads that failed though the file is there, or made no sense, by file",
        "errno",
        ("file",),
    ),
    Family(
        EXPORTER,
        "worker_exporter_scrape_duration_seconds",
        GAUGE,
        "How long this scrape took, without the HTTP side",
        "the monotonic clock",
    ),
)

FAMILIES: tuple[Family, ...] = (
    *_INFO,
    *_HEALTH,
    *_CPU,
    *_MEMORY,
    *_IO,
    *_PRESSURE,
    *_TASKS,
    *_UNITS,
    *_SERVICES,
    *_GPU,
    *_NODE,
    *_EXPORTER,
)


def families_of(collector: str) -> tuple[Family, ...]:
    """The rows of one collector, in the order of the table."""
    return tuple(family for family in FAMILIES if family.collector == collector)


def family(name: str) -> Family:
    """The row of the family called `name`. Raises KeyError."""
    return _BY_NAME[name]


_BY_NAME = {row.name: row for row in FAMILIES}
