"""`python -m tests.gpu.capture`: what NVML answers on this machine, in the words of nvml.c.

Its output is a scenario of the stand-in; a comment says what the driver refused, and why.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pynvml  # type: ignore[import-untyped]

_FIGURES: Mapping[str, Callable[[Any], object]] = {
    "uuid": pynvml.nvmlDeviceGetUUID,
    "name": pynvml.nvmlDeviceGetName,
    "memory": lambda handle: _memory(
        pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    ),
    "utilization": lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
    "temperature": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, 0),
    "power": pynvml.nvmlDeviceGetPowerUsage,
    "energy": pynvml.nvmlDeviceGetTotalEnergyConsumption,
}
_LISTS: Mapping[str, Callable[[Any], list[Any]]] = {
    "compute": pynvml.nvmlDeviceGetComputeRunningProcesses,
    "graphics": pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    "mps": pynvml.nvmlDeviceGetMPSComputeRunningProcesses,
}


def scenario() -> Iterator[str]:
    """All lines. Raises NVMLError where there is no driver."""
    pynvml.nvmlInit()
    yield f"driver {pynvml.nvmlSystemGetDriverVersion()}"
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        yield "gpu"
        yield from _device(handle)
        yield from _samples(handle)
        yield from _parts(handle)


def _device(handle: Any) -> Iterator[str]:
    for word, figure in _FIGURES.items():
        try:
            yield f"{word} {figure(handle)}"
        except pynvml.NVMLError as error:
            yield f"# {word}: {error}"
    for word, processes in _LISTS.items():
        try:
            for each in processes(handle):
                held = "-" if each.usedGpuMemory is None else each.usedGpuMemory
                yield f"{word} {each.pid} {held}"
        except pynvml.NVMLError as error:
            yield f"# {word}: {error}"


def _memory(memory: Any) -> str:
    return f"{memory.total} {memory.reserved} {memory.used}"


def _samples(handle: Any) -> Iterator[str]:
    try:
        for each in pynvml.nvmlDeviceGetProcessUtilization(handle, 0):
            yield f"sample {each.pid} {each.timeStamp} {each.smUtil}"
    except pynvml.NVMLError_NotFound:
        yield "samples"
    except pynvml.NVMLError as error:
        yield f"# sample: {error}"


def _parts(handle: Any) -> Iterator[str]:
    """The MIG devices of a GPU that is divided."""
    try:
        is_divided, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:
        return
    if not is_divided:
        return
    yield "mig"
    for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except pynvml.NVMLError_NotFound:
            continue
        instance = pynvml.nvmlDeviceGetGpuInstanceId(part)
        yield f"mig {instance} {pynvml.nvmlDeviceGetComputeInstanceId(part)}"
        yield from _device(part)


def main() -> None:
    """Print it; without a driver exit with NVML's word for that."""
    try:
        print(*scenario(), sep="\n")
    except pynvml.NVMLError as error:
        sys.exit(f"no scenario: {error}")


if __name__ == "__main__":
    main()
