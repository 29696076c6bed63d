"""Builds the stand-in of nvml.c, and says what its host is like."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.tools import require

_SOURCE = Path(__file__).with_name("nvml.c")
_BUILT = Path(__file__).parents[2] / "build" / "nvml"

MIB = 1 << 20
GIB = 1 << 30


def library(variant: str = "") -> str:
    """The directory of the library libnvidia-ml.so.1, for LD_LIBRARY_PATH; built when it changed.

    `variant` is "" for today's driver, "OLD" and "LONG" for those that nvml.c describes. The test
    that calls is skipped without gcc.
    """
    compiler = require("gcc")
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    directory = _BUILT / f"{digest}{variant}"
    target = directory / "libnvidia-ml.so.1"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / f"{os.getpid()}.so"
        macros = [f"-D{variant}"] if variant else []
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", *macros, "-o", fresh, _SOURCE], check=True
        )
        fresh.rename(target)
    return str(directory)


@dataclass(frozen=True, slots=True)
class Standin:
    """A host with the stand-in. Its scenario and the log of its calls are in `directory`."""

    directory: Path
    variant: str = ""

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to find the stand-in as its driver."""
        return {
            "LD_LIBRARY_PATH": library(self.variant),
            "NVML_SCENARIO": str(self.directory / "scenario"),
            "NVML_CALLS": str(self.directory / "calls"),
        }

    def is_now(self, *lines: str) -> None:
        """Have the host be like this from its next call on; the words are those of nvml.c."""
        fresh = self.directory / "scenario.new"
        fresh.write_text("\n".join(lines) + "\n")
        fresh.rename(self.directory / "scenario")

    def unload(self) -> None:
        """Have no driver from the next initialisation on."""
        (self.directory / "scenario").unlink(missing_ok=True)

    @property
    def calls(self) -> list[tuple[int, str]]:
        """All calls since the start: the process' PID, and the function."""
        try:
            lines = (self.directory / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(pid), function) for pid, function in map(str.split, lines)]

    @property
    def pids(self) -> list[int]:
        """The processes that called, in the order of their first calls."""
        return list(dict.fromkeys(pid for pid, _ in self.calls))


def gpu(
    index: int,
    *more: str,
    total: int = 80 * GIB,
    used: int = 10 * GIB,
    compute: Mapping[int, int] | None = None,
) -> str:
    """The lines of a GPU that tells all, with the UUID GPU-0000000N."""
    return _joined(
        "gpu",
        f"uuid GPU-{index:08x}",
        "name NVIDIA H100 80GB HBM3",
        f"memory {total} {512 * MIB} {used}",
        "utilization 64",
        "temperature 66",
        "power 123456",
        "energy 789000",
        "samples",
        *(f"compute {pid} {size}" for pid, size in (compute or {}).items()),
        *more,
    )


def divided_gpu(index: int, *parts: str) -> str:
    """The lines of a GPU in MIG mode with `parts`."""
    return _joined(
        "gpu",
        f"uuid GPU-{index:08x}",
        "name NVIDIA H100 80GB HBM3",
        f"memory {80 * GIB} {512 * MIB} {10 * GIB}",
        "temperature 66",
        "power 123456",
        "energy 789000",
        "mig",
        *parts,
    )


def part(
    instance: int, compute_instance: int = 0, *more: str, total: int = 10 * GIB, used: int = GIB
) -> str:
    """The lines of a MIG device with the UUID MIG-I-C."""
    return _joined(
        f"mig {instance} {compute_instance}",
        f"uuid MIG-{instance}-{compute_instance}",
        "name NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        f"memory {total} {MIB} {used}",
        *more,
    )


def _joined(*lines: str) -> str:
    return "\n".join(lines)
