"""The process that talks to NVIDIA's driver, so that nobody else hangs with it.

It prints one JSON object: {"devices": [...]}, or {"fault": "why", "absent": whether there is no
driver at all}. Sources: NVML's nvmlDeviceGetUUID, nvmlDeviceGetName, nvmlDeviceGetMemoryInfo and,
for a GPU in MIG mode, the same of its MIG devices, which stand in its place.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pynvml  # type: ignore[import-untyped]

_ABSENT = (
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
)


def main() -> None:
    """Print the answer and end at once: NVML's own shutdown may hang as well."""
    os.write(1, json.dumps(_answer()).encode())
    os._exit(0)


def _answer() -> dict[str, Any]:
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return {"fault": str(error), "absent": error.value in _ABSENT}
    return {"devices": [device for index in range(count) for device in _devices(index)]}


def _devices(index: int) -> Iterator[dict[str, Any]]:
    """The GPU of this number, or its MIG devices; nothing of a GPU that does not answer."""
    handle = _known(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return
    for one in _mig_handles(handle) if _is_divided(handle) else [handle]:
        uuid = _known(pynvml.nvmlDeviceGetUUID, one)
        memory = _known(pynvml.nvmlDeviceGetMemoryInfo, one)
        if uuid is not None:
            yield {
                "index": index,
                "uuid": uuid,
                "name": _known(pynvml.nvmlDeviceGetName, one),
                "free_bytes": None if memory is None else int(memory.free),
                "total_bytes": None if memory is None else int(memory.total),
            }


def _is_divided(handle: Any) -> bool:
    mode = _known(pynvml.nvmlDeviceGetMigMode, handle)
    return mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def _mig_handles(handle: Any) -> Iterator[Any]:
    most = _known(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    for place in range(most):
        mig = _known(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
        if mig is not None:
            yield mig


def _known(ask: Callable[..., Any], *arguments: Any) -> Any:
    """What `ask` answers; None where the driver has no answer (MIG on a GPU without it, …)."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


if __name__ == "__main__":
    main()
