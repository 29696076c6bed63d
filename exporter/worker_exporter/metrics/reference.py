"""The reference of all families in Markdown, docs/metrics.md: `python -m` this module prints it."""

from collections.abc import Iterable, Iterator

from worker_exporter.metrics.family import EXPORTER, FAMILIES, Family, families_of

_HEAD = """\
# Metrics

Every family that `worker-exporter` serves. This page is made from the table in
`exporter/worker_exporter/metrics/family.py` by `make docs`; do not edit it.

- Every series of a worker carries `service` and `instance`. A label without a value is left out.
- What cannot be read is absent, never zero; so is a limit that is not set.
- Counters start at 0 when the cgroup is made; they end with it.
- Names are those of the samples. In OpenMetrics the family of a counter is named without `_total`.
"""

_TITLES = {
    "info": "What a worker is",
    "health": "What the sidecar's probe said",
    "cpu": "CPU",
    "memory": "Memory",
    "io": "IO",
    "pressure": "Pressure (PSI)",
    "tasks": "Tasks",
    "units": "Units: what systemd says",
    "services": "Services",
    "gpu": "GPUs",
    "node": "The node",
    EXPORTER: "The exporter itself",
}

_NOTES = {
    "units": (
        "While the unit is active these tell of the living worker; when it failed, or waits for "
        "its restart, systemd still holds its last run, until it is started or `systemctl "
        "reset-failed`. [What became of a worker](dead-workers.md) says how to read them. They are "
        "absent when systemd does not answer in time."
    ),
    "gpu": (
        "`gpu` is the number that the driver gives the device, `uuid` its own name; a part of a "
        "GPU in MIG mode is a device with its GPU's number, its own `uuid`, and `mig` (GPU "
        "instance/compute instance). `worker_gpu_*` carry `service` and `instance`, found by the "
        "PIDs that the driver names; those of the node do not. [GPUs](gpu.md) says what each "
        "driver tells."
    ),
    "services": (
        "Labelled by `service` alone. They are read from the service's slice (or plain directory), "
        "so they outlive its workers and show limits that were set on it; they begin anew when "
        "the slice is stopped. Slices of one service in several roots are summed."
    ),
}

_PROCESS = """\
Beside these there are the usual `process_*` metrics: `process_cpu_seconds_total`,
`process_virtual_memory_bytes`, `process_resident_memory_bytes`, `process_start_time_seconds`,
`process_max_fds` and `process_open_fds` (the last is left out on kernels before 6.2 when more
than 1,024 files are open: counting them would cost more than the scrape).
"""


def reference() -> str:
    """The whole page."""
    collectors = dict.fromkeys(family.collector for family in FAMILIES)
    sections = (_section(collector) for collector in collectors)
    return "\n".join([_HEAD, *sections, _PROCESS])


def _section(collector: str) -> str:
    note = [] if collector == EXPORTER else ["", f"Collector `{collector}`."]
    if collector in _NOTES:
        note += ["", _NOTES[collector]]
    return "\n".join([f"## {_TITLES[collector]}", *note, *_table(families_of(collector))])


def _table(families: Iterable[Family]) -> Iterator[str]:
    yield ""
    yield "| family | type | further labels | what it is | from |"
    yield "|---|---|---|---|---|"
    for family in families:
        yield (
            f"| `{family.name}` | {family.type} | {_labels(family)} "
            f"| {family.summary} | {family.source} |"
        )
    yield ""


def _labels(family: Family) -> str:
    if family.values:
        return f"`{family.labels[0]}`: {', '.join(family.values)}"
    return ", ".join(f"`{label}`" for label in family.labels)


if __name__ == "__main__":
    print(reference(), end="")
