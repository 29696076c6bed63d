"""Workers / GPU: each device, and who holds its memory."""

from grafana_foundation_sdk.models import dashboard as models

from dashboards import annotations, links, looks, variables
from dashboards.alerts import alerts_over_time
from dashboards.devices import devices
from dashboards.frame import dashboard
from dashboards.grid import Row, Section
from dashboards.panels import (
    BYTES,
    NUMBER,
    RATIO,
    Series,
    alert_above,
    graph,
    limit,
    number,
)
from dashboards.promql import (
    GPU,
    GPUS,
    INTERVAL,
    NODE,
    NODES,
    ONLY_MOST,
    RANGE,
    WORKER,
    counted,
    highest,
    largest,
    most,
    total,
)
from dashboards.tables import Label, Value, table

_DEVICE = "{{node}} GPU {{gpu}} {{mig}}"
_ABOUT_GPUS = f'alertname=~"Worker(GPU|VRAM).*", {NODES}, gpu=~"$gpu|"'


def built() -> models.Dashboard:
    """The dashboard."""
    return dashboard(
        "gpu",
        "Each GPU: how full, how busy, how hot, and which workers hold its memory.",
        [variables.datasource(), variables.nodes(), variables.gpus()],
        [annotations.critical_alerts(_ABOUT_GPUS)],
        [
            Section("", [_top_line(), Row(8, [devices(GPUS, span=24)])]),
            Section("Who holds the memory", [Row(12, [_holders()]), Row(9, [_processes()])]),
            Section(
                "Each device",
                [
                    Row(8, [_used(), _busy(), _by_worker()]),
                    Row(8, [_temperature(), _power(), _unattributed()]),
                ],
            ),
            Section("What is wrong", [Row(7, [_alerts(), _gone()])]),
        ],
    )


def _info() -> str:
    return f'worker_node_gpu_info{{mig="", {GPUS}}}'


def _most(metric: str) -> str:
    return most(GPU, f"{metric}{{{GPUS}}}")


def _sum(metric: str) -> str:
    return f"sum({largest(GPU, f'{metric}{{{GPUS}}}')})"


def _lost(seen: str) -> str:
    """The GPUs that were `seen` in the time range and are no longer."""
    present = largest("node, uuid", f'worker_node_gpu_info{{mig="", {NODES}}}')
    return f"{largest('node, gpu, uuid', seen)} unless on (node, uuid) {present}"


def _top_line() -> Row:
    info = largest("node, gpu, uuid", _info())
    seen = f"last_over_time({_info()}{RANGE})"
    held = f"sum({largest(f'{WORKER}, {GPU}', f'worker_gpu_memory_used_bytes{{{GPUS}}}')})"
    return Row(
        4,
        [
            number(
                "GPUs",
                "GPUs that the drivers tell of, parts in MIG mode not counted.",
                NUMBER,
                Series(f"count({info})", "GPUs"),
                span=3,
            ),
            number(
                "GPUs gone",
                "GPUs that were there in the time range and are no longer; the table at the "
                "bottom names them. Also those of nodes that do not answer.",
                NUMBER,
                Series(counted(_lost(seen), seen), "gone"),
                span=3,
                steps=looks.ANY_IS_BAD,
            ),
            number(
                "Memory",
                "Share of all memory of the chosen GPUs that is in use, by whomever. Full is no "
                "fault: servers allocate all there is.",
                RATIO,
                Series(
                    f"{_sum('worker_node_gpu_memory_used_bytes')}"
                    f" / {_sum('worker_node_gpu_memory_total_bytes')}",
                    "used",
                ),
                span=4,
                decimals=0,
            ),
            number(
                "Held by workers",
                "GPU memory that processes of workers hold (the driver, by PID).",
                BYTES,
                Series(held, "held"),
                span=4,
            ),
            number(
                "Unattributed",
                "GPU memory that processes of no worker hold, on the GPU with most of it: somebody "
                "else's, or left behind. Above 1 GiB for ten minutes WorkerVRAMUnattributed fires. "
                "A dash: part of it is unknown.",
                BYTES,
                Series(f"max(worker_node_gpu_unattributed_memory_bytes{{{GPUS}}})", "unattributed"),
                span=4,
                steps=looks.FOREIGN,
            ),
            number(
                "Hottest",
                "Temperature of the hottest chosen GPU. Above 85 °C for five minutes WorkerGPUHot "
                "fires, and the GPU slows down.",
                "celsius",
                Series(f"max(worker_node_gpu_temperature_celsius{{{GPUS}}})", "hottest"),
                span=3,
                steps=looks.HOT,
            ),
            number(
                "Drawn",
                "Power that the chosen GPUs draw together.",
                "watt",
                Series(_sum("worker_node_gpu_power_watts"), "power"),
                span=3,
                decimals=0,
            ),
        ],
    )


