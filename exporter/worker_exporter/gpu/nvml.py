"""NVIDIA's devices, as NVML tells them. Only for the helper process: any call here may hang.

All figures are as nvidia-smi shows them. Memory is nvmlDeviceGetMemoryInfo_v2's: the driver's own
reserve is no used memory there, as it is in the first version, which old drivers alone have.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from worker_exporter.gpu.device import NVIDIA, Device, Process
from worker_exporter.gpu.nvml_processes import NonsenseError, Processes

_ABSENT = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_UNSUPPORTED = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_DEPRECATED,
)
_OLD_LIBRARY = (
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
)
_ALL_IS_OVER = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
"""Errors of a call that speak of the driver, not of one device."""

_DEVICE_IS_OVER = (*_ALL_IS_OVER, pynvml.NVML_ERROR_GPU_IS_LOST)

_RENEWAL = 300.0
"""Seconds until NVML is initialised anew for a device that was lost, or if there is none at all: it
takes notice of what comes back only then. It may take longer than a scrape waits.
"""

_NOT_AVAILABLE = 0xFFFFFFFF
_NOT_AVAILABLE_64 = 0xFFFFFFFFFFFFFFFF
"""NVML_VALUE_NOT_AVAILABLE in 32 and 64 bits."""

T = TypeVar("T")


class AbsentError(Exception):
    """There is no driver, or no library of it; the text is NVML's word for it."""


class FailedError(Exception):
    """NVML cannot be used; the text says why."""


@dataclass(slots=True)
class _Gpu:
    """A GPU and what never changes of it. The handle is None while the driver gives none."""

    index: int
    handle: Any = None
    uuid: str = ""
    name: str = ""


class _Look:
    """One look at one device. `wrong` has why some figures are missing that should be there."""

    def __init__(self) -> None:
        self.wrong: dict[str, list[str]] = {}

    def at(self, what: str, ask: Callable[..., T], *arguments: Any) -> T | None:
        """What `ask` answers; None where the device does not know.

        Raises NVMLError if the device or the driver is lost.
        """
        try:
            return ask(*arguments)
        except NonsenseError as error:
            self.wrong.setdefault(str(error), []).append(what)
            return None
        except pynvml.NVMLError as error:
            if error.value in _DEVICE_IS_OVER:
                raise
            if error.value not in _UNSUPPORTED:
                self.wrong.setdefault(str(error), []).append(what)
            return None

    def faults(self, device: str) -> Iterator[str]:
        """A line for each reason."""
        for reason, figures in self.wrong.items():
            yield f"{device}: {', '.join(figures)}: {reason}; see nvidia-smi"


