"""The process that talks to the drivers, so that nobody else hangs with it.

`python -m worker_exporter.gpu.helper SYSFS`: a line on standard input is a question, a line on
standard output its answer (wire.py). It has no other descriptors but those that drivers open.
"""

import ctypes
import os
import signal
import sys
import time
from typing import BinaryIO

from worker_exporter.gpu import amdgpu, nvml
from worker_exporter.gpu.device import Device, Reading
from worker_exporter.gpu.wire import Answer, encode

_PR_SET_PDEATHSIG = 1

_RENEWAL = 60.0
"""Seconds after which NVML that never worked is tried by a fresh process: to become one takes far
longer than a reading.
"""


def main() -> None:
    """Answer until nobody asks any more, and end at once: NVML's own shutdown may hang as well."""
    parent = os.getppid()
    # A parent that died before this line has closed our standard input.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = _own_answers()
    nvidia = nvml.Nvidia()
    begun, has_worked = time.monotonic(), False
    for _ in sys.stdin.buffer:
        answer = _answer(nvidia, sys.argv[1])
        answers.write(encode(answer))
        if os.getppid() != parent:
            break
        if answer.failed and (has_worked or time.monotonic() > begun + _RENEWAL):
            _start_anew(answers)
        has_worked = has_worked or not (answer.failed or answer.absent)
    os._exit(0)


def _own_answers() -> BinaryIO:
    """Standard output, out of reach of a driver's library that prints something."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    return answers


def _start_anew(answers: BinaryIO) -> None:
    """Become a fresh process: a library stays the loaded one, be the driver upgraded meanwhile."""
    os.dup2(answers.fileno(), 1)
    os.execv(sys.executable, sys.orig_argv)


def _answer(nvidia: nvml.Nvidia, sysfs: str) -> Answer:
    """What the drivers say; one that fails in whatever way leaves the other's devices whole."""
    absent = failed = ""
    devices: list[Device] = []
    faults: list[str] = []
    try:
        found, wrong = nvidia.devices()
    except nvml.AbsentError as error:
        absent = str(error)
    except nvml.FailedError as error:
        failed = str(error)
    except Exception as error:
        failed = _describe(error)
    else:
        devices += found
        faults += wrong
    try:
        found, wrong = amdgpu.devices(sysfs)
    except Exception as error:
        faults.append(f"reading AMD's devices failed: {_describe(error)}")
    else:
        devices += found
        faults += wrong
    return Answer(Reading(tuple(devices), tuple(faults)), absent, failed)


def _describe(error: Exception) -> str:
    # Only now: what is imported here takes longer than a reading.
    from worker_exporter import log

    return " in ".join(log.describe(error).values())


if __name__ == "__main__":
    main()
