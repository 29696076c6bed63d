"""What the tests of real cgroups share: processes that do as they are told, and waiting."""

import os
import select
import subprocess
import sys
from pathlib import Path

from tests.support import end, join

PATIENCE = 30_000
"""Milliseconds after which an event that did not come is a failure; never a measure of speed."""

USE = """
import os, sys
def used(): return sum(os.times()[:2])
for line in sys.stdin:
    command, _, amount = line.partition(" ")
    if command == "burn":
        end = used() + float(amount)
        while used() < end: pass
    if command == "hold":
        held = bytearray(b"x") * int(amount)
    print(used(), flush=True)
"""


class Process:
    """A process that uses what it is told to, and says how much CPU time it has used."""

    def __init__(self, cgroup: Path) -> None:
        self.process = subprocess.Popen(
            (sys.executable, "-I", "-S", "-c", USE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self.process.pid
        self.tell("start")
        join(str(cgroup), self.pid)

    def tell(self, command: str) -> float:
        """Have `command` done; CPU seconds used since the start, by os.times."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        assert poll.poll(PATIENCE), "the process said nothing"
        return float(self.process.stdout.readline())

    def end(self) -> None:
        end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def wait_for(cgroup: Path, event: str) -> None:
    """Return when cgroup.events has the line `event`."""
    with open(cgroup / "cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while event not in os.pread(events.fileno(), 4096, 0).decode().splitlines():
            assert poll.poll(PATIENCE), f"{cgroup}: no {event}"
