"""What nvidia-smi says; None is what it does not."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from tests.tools import missing, require

MIB = 1 << 20
_GPU = (
    "index,uuid,name,driver_version,mig.mode.current,memory.total,memory.used,"
    "temperature.gpu,power.draw"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A line of --query-gpu; memory in MiB, temperature in degrees Celsius, power in watts."""

    index: str
    uuid: str
    name: str
    driver: str
    is_divided: bool
    memory_total: float | None
    memory_used: float | None
    temperature: float | None
    power: float | None


def gpus() -> list[Gpu]:
    """All GPUs. The test is skipped where there is none."""
    found = []
    for index, uuid, name, driver, mig, *figures in _rows(f"--query-gpu={_GPU}"):
        found.append(Gpu(index, uuid, name, driver, mig == "Enabled", *map(_number, figures)))
    if not found:
        missing("nvidia-smi shows no GPU")
    return found


def processes() -> Mapping[int, float | None]:
    """The MiB that each process computing on any GPU holds, by PID."""
    rows = _rows("--query-compute-apps=pid,used_memory")
    return {int(pid): _number(used) for pid, used in rows}


def _rows(query: str) -> list[list[str]]:
    done = subprocess.run(
        [require("nvidia-smi"), query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        missing(f"nvidia-smi does not work here: {(done.stdout or done.stderr).strip()}")
    return [line.split(", ") for line in done.stdout.splitlines()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
