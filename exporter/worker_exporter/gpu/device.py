"""What a driver says of its devices. None is what it does not say; it is never replaced by 0."""

from dataclasses import dataclass
from typing import NamedTuple

NVIDIA = "nvidia"
AMD = "amd"


class Process(NamedTuple):
    """A process that uses a device: memory it holds in bytes, and which share of the device's
    time (0 to 1) it used since the last reading. There are many: a tuple is made in half the time.
    """

    pid: int
    memory_used_bytes: int | None = None
    utilization_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a part of one in MIG mode.

    `index` is the GPU's number as its driver counts, also that of its parts; `mig` is the part's
    "GPU instance/compute instance", such as "1/0", and "" for a whole GPU. Memory in bytes,
    utilization 0 to 1, temperature in degrees Celsius, power in watts, energy in joules since the
    driver was loaded. `processes` has each PID once; None: they cannot be told.

    Nothing is there twice: a GPU in MIG mode has no memory and no processes, for its parts have
    them, and where several parts share a GPU instance its memory is the first one's.

    `vendor` is NVIDIA or AMD, each of which counts from 0. `rocr_name` is how ROCR_VISIBLE_DEVICES
    names an AMD device; None: ROCm cannot use it.
    """

    index: int
    uuid: str
    mig: str = ""
    name: str = ""
    driver: str = ""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_ratio: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    vendor: str = NVIDIA
    rocr_name: str | None = None
    processes: tuple[Process, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at all devices. `faults` are one line each about what could not be read though it
    should be there: the figures that are here are right all the same.
    """

    devices: tuple[Device, ...] = ()
    faults: tuple[str, ...] = ()
