"""What a host allows, what is in the way, and what to do about it."""

from worker_sidecar.doctor.context import Host
from worker_sidecar.doctor.examination import examine
from worker_sidecar.doctor.finding import Finding

__all__ = ["Finding", "Host", "examine"]
