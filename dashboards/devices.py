"""The table of GPUs, one row for each device."""

from grafana_foundation_sdk.models import dashboard as models

from dashboards import links, looks
from dashboards.panels import BYTES, RATIO
from dashboards.promql import GPU, largest
from dashboards.tables import Label, Value, table


def devices(matchers: str, span: int) -> models.Panel:
    """Each device that `matchers` choose."""
    used, memory = (
        largest(GPU, f"worker_node_gpu_memory_{what}_bytes{{{matchers}}}")
        for what in ("used", "total")
    )
    to_gpu = links.from_row("gpu", node="Node", gpu="GPU")
    return table(
        "Devices",
        "Each GPU, and in MIG mode each part of it: how full, how busy, how hot, and what of its "
        "memory is held by processes of no worker. Full memory alone is no fault: servers "
        "allocate all there is. What the driver does not tell is left empty.",
        Label("node", "Node"),
        Label("gpu", "GPU", to_gpu, width=60),
        Label("mig", "MIG", width=60),
        Label("name", "Name"),
        Label("driver", "Driver", width=100),
        Label("uuid", "UUID"),
        Value("", largest(f"{GPU}, name, driver", f"worker_node_gpu_info{{{matchers}}}")),
        Value("Memory used", f"{used} / {memory}", RATIO, "gauge", decimals=0),
        Value("Used", used, BYTES),
        Value("Total", memory, BYTES),
        Value(
            "Unattributed",
            largest(GPU, f"worker_node_gpu_unattributed_memory_bytes{{{matchers}}}"),
            BYTES,
            "text",
            looks.FOREIGN,
        ),
        Value("Workers", f"count by ({GPU}) ({_holders(matchers)})"),
        Value(
            "Busy",
            largest(GPU, f"worker_node_gpu_utilization_ratio{{{matchers}}}"),
            RATIO,
            "gauge",
            decimals=0,
        ),
        Value(
            "Temperature",
            largest(GPU, f"worker_node_gpu_temperature_celsius{{{matchers}}}"),
            "celsius",
            "text",
            looks.HOT,
            decimals=0,
        ),
        Value(
            "Power",
            largest(GPU, f"worker_node_gpu_power_watts{{{matchers}}}"),
            "watt",
            decimals=0,
        ),
        span=span,
        empty="No GPU is known",
    )


def _holders(matchers: str) -> str:
    return largest(f"{GPU}, service, instance", f"worker_gpu_processes{{{matchers}}}")
