"""What systemd and the kernel say of the workers themselves, beside the exporter."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .workers import Worker, as_user

PROPERTIES = (
    "Id",
    "ActiveState",
    "ActiveEnterTimestamp",
    "CPUUsageNSec",
    "MemoryCurrent",
    "IOReadBytes",
    "IOWriteBytes",
    "IOReadOperations",
    "IOWriteOperations",
    "TasksCurrent",
    "TasksMax",
    "MemoryMax",
    "MemoryHigh",
    "MemorySwapMax",
    "CPUQuotaPerSecUSec",
    "ExecMainStartTimestamp",
    "MainPID",
    "NRestarts",
)
FILES = (
    "cpu.stat",
    "cpu.pressure",
    "io.pressure",
    "io.stat",
    "memory.current",
    "memory.events",
    "memory.peak",
    "memory.pressure",
    "memory.stat",
    "memory.swap.current",
    "pids.events",
)
UNKNOWN = ("[not set]", "[no data]", "18446744073709551615", "infinity", "")

Properties = dict[str, str]
Source = Callable[["Reading"], float | None]


@dataclass(frozen=True)
class Reading:
    """What one worker's unit and cgroup said at one time.

    `properties` are those of `systemctl show` that have a value, `files` the lines of the cgroup's
    files that are there.
    """

    properties: Properties
    files: dict[str, list[str]]

    def whole(self, name: str) -> int | None:
        """The property `name` as a number; None where systemd knows none or it is infinite."""
        text = self.properties.get(name)
        return int(text) if text is not None else None


def shown(name: str, unit: float = 1.0) -> Source:
    """The property `name` of systemctl show, divided by `unit`."""

    def source(reading: Reading) -> float | None:
        value = reading.whole(name)
        return None if value is None else value / unit

    return source


def single(file: str) -> Source:
    """The number that `file` holds."""

    def source(reading: Reading) -> float | None:
        return float(reading.files[file][0]) if file in reading.files else None

    return source


def keyed(file: str, *keys: str, less: str = "", unit: float = 1.0) -> Source:
    """The sum of `keys` in a file of lines `key value`, less that of `less`, divided by `unit`."""

    def source(reading: Reading) -> float | None:
        found = {key: int(value) for key, value in map(str.split, reading.files.get(file, []))}
        if not found.keys() >= set(keys):
            return None
        return (sum(found[key] for key in keys) - found.get(less, 0)) / unit

    return source


def stalls(resource: str, kind: str) -> Source:
    """The total seconds of `kind` (some or full) in <resource>.pressure."""

    def source(reading: Reading) -> float | None:
        for line in reading.files.get(f"{resource}.pressure", []):
            first, *_, total = line.split()
            if first == kind:
                return int(total.removeprefix("total=")) / 1e6
        return None

    return source


def read(workers: tuple[Worker, ...]) -> dict[Worker, Reading]:
    """A reading of each worker: first its properties, then its files."""
    system = show(*(worker.shown for worker in workers if not worker.user))
    user = show_of_user(*(worker.shown for worker in workers if worker.user))
    return {
        worker: Reading((user if worker.user else system)[worker.shown], _files(worker.folder))
        for worker in workers
    }


def show(*units: str) -> dict[str, Properties]:
    """The properties that have a value, by unit, of the system's manager."""
    return _show(["systemctl"], units)


def show_of_user(*units: str) -> dict[str, Properties]:
    """The properties that have a value, by unit, of alice's manager."""
    return _show(as_user(["systemctl", "--user"]), units) if units else {}


def _show(systemctl: list[str], units: tuple[str, ...]) -> dict[str, Properties]:
    options = ["show", "--timestamp=unix", f"--property={','.join(PROPERTIES)}", "--", *units]
    answer = subprocess.run([*systemctl, *options], check=True, stdout=subprocess.PIPE, text=True)
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines())
        for block in answer.stdout.strip().split("\n\n")
    ]
    return {
        block["Id"]: {name: value for name, value in block.items() if value not in UNKNOWN}
        for block in blocks
    }


def _files(folder: Path) -> dict[str, list[str]]:
    return {
        name: (folder / name).read_text().splitlines() for name in FILES if (folder / name).exists()
    }
