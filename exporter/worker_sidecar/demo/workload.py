"""What the demo's workers do: `python -I -S workload.py KIND`, until a signal ends it.

Imports nothing of this project, so that it starts fast and a worker needs no code of ours.
All kinds together stay well below one core.
"""

import math
import os
import sys
import tempfile
import time

MIB = 1024 * 1024
STEP = 0.2
"""Seconds of one step: busy for its duty's part of it, then asleep."""


def serve(period: float) -> None:
    """A server with requests that come and go: CPU from 2 % to 40 % and back every `period`
    seconds, and a helper process that waits.
    """
    if os.fork() == 0:
        idle()
    while True:
        wave = (1 - math.cos(2 * math.pi * time.monotonic() / period)) / 2
        _step(0.02 + 0.38 * wave)


def train() -> None:
    """A trainer: a steady 20 % of a core, and 16 to 128 MiB of memory, up and down again."""
    batches: list[bytearray] = []
    grow = True
    while True:
        grow = len(batches) < 8 and (grow or len(batches) <= 1)
        if grow:
            batches.append(bytearray(b"\1") * (16 * MIB))
        else:
            batches.pop()
        for _ in range(5):
            _step(0.2)


def ingest() -> None:
    """A reader and writer of disks: 4 MiB a second written through and read back, in a file
    that has no name, so nothing stays behind.
    """
    block = os.urandom(MIB)
    place = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None  # /tmp is often in memory
    with tempfile.TemporaryFile(dir=place) as file:
        descriptor = file.fileno()
        while True:
            os.lseek(descriptor, 0, os.SEEK_SET)
            for _ in range(4):
                os.write(descriptor, block)
            os.fdatasync(descriptor)
            # out of the page cache, so that the reads reach the disk
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(4):
                os.pread(descriptor, MIB, offset * MIB)
            time.sleep(1)


def idle() -> None:
    """A worker nobody asks anything."""
    while True:
        time.sleep(3600)


def _step(duty: float) -> None:
    start = time.monotonic()
    while time.monotonic() - start < duty * STEP:
        pass
    time.sleep(max(0.0, start + STEP - time.monotonic()))


KINDS = {
    "serve": lambda: serve(12.0),
    "serve-slowly": lambda: serve(30.0),
    "train": train,
    "ingest": ingest,
    "idle": idle,
}


if __name__ == "__main__":
    KINDS[sys.argv[1]]()
