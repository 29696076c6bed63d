"""Health probes: asks the workers whether they are ready, and writes it on their cgroups."""

from worker_sidecar.health.place import living
from worker_sidecar.health.prober import Prober

__all__ = ["Prober", "living"]
