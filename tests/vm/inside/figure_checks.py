"""Checks of one window: CPU, memory, IO, pressure and tasks against systemctl and the kernel."""

from .readings import keyed, shown, single, stalls
from .window import Window
from .workers import DISK, LLM, MEMORY, OF_USER, PLAIN, QUOTA, STARVED, TASKS, WORKERS

MIB = 1 << 20
# cpu.stat rounds user and system down to a microsecond each.
CPU_SLACK_SECONDS = 2e-6


def cpu_seconds(window: Window) -> None:
    """User and system together are systemd's CPUUsageNSec."""
    compared = window.compare(
        "worker_cpu_seconds_total", shown("CPUUsageNSec", 1e9), slack=CPU_SLACK_SECONDS
    )
    assert compared == len(WORKERS)
    assert window.scrape.total("worker_cpu_seconds_total", QUOTA.labels)


def cpu_modes(window: Window) -> None:
    """Each mode is that of cpu.stat."""
    for mode in ("user", "system"):
        source = keyed("cpu.stat", f"{mode}_usec", unit=1e6)
        compared = window.compare("worker_cpu_seconds_total", source, slack=1e-9, mode=mode)
        assert compared == len(WORKERS)


def cpu_throttled(window: Window) -> None:
    """Periods as cpu.stat has them; the quota has bitten."""
    for name, source in (
        ("worker_cpu_periods_total", keyed("cpu.stat", "nr_periods")),
        ("worker_cpu_throttled_periods_total", keyed("cpu.stat", "nr_throttled")),
        ("worker_cpu_throttled_seconds_total", keyed("cpu.stat", "throttled_usec", unit=1e6)),
    ):
        assert window.compare(name, source, slack=1e-9) > 0
        assert window.scrape.value(name, QUOTA.labels) > 0


def cpu_limit(window: Window) -> None:
    """CPUQuota as cores, and AllowedCPUs as the number of them."""
    assert window.before[QUOTA].properties["CPUQuotaPerSecUSec"] == "200ms"
    assert window.scrape.value("worker_cpu_limit_cores", QUOTA.labels) == 0.2
    assert window.scrape.value("worker_cpu_limit_cores", PLAIN.labels) == 1


def memory_current(window: Window) -> None:
    """systemd's MemoryCurrent, of every worker."""
    compared = window.compare("worker_memory_current_bytes", shown("MemoryCurrent"))
    assert compared == len(WORKERS)
    assert window.scrape.value("worker_memory_current_bytes", MEMORY.labels) > 52 * MIB


def memory_peak_and_swap(window: Window) -> None:
    """memory.peak, for which systemd 252 has no property, and memory.swap.current."""
    assert window.compare("worker_memory_peak_bytes", single("memory.peak")) == len(WORKERS)
    swap = window.compare("worker_memory_swap_bytes", single("memory.swap.current"))
    assert swap == len(WORKERS)


def memory_kinds(window: Window) -> None:
    """The families of memory.stat, and that the kinds are what the worker asked for."""
    for name, keys in (
        ("worker_memory_rss_bytes", ("anon", "file_mapped")),
        ("worker_memory_anon_bytes", ("anon",)),
        ("worker_memory_file_bytes", ("file",)),
        ("worker_memory_shmem_bytes", ("shmem",)),
        ("worker_memory_kernel_bytes", ("kernel",)),
    ):
        assert window.compare(name, keyed("memory.stat", *keys)) == len(WORKERS), name
    assert window.scrape.value("worker_memory_anon_bytes", MEMORY.labels) >= 40 * MIB
    assert window.scrape.value("worker_memory_shmem_bytes", MEMORY.labels) >= 4 * MIB
    assert window.scrape.value("worker_memory_file_bytes", MEMORY.labels) >= 12 * MIB
    assert window.scrape.value("worker_exporter_memory_source", {"source": "cgroup"}) == len(
        WORKERS
    )
    assert not window.scrape.get("worker_exporter_memory_source", {"source": "proc"})


def memory_working_set(window: Window) -> None:
    """What is in use, less the file pages that nobody looked at lately."""
    for worker, before, after in window.both():
        ends = [single("memory.current")(reading) or 0.0 for reading in (before, after)]
        idle = [
            keyed("memory.stat", "inactive_file")(reading) or 0.0 for reading in (before, after)
        ]
        value = window.scrape.value("worker_memory_working_set_bytes", worker.labels)
        low, high = min(ends) - max(idle), max(ends) - min(idle)
        assert max(low, 0) <= value <= high, f"{worker.unit}: {value} is not in {low}..{high}"


