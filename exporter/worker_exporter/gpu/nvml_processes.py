"""Processes on NVIDIA's devices, taken out of NVML's arrays at once.

pynvml's own functions make an object of each process, which takes 10 us.
"""

import ctypes
import struct
import time
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

import pynvml  # type: ignore[import-untyped]

_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)
"""A process with CUDA and OpenGL, or a client of MPS, is in two of them."""

_INFO = struct.Struct("@IQII")
"""nvmlProcessInfo_v2_t: PID, bytes, GPU instance, compute instance."""

_INFO_V1 = struct.Struct("@IQ")
"""nvmlProcessInfo_v1_t: PID, bytes."""

_SAMPLE = struct.Struct("@IQI12x")
"""nvmlProcessUtilizationSample_t: PID, microseconds since the epoch, per cent of the SMs; those of
the memory, of the encoder and of the decoder are not looked at.
"""

_NOWHERE = 0xFFFFFFFF
"""The instance of a process that is in none."""

_FIRST_ROOM = 128
_MOST = 1 << 16
"""Processes on one device. A driver that has more is not believed."""

_BELIEVED = 1 << 50
"""Bytes; NVML_VALUE_NOT_AVAILABLE and its kin are more, no memory is."""

_VERSIONS = (("_v3", _INFO), ("_v2", _INFO), ("", _INFO_V1))

_NO_SUCH_LIST = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

_PERIOD = 1_000_000
"""Microseconds that samples are asked for at least: the driver takes one or more in that time."""

Info = tuple[int, ...]

_pid = itemgetter(0)


class NonsenseError(Exception):
    """NVML's answer cannot be true; the text says why."""


class Processes:
    """Asks one initialised NVML. Remembers till when the use of each device (by UUID) is known."""

    def __init__(self) -> None:
        self._lists: list[tuple[Any, struct.Struct]] | None = None
        self._room = _FIRST_ROOM
        self._known_till: dict[str, int] = {}

    def memory(
        self, handle: Any, most: int | None, part: Info | None = None
    ) -> dict[int, int | None]:
        """The bytes that each process holds, by PID; None of one whose bytes are not known, or
        more than `most`. With a `part` (GPU instance, compute instance) no other part's.

        Raises NVMLError (NOT_SUPPORTED if the device knows of no processes) and NonsenseError.
        """
        if self._lists is None:
            self._lists = list(_lists())
        believed = _BELIEVED if most is None else most
        found: dict[int, int | None] = {}
        is_supported = False
        for ask, layout in self._lists:
            infos = self._infos(ask, layout, handle)
            if infos is None:
                continue
            is_supported = True
            _merge(found, infos if part is None else _of_part(infos, part), believed)
        if not is_supported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return found

    def utilization(self, handle: Any, uuid: str) -> Mapping[int, float | None]:
        """The share of the device's time (0 to 1) of each process that used it since the last
        look, by PID: its newest sample, or None if that cannot be true. Without any it used 0.

        Raises NVMLError and NonsenseError.
        """
        now = time.time_ns() // 1000
        since = min(self._known_till.get(uuid, now), now - _PERIOD)
        times: dict[int, int] = {}
        uses: dict[int, float | None] = {}
        for pid, at, percent in _samples(handle, since):
            if at <= since or percent > 100:
                uses.setdefault(pid, None)
            elif at > times.get(pid, 0):
                times[pid] = at
                uses[pid] = percent / 100
        # NVML's figures are means since then: an idle hour before this look is no part of the next.
        self._known_till[uuid] = max([now - _PERIOD, *times.values()])
        return uses

    def forget(self, uuid: str) -> None:
        """The device has no processes: what it did till now is nobody's."""
        self._known_till.pop(uuid, None)

    def _infos(self, ask: Any, layout: struct.Struct, handle: Any) -> Iterator[Info] | None:
        """The entries of a list; None if the device does not have it."""
        while self._room <= _MOST:
            count = ctypes.c_uint(self._room)
            infos = ctypes.create_string_buffer(self._room * layout.size)
            code = ask(handle, ctypes.byref(count), infos)
            if code in _NO_SUCH_LIST:
                return None
            if code == pynvml.NVML_SUCCESS:
                return _unpacked(layout, infos, count.value, self._room)
            if code != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                raise pynvml.NVMLError(code)
            self._room = 2 * max(count.value, self._room)
        self._room = _FIRST_ROOM
        raise NonsenseError(f"NVML has more than {_MOST} processes")


def _lists() -> Iterator[tuple[Any, struct.Struct]]:
    """The functions that this library has for the lists, the newest of each, and what they fill."""
    for name in _LISTS:
        for suffix, layout in _VERSIONS:
            function = _function(name + suffix)
            if function is not None and (suffix != "_v3" or not _is_v3_longer()):
                yield function, layout
                break


def _is_v3_longer() -> bool:
    """Whether nvmlProcessInfo_t has another field at its end: in drivers 535.43 to 535.86."""
    return (
        _function("nvmlDeviceGetConfComputeMemSizeInfo") is not None
        and _function("nvmlDeviceGetRunningProcessDetailList") is None
    )


def _function(name: str) -> Any:
    """The library's function, None if it has none of this name."""
    try:
        return pynvml._nvmlGetFunctionPointer(name)
    except pynvml.NVMLError:
        return None


def _merge(found: dict[int, int | None], infos: Iterator[Info], most: int) -> None:
    """Take what is known rather than what is not, and the larger figure of two."""
    for info in infos:
        pid, used = info[0], info[1]
        known = found.get(pid)
        if used > most:
            found.setdefault(pid, None)
        elif known is None or used > known:
            found[pid] = used


def _of_part(infos: Iterator[Info], part: Info) -> Iterator[Info]:
    return (info for info in infos if info[2:] == part or _NOWHERE in info or len(info) == 2)


def _samples(handle: Any, since: int) -> Iterator[Info]:
    """The samples that NVML has of processes, by its word newer than `since`."""
    ask = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetProcessUtilization")
    room, samples = 0, None
    while True:
        count = ctypes.c_uint(room)
        code = ask(handle, samples, ctypes.byref(count), ctypes.c_ulonglong(since))
        if code == pynvml.NVML_ERROR_NOT_FOUND or (code == pynvml.NVML_SUCCESS and samples is None):
            return iter(())
        if code == pynvml.NVML_SUCCESS:
            return _unpacked(_SAMPLE, samples, count.value, room)
        if code != pynvml.NVML_ERROR_INSUFFICIENT_SIZE or room == _MOST:
            raise pynvml.NVMLError(code)
        # Processes may come between two calls.
        room = min(max(count.value, 2 * room, 1), _MOST)
        samples = ctypes.create_string_buffer(room * _SAMPLE.size)


def _unpacked(layout: struct.Struct, array: Any, count: int, room: int) -> Iterator[Info]:
    """The entries of `array` that are in use: some drivers fill it up with zeros."""
    if count > room:
        # Without the count, which may be another one each time: what lasts is said once.
        raise NonsenseError("NVML says that it wrote more entries than there was room for")
    used = memoryview(array)[: count * layout.size]
    return filter(_pid, layout.iter_unpack(used))
