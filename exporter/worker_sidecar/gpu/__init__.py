"""GPUs of the host, and which of them a worker gets."""

from worker_sidecar.gpu.choice import choose
from worker_sidecar.gpu.inventory import GpuState, NoDriverError, inventory

__all__ = ["GpuState", "NoDriverError", "choose", "inventory"]