def memory_faults(window: Window) -> None:
    """Page faults and refaults as memory.stat counts them."""
    for name, kind, source in (
        ("page_faults", "major", keyed("memory.stat", "pgmajfault")),
        ("page_faults", "minor", keyed("memory.stat", "pgfault", less="pgmajfault")),
        ("refaults", "anon", keyed("memory.stat", "workingset_refault_anon")),
        ("refaults", "file", keyed("memory.stat", "workingset_refault_file")),
    ):
        compared = window.compare(f"worker_memory_{name}_total", source, type=kind)
        assert compared == len(WORKERS), (name, kind)


def memory_limits(window: Window) -> None:
    """The smallest on the path: the slice's 200 MiB, not the worker's 300."""
    memory, starved = window.before[MEMORY], window.before[STARVED]
    assert memory.whole("MemoryMax") == 300 * MIB
    for name, worker, expected in (
        ("worker_memory_limit_bytes", MEMORY, 200 * MIB),
        ("worker_memory_high_bytes", MEMORY, memory.whole("MemoryHigh")),
        ("worker_memory_swap_limit_bytes", MEMORY, memory.whole("MemorySwapMax")),
        ("worker_memory_limit_bytes", STARVED, starved.whole("MemoryMax")),
        ("worker_memory_swap_limit_bytes", STARVED, 0),
    ):
        assert window.scrape.value(name, worker.labels) == expected, (name, worker.unit)


def unlimited_is_absent(window: Window) -> None:
    """A limit that is not set is no series, least of all 0 or 2^64."""
    for kind in ("limit", "high", "swap_limit"):
        assert window.scrape.get(f"worker_memory_{kind}_bytes", LLM.labels) is None, kind
    for name in window.scrape.samples:
        if "_limit_" in name or name.endswith("_limit"):
            assert all(value < 2**62 for _, value in window.scrape.matching(name, {})), name


def memory_events(window: Window) -> None:
    """memory.events, and the one kill that a worker outlived."""
    for event in ("high", "max", "oom", "oom_kill", "oom_group_kill"):
        source = keyed("memory.events", event)
        compared = window.compare("worker_memory_events_total", source, event=event)
        assert compared == len(WORKERS), event
    kills = {"event": "oom_kill"}
    assert window.scrape.value("worker_memory_events_total", STARVED.labels | kills) == 1
    assert window.before[STARVED].properties["ActiveState"] == "active"
    assert window.scrape.value("worker_memory_events_total", MEMORY.labels | kills) == 0


def io_bytes(window: Window) -> None:
    """systemd's IOReadBytes and IOWriteBytes, on the disk by its name."""
    before, after = window.before[DISK], window.after[DISK]
    for name, key, least in (
        ("worker_io_read_bytes_total", "IOReadBytes", 2 * MIB),
        ("worker_io_written_bytes_total", "IOWriteBytes", 4 * MIB),
        ("worker_io_reads_total", "IOReadOperations", 32),
        ("worker_io_writes_total", "IOWriteOperations", 64),
    ):
        said = before.whole(key)
        assert said is not None and said == after.whole(key), f"{key}: {said}, {after.whole(key)}"
        assert said >= least, f"{key}: {said}"
        assert window.scrape.value(name, DISK.labels | {"device": "vda"}) == said, name


def io_absent(window: Window) -> None:
    """A user's manager has no io controller: no series, not a zero."""
    assert window.scrape.total("worker_io_read_bytes_total", OF_USER.labels) is None
    assert window.scrape.total("worker_io_written_bytes_total", OF_USER.labels) is None


def pressure(window: Window) -> None:
    """The totals of some and full, of every resource."""
    for resource in ("cpu", "memory", "io"):
        for state, kind in (("waiting", "some"), ("stalled", "full")):
            name = f"worker_pressure_{resource}_{state}_seconds_total"
            compared = window.compare(name, stalls(resource, kind), slack=1e-9)
            assert compared == len(WORKERS), name
    assert window.scrape.value("worker_pressure_cpu_waiting_seconds_total", QUOTA.labels) > 0


def tasks(window: Window) -> None:
    """systemd's TasksCurrent and TasksMax, and how often the limit was hit."""
    assert window.compare("worker_tasks", shown("TasksCurrent")) == len(WORKERS)
    assert window.scrape.value("worker_tasks", TASKS.labels) == 8
    assert window.before[TASKS].whole("TasksMax") == 8
    assert window.scrape.value("worker_tasks_limit", TASKS.labels) == 8
    hits = window.compare("worker_tasks_limit_hits_total", keyed("pids.events", "max"))
    assert hits == len(WORKERS)
    assert window.scrape.value("worker_tasks_limit_hits_total", TASKS.labels) >= 1
