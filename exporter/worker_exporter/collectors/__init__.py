"""What a scrape reads, one module a subject. Importing this fills the registry."""

from worker_exporter.collectors import cpu, health, info, io, memory, node, pressure, tasks

__all__ = ["cpu", "health", "info", "io", "memory", "node", "pressure", "tasks"]
