"""What the helper process says to one request: a line of JSON."""

import json
from dataclasses import dataclass, fields
from itertools import starmap
from operator import attrgetter
from typing import Any

from worker_exporter.gpu.device import Device, Process, Reading

_PROCESSES = "processes"
_FIGURES = tuple(field.name for field in fields(Device) if field.name != _PROCESSES)
_figures_of = attrgetter(*_FIGURES)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reading of all devices, and why NVIDIA's are not in it: `absent` if there is no driver or
    no library of it, `failed` if there is one that cannot be used. Both are "" if they are in it.
    """

    reading: Reading
    absent: str = ""
    failed: str = ""


def encode(answer: Answer) -> bytes:
    """`answer` as a line."""
    reading = answer.reading
    devices = [[*_figures_of(device), device.processes] for device in reading.devices]
    return json.dumps([devices, reading.faults, answer.absent, answer.failed]).encode() + b"\n"


def decode(line: bytes) -> Answer:
    """The answer in `line`. Raises ValueError if there is none."""
    try:
        devices, faults, absent, failed = json.loads(line)
        reading = Reading(tuple(map(_device, devices)), tuple(faults))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return Answer(reading, absent, failed)


def _device(told: list[Any]) -> Device:
    *figures, processes = told
    if processes is not None:
        processes = tuple(starmap(Process, processes))
    return Device(**dict(zip(_FIGURES, figures, strict=True)), processes=processes)