def _holders() -> models.Panel:
    def by_node(metric: str) -> str:
        return total(NODE, largest(GPU, f"{metric}{{{GPUS}}}"))

    metric = f"worker_gpu_memory_used_bytes{{{GPUS}}}"
    held = largest(f"{WORKER}, {GPU}", metric)
    ever = largest(f"{WORKER}, {GPU}", f"max_over_time({metric}{RANGE} @ end())")
    holders = f"{total(WORKER, held)} and on ({WORKER}) topk(40, {total(WORKER, ever)})"
    used = by_node("worker_node_gpu_memory_used_bytes")
    memory = by_node("worker_node_gpu_memory_total_bytes")
    unattributed = by_node("worker_node_gpu_unattributed_memory_bytes")
    rest = (
        f"clamp_min({used} - ({total(NODE, held)} or 0 * {used})"
        f" - ({unattributed} or 0 * {used}), 0)"
    )
    panel = graph(
        "Memory of GPU $gpu",
        "Who holds the memory of this GPU: each worker, processes of no worker (unattributed), "
        "what the driver counts for nobody, and what is free, up to all there is (dashed). A "
        "worker that is gone elsewhere and still has its part here was not ended properly; large "
        "unattributed memory belongs to somebody who is no worker. A line leads to its worker. Of "
        "more than 40 workers only those with most have one; choose fewer nodes for the others.",
        BYTES,
        Series(holders, "{{service}}/{{instance}} on {{node}}"),
        Series(f"sum({held}) - sum({holders})", "other workers"),
        Series(unattributed, "unattributed on {{node}}", color=looks.WARNING),
        Series(rest, "driver, unknown on {{node}}", color="dark-purple"),
        Series(f"{memory} - {used}", "free on {{node}}", color=looks.QUIET),
        limit(f"sum({memory})", "in all"),
        span=24,
        stacked=True,
        link=links.from_series("worker", "node", "service", "instance"),
    )
    panel.repeat, panel.repeat_direction, panel.max_per_row = "gpu", "h", 2
    return panel


def _processes() -> models.Panel:
    labels = f"{WORKER}, {GPU}, pid"
    metric = f"worker_gpu_process_memory_used_bytes{{{GPUS}}}"
    return table(
        "Processes",
        "Each process of a worker that holds GPU memory, the largest first. A row leads to its "
        "worker. Processes of no worker are not listed: nvidia-smi on the node shows them.",
        Label("node", "Node"),
        Label("gpu", "GPU", width=60),
        Label("mig", "MIG", width=60),
        Label("service", "Service", links.from_row("service", node="Node", service="Service")),
        Label(
            "instance",
            "Instance",
            links.from_row("worker", node="Node", service="Service", instance="Instance"),
        ),
        Label("pid", "PID", width=100),
        Value("Memory", largest(labels, metric), BYTES, "gauge"),
        span=24,
        sort_by="Memory",
        empty="No worker holds GPU memory",
    )


def _used() -> models.Panel:
    return graph(
        "Memory used",
        "Share of each GPU's memory that is in use, by whomever. Above the dashed line for 15 "
        "minutes WorkerVRAMNearlyFull says so, for information: servers allocate all there is. "
        f"{ONLY_MOST}",
        RATIO,
        Series(_most("gpu:worker_node_gpu_memory_used:ratio"), _DEVICE),
        alert_above("worker_gpu_memory_used:ratio"),
        span=8,
        maximum=1,
    )


def _busy() -> models.Panel:
    return graph(
        "Busy",
        "Share of the last moments in which each GPU did something. Flat at 0 with memory held is "
        f"an idle or stuck worker. {ONLY_MOST}",
        RATIO,
        Series(_most("worker_node_gpu_utilization_ratio"), _DEVICE),
        span=8,
        maximum=1,
    )


def _by_worker() -> models.Panel:
    metric = f"worker_gpu_utilization_ratio{{{GPUS}}}"
    return graph(
        "Busy with each worker",
        "Share of a GPU's time that each worker used. Absent where the driver does not tell it by "
        f"process (AMD, MIG). A line leads to its worker. {ONLY_MOST}",
        RATIO,
        Series(
            most(f"{WORKER}, {GPU}", metric), "{{service}}/{{instance}} on {{node}} GPU {{gpu}}"
        ),
        span=8,
        link=links.from_series("worker", "node", "service", "instance"),
    )


def _temperature() -> models.Panel:
    return graph(
        "Temperature",
        "Temperature of each GPU. Above the dashed line for five minutes WorkerGPUHot fires: the "
        f"GPU slows down, and a fan or the room may be the cause. {ONLY_MOST}",
        "celsius",
        Series(_most("worker_node_gpu_temperature_celsius"), _DEVICE),
        alert_above("worker_gpu_temperature:celsius"),
        span=8,
    )


def _power() -> models.Panel:
    joules = f"rate(worker_node_gpu_energy_joules_total{{{GPUS}}}{INTERVAL})"
    drawing = highest(GPU, f"worker_node_gpu_power_watts{{{GPUS}}}")
    return graph(
        "Power",
        "Power that each GPU draws, as it says itself, and on average by its energy counter "
        f"(dashed). Flat at its cap means that it is held back by power. {ONLY_MOST}",
        "watt",
        Series(_most("worker_node_gpu_power_watts"), _DEVICE),
        Series(
            f"{largest(GPU, joules)} and on ({GPU}) {drawing}", f"{_DEVICE} on average", looks.QUIET
        ),
        span=8,
    )


def _unattributed() -> models.Panel:
    return graph(
        "Unattributed memory",
        "Memory of each GPU that processes of no worker hold. Above the dashed line for ten "
        f"minutes WorkerVRAMUnattributed fires. Absent when part of it is unknown. {ONLY_MOST}",
        BYTES,
        Series(_most("worker_node_gpu_unattributed_memory_bytes"), _DEVICE),
        alert_above("worker_gpu_unattributed_memory:bytes"),
        span=8,
    )


def _alerts() -> models.Panel:
    return alerts_over_time(_ABOUT_GPUS, span=14)


def _gone() -> models.Panel:
    seen = f"max_over_time(timestamp({_info()})[$__range:1m])"
    return table(
        "Gone GPUs",
        "GPUs that were there in the time range and are no longer, and when they were last seen. "
        "While the node answers, WorkerGPUGone fires, or WorkerGPUDriverDown if none is left. The "
        "kernel's log says why (NVIDIA: Xid).",
        Label("node", "Node"),
        Label("gpu", "GPU", width=60),
        Label("uuid", "UUID"),
        Value("Last seen", f"1000 * ({_lost(seen)})", "dateTimeFromNow"),
        span=10,
        empty="No GPU is gone",
    )
