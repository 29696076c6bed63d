"""What a scrape reads, one module a subject. Importing this fills the registry."""

from worker_exporter.collectors import (
    cpu,
    gpu,
    health,
    info,
    io,
    memory,
    node,
    pressure,
    services,
    tasks,
    units,
)

__all__ = [
    "cpu",
    "gpu",
    "health",
    "info",
    "io",
    "memory",
    "node",
    "pressure",
    "services",
    "tasks",
    "units",
]
