"""Which GPUs a host has, asked of a process that may hang in the driver's stead.

A process that hangs in the driver cannot be killed. It is abandoned, and as it holds the lock that
it was started with, nobody on this host starts a second one before it has ended.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch.site import run_dir

PATIENCE = 20.0
"""Seconds for an answer: without a persistence daemon each GPU wakes up first."""

_PAUSE = 0.02
"""Seconds between two tries: flock has no deadline of its own."""

_LAST_LOOK = 0.2
"""Seconds for a killed process to go, where it can."""


class NoDriverError(InputOutputError):
    """There is no NVIDIA driver on this host."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU, or a MIG device with the number of its GPU. None is what the driver does not say."""

    index: int
    uuid: str
    name: str | None
    free_bytes: int | None
    total_bytes: int | None

    @property
    def is_mig(self) -> bool:
        """Whether it is a part of a GPU."""
        return self.uuid.startswith("MIG-")


def inventory(patience: float = PATIENCE) -> Sequence[GpuState]:
    """The GPUs by number; a GPU in MIG mode is left out, its MIG devices are there instead.

    Raises NoDriverError, or InputOutputError when the driver fails or does not answer within
    `patience` seconds.
    """
    answer = _ask(time.monotonic() + patience, patience)
    if "fault" not in answer:
        return [GpuState(**device) for device in answer["devices"]]
    if answer["absent"]:
        raise NoDriverError(f"there is no NVIDIA driver here ({answer['fault']})")
    raise InputOutputError(f"the NVIDIA driver failed: {answer['fault']}; see nvidia-smi")


def _ask(deadline: float, patience: float) -> Mapping[str, Any]:
    with _lock(deadline, patience) as lock:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker_sidecar.gpu.driver"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,
        )
    try:
        output, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _abandon(process)
        raise InputOutputError(
            f"the NVIDIA driver did not answer within {patience:g} s; see nvidia-smi and dmesg"
        ) from None
    try:
        answer: Mapping[str, Any] = json.loads(output)
    except ValueError:
        code = process.returncode
        raise InputOutputError(
            f"asking the NVIDIA driver ended with exit code {code} and no answer; see nvidia-smi"
        ) from None
    return answer


def _abandon(process: "subprocess.Popen[bytes]") -> None:
    """Kill `process`, and go on even if it does not die."""
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_LOOK)


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
                    f"an earlier question to the NVIDIA driver has no answer after {patience:g} s,"
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