class Nvidia:
    """All devices. NVML stays initialised between two looks at them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gpus: list[_Gpu] | None = None
        self._driver = ""
        self._renewal: float | None = None
        self._processes = Processes()

    def devices(self) -> tuple[list[Device], list[str]]:
        """All devices, and a line for each fault.

        Raises AbsentError or FailedError. A later call may find all well.
        """
        if self._renewal is not None and self._clock() >= self._renewal:
            self._shut_down()
        if self._gpus is not None:
            try:
                return self._read(self._gpus)
            except pynvml.NVMLError:
                # The driver was loaded anew under our feet.
                self._shut_down()
        try:
            return self._read(self._initialised())
        except pynvml.NVMLError as error:
            self._shut_down()
            raise (AbsentError if error.value in _ABSENT else FailedError)(str(error)) from None
        except Exception:
            self._shut_down()
            raise

    def _read(self, gpus: list[_Gpu]) -> tuple[list[Device], list[str]]:
        devices: list[Device] = []
        faults: list[str] = []
        for gpu in gpus:
            try:
                devices += self._whole(gpu, faults)
            except pynvml.NVMLError as error:
                if error.value in _ALL_IS_OVER:
                    raise
                faults.append(f"{_named(gpu)} is left out: {error}; see nvidia-smi and dmesg")
                self._renew_some_day()
        return devices, faults

    def _initialised(self) -> list[_Gpu]:
        pynvml.nvmlInit()
        self._gpus = []
        self._renewal = None
        self._processes = Processes()
        with suppress(pynvml.NVMLError, UnicodeDecodeError):
            self._driver = pynvml.nvmlSystemGetDriverVersion()
        self._gpus += map(_Gpu, range(pynvml.nvmlDeviceGetCount()))
        if not self._gpus:
            self._renew_some_day()
        return self._gpus

    def _shut_down(self) -> None:
        if self._gpus is not None:
            self._gpus = None
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _renew_some_day(self) -> None:
        if self._renewal is None:
            self._renewal = self._clock() + _RENEWAL

    def _whole(self, gpu: _Gpu, faults: list[str]) -> list[Device]:
        """The GPU, and its parts where it is divided."""
        _identify(gpu)
        look = _Look()
        mode = look.at("MIG mode", pynvml.nvmlDeviceGetMigMode, gpu.handle)
        is_divided = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        # Memory and processes of a divided GPU are those of its parts: none is shown twice.
        used, total = (None, None) if is_divided else _memory(look, gpu.handle)
        whole = Device(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name,
            driver=self._driver,
            memory_used_bytes=used,
            memory_total_bytes=total,
            utilization_ratio=look.at("utilization", _utilization, gpu.handle),
            temperature_celsius=look.at("temperature", _temperature, gpu.handle),
            power_watts=look.at("power", _power, gpu.handle),
            energy_joules=look.at("energy", _energy, gpu.handle),
            processes=None if is_divided else self._processes_of(look, gpu, total),
            vendor=NVIDIA,
        )
        faults += look.faults(_named(gpu))
        return [whole, *self._parts(gpu, faults)] if is_divided else [whole]

    def _processes_of(
        self, look: _Look, gpu: _Gpu, total: int | None
    ) -> tuple[Process, ...] | None:
        memory = look.at("processes", self._processes.memory, gpu.handle, total)
        if not memory:
            self._processes.forget(gpu.uuid)
            return None if memory is None else ()
        uses = look.at("process utilization", self._processes.utilization, gpu.handle, gpu.uuid)
        if uses is None:
            return tuple(map(Process, memory, memory.values()))
        return tuple(Process(pid, used, uses.get(pid, 0.0)) for pid, used in memory.items())

    def _parts(self, gpu: _Gpu, faults: list[str]) -> Iterator[Device]:
        """The MIG devices of a GPU. They come and go, so nothing of them is remembered."""
        shown = set[int]()
        for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)):
            try:
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, place)
                instance = pynvml.nvmlDeviceGetGpuInstanceId(handle)
                yield self._part(gpu, handle, instance, instance in shown, faults)
            except pynvml.NVMLError as error:
                if error.value in _DEVICE_IS_OVER:
                    raise
                if error.value not in (pynvml.NVML_ERROR_NOT_FOUND, *_UNSUPPORTED):
                    faults.append(
                        f"{_named(gpu)}: MIG device {place} is left out: {error}; see nvidia-smi"
                    )
            else:
                shown.add(instance)

    def _part(
        self, gpu: _Gpu, handle: Any, instance: int, is_shared: bool, faults: list[str]
    ) -> Device:
        """A compute instance. Where several share a GPU instance its memory is the first one's."""
        part = instance, pynvml.nvmlDeviceGetComputeInstanceId(handle)
        mig = f"{part[0]}/{part[1]}"
        look = _Look()
        used, total = _memory(look, handle)
        memory = look.at("processes", self._processes.memory, handle, total, part)
        device = Device(
            index=gpu.index,
            uuid=_uuid(handle),
            mig=mig,
            name=look.at("name", _name, handle) or "",
            driver=self._driver,
            memory_used_bytes=None if is_shared else used,
            memory_total_bytes=None if is_shared else total,
            processes=None if memory is None else tuple(map(Process, memory, memory.values())),
            vendor=NVIDIA,
        )
        faults += look.faults(f"{_named(gpu)} MIG {mig}")
        return device


def _identify(gpu: _Gpu) -> None:
    """Take what never changes, once. Raises NVMLError if the device does not say who it is."""
    if gpu.handle is not None:
        return
    handle = pynvml.nvmlDeviceGetHandleByIndex(gpu.index)
    gpu.uuid = _uuid(handle)
    gpu.name = _Look().at("name", _name, handle) or ""
    gpu.handle = handle


def _named(gpu: _Gpu) -> str:
    return f"NVIDIA GPU {gpu.index} ({gpu.uuid})" if gpu.uuid else f"NVIDIA GPU {gpu.index}"


def _memory(look: _Look, handle: Any) -> tuple[int | None, int | None]:
    """Bytes used and in all."""
    memory = look.at("memory", _memory_info, handle)
    if memory is None or memory.total >= _NOT_AVAILABLE_64:
        return None, None
    return memory.used if memory.used <= memory.total else None, memory.total


def _memory_info(handle: Any) -> Any:
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as error:
        if error.value not in _OLD_LIBRARY:
            raise
    return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _uuid(handle: Any) -> str:
    try:
        uuid: str = pynvml.nvmlDeviceGetUUID(handle)
    except UnicodeDecodeError:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN) from None
    return uuid


def _name(handle: Any) -> str:
    try:
        name: str = pynvml.nvmlDeviceGetName(handle)
    except UnicodeDecodeError:
        return ""
    return name


def _utilization(handle: Any) -> float | None:
    percent: int = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    return percent / 100 if percent <= 100 else None


def _temperature(handle: Any) -> float | None:
    # The newer function will be the only one; the oldest bindings do not have it yet.
    newer = getattr(pynvml, "nvmlDeviceGetTemperatureV", None)
    sensor = pynvml.NVML_TEMPERATURE_GPU
    try:
        return float(pynvml.nvmlDeviceGetTemperature(handle, sensor))
    except pynvml.NVMLError as error:
        if newer is None or error.value not in _UNSUPPORTED:
            raise
    return float(newer(handle, sensor))


def _power(handle: Any) -> float | None:
    milliwatts: int = pynvml.nvmlDeviceGetPowerUsage(handle)
    return None if milliwatts == _NOT_AVAILABLE else milliwatts / 1000


def _energy(handle: Any) -> float:
    millijoules: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    return millijoules / 1000
