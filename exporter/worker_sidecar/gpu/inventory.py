"""Which GPUs a host has, asked of a process that may hang in a driver's stead.

A process that hangs in a driver cannot be killed. It is abandoned, and as it holds the lock that
it was started with, nobody on this host starts a second one before it has ended.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker_exporter.gpu import inventory as drivers
from worker_exporter.gpu.device import AMD, NVIDIA, Device
from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch.site import run_dir

PATIENCE = 20.0
"""Seconds for an answer: without a persistence daemon each GPU wakes up first."""

SYSFS = "/sys"

_PAUSE = 0.02
"""Seconds between two tries: flock has no deadline of its own."""


class NoDriverError(InputOutputError):
    """There is no driver of GPUs on this host."""


class DriverError(InputOutputError):
    """NVIDIA's driver failed. `others` are the GPUs of AMD."""

    def __init__(self, text: str, others: Sequence["GpuState"]) -> None:
        super().__init__(text)
        self.others = others


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU, or a MIG device with the number of its GPU. None is what the driver does not say.

    Of a partition of an AMD GPU nobody says how much is free: it is what no compute process holds.
    `vendor` and `rocr_name` are as in worker_exporter.gpu.device.Device.
    """

    index: int
    uuid: str
    name: str | None
    free_bytes: int | None
    total_bytes: int | None
    vendor: str = NVIDIA
    rocr_name: str | None = None

    @property
    def is_mig(self) -> bool:
        """Whether it is a part of a GPU."""
        return self.uuid.startswith("MIG-")

    @property
    def is_usable(self) -> bool:
        """Whether the vendor's runtime can use it."""
        return self.vendor != AMD or self.rocr_name is not None


def inventory(patience: float = PATIENCE) -> Sequence[GpuState]:
    """The GPUs, NVIDIA's first, each vendor's by number. A GPU in MIG mode is left out: its MIG
    devices are there instead.

    Raises NoDriverError, DriverError, or InputOutputError when there is no answer within `patience`
    seconds.
    """
    deadline = time.monotonic() + patience
    try:
        with _lock(deadline, patience) as lock:
            left = max(0.0, deadline - time.monotonic())
            reading = drivers.inventory(left, SYSFS, held=[lock])
    except drivers.NoDriverError as error:
        raise NoDriverError(f"there is no NVIDIA driver here ({error}), and no AMD GPU") from None
    except drivers.DriverError as error:
        raise DriverError(f"{error}; see nvidia-smi", _states(error.reading.devices)) from None
    except drivers.NoAnswerError:
        raise InputOutputError(
            f"the GPU drivers did not answer within {patience:g} s; see nvidia-smi and dmesg"
        ) from None
    except OSError as error:
        raise InputOutputError(f"the GPU drivers were not asked: {error.strerror}") from None
    return _states(reading.devices)


def _states(devices: Sequence[Device]) -> Sequence[GpuState]:
    return [
        GpuState(
            index=device.index,
            uuid=device.uuid,
            name=device.name or None,
            free_bytes=_free(device),
            total_bytes=device.memory_total_bytes,
            vendor=device.vendor,
            rocr_name=device.rocr_name,
        )
        for device in devices
        if not _is_divided(device)
    ]


def _is_divided(device: Device) -> bool:
    """Whether it is in MIG mode: such a GPU tells neither memory nor processes, its parts do."""
    return device.memory_total_bytes is None and device.processes is None


def _free(device: Device) -> int | None:
    total, used = device.memory_total_bytes, device.memory_used_bytes
    if total is None:
        return None
    if used is not None:
        return total - used
    if device.vendor != AMD or device.processes is None:
        return None
    return max(0, total - sum(process.memory_used_bytes or 0 for process in device.processes))


@contextlib.contextmanager
def _lock(deadline: float, patience: float) -> Iterator[int]:
    """A descriptor that holds the lock, as does whoever inherits it.

    Raises InputOutputError when it is not free until the deadline.
    """
    path = f"{run_dir()}/gpu.lock"
    try:
        os.makedirs(run_dir(), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputOutputError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise InputOutputError(
                    f"an earlier question to the GPU drivers has no answer after {patience:g} s,"
                    " and no second one is asked; see nvidia-smi and dmesg"
                )
            time.sleep(_PAUSE)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
