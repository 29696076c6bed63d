"""Checks of services: what their slices count and limit, which outlives their workers."""

import json
import subprocess
from functools import partial

from .scraped import Scrape, scrape
from .units_checks import assert_cpu_of_slice, slice_file
from .units_scene import (
    BRIEF_SLICE,
    BRIEF_TOLD,
    MIB,
    PLAIN,
    SLICE_LIMIT,
    THROTTLED,
    WRITER,
    Worker,
    await_processes,
    start,
    systemctl,
)
from .workers import wait_for

BRIEF_WORKERS = 50
BRIEF_SECONDS = 0.2
BRIEF_AT_ONCE = 5
TOLERANCE = 0.02
UNTOLD = 0.1
BRIEF = {"service": "brief"}
# sd_messages(7), SD_MESSAGE_UNIT_RESOURCES: what a unit used, logged when it ended.
RESOURCES = "ae8f7b866b0347b9af31fe1c80b127c0"
BLOCK = 64 << 10


def memory_of_slices_shows() -> None:
    """memory.current of the slice, read before and after."""
    ends = [_memory(PLAIN)]
    value = _of(scrape(), "worker_service_memory_current_bytes", PLAIN)
    ends.append(_memory(PLAIN))
    assert value is not None and 0 < min(ends) <= value <= max(ends), (value, ends)


def throttling_outlives_the_worker() -> None:
    """A quota on the slice counts there alone, and goes on to be told without a worker."""
    start(THROTTLED).wait()
    await_processes((THROTTLED,))
    wait_for(lambda: _cpu_stat()["nr_throttled"] > 2, "periods out of quota")
    systemctl("stop", THROTTLED.unit)
    stat, answer = _settled_scrape()
    prefix = "worker_service_cpu"
    assert _of(answer, f"{prefix}_periods_total", THROTTLED) == stat["nr_periods"]
    throttled = _of(answer, f"{prefix}_throttled_periods_total", THROTTLED)
    assert throttled == stat["nr_throttled"] > 2
    seconds = _of(answer, f"{prefix}_throttled_seconds_total", THROTTLED)
    assert seconds == stat["throttled_usec"] / 1e6 > 0
    assert_cpu_of_slice(answer, THROTTLED)


def limits_of_slices_show() -> None:
    """What is set on a service's slice, and nothing where nothing is."""
    answer = scrape()
    memory, cores = "worker_service_memory_limit_bytes", "worker_service_cpu_limit_cores"
    assert _of(answer, memory, SLICE_LIMIT) == 48 * MIB
    assert _of(answer, cores, SLICE_LIMIT) is None
    said = systemctl("show", "--property=CPUQuotaPerSecUSec", "--value", THROTTLED.slice)
    assert said == "200ms", said
    assert _of(answer, cores, THROTTLED) == 0.2
    assert _of(answer, memory, THROTTLED) is None


def io_outlives_the_worker() -> None:
    """What was written to and read from the disk, past the page cache, by its device."""
    start(WRITER).wait()
    wait_for(lambda: _is_gone(WRITER), f"the end of {WRITER.unit}")
    answer = scrape()
    for kind, name, blocks in (("Write", "written", 48), ("Read", "read", 16)):
        said = int(systemctl("show", f"--property=IO{kind}Bytes", "--value", WRITER.slice))
        ((labels, value),) = answer.matching(
            f"worker_service_io_{name}_bytes_total", {"service": WRITER.service}
        )
        assert labels == {"service": WRITER.service, "device": "vda"}, labels
        assert value == said >= blocks * BLOCK, (name, value, said)


def brief_workers_are_counted() -> None:
    """50 that live for 200 ms between two scrapes: the service has what all of them used."""
    systemctl("start", BRIEF_SLICE)
    before = scrape()
    systemctl("log-level", "debug")
    try:
        for first in range(0, BRIEF_WORKERS, BRIEF_AT_ONCE):
            some = range(first, first + BRIEF_AT_ONCE)
            systemctl("start", *(f"worker-brief@{number}.service" for number in some))
            wait_for(partial(_brief_are_gone, some.stop), "the end of the brief workers")
            # Where the journal cannot follow, systemd logs to the kernel, without the figures.
            subprocess.run(["journalctl", "--sync"], check=True)
    finally:
        systemctl("log-level", "info")
    after = scrape()
    name = "worker_service_cpu_seconds_total"
    assert not [each for _, each in after.matching("worker_up", BRIEF)], "one of them still lives"
    counted = _total(after, name, BRIEF) - _total(before, name, BRIEF)
    said, told = _brief_journal(), [float(file.read_text()) for file in BRIEF_TOLD.iterdir()]
    assert len(said) == len(told) == BRIEF_WORKERS, (len(said), len(told))
    assert min(told) >= BRIEF_SECONDS
    assert abs(counted - sum(said)) <= TOLERANCE * sum(said), (counted, sum(said))
    # A program cannot tell of its own exec and exit, which take the longer the less CPU there is.
    assert -TOLERANCE <= counted / sum(told) - 1 <= UNTOLD, (counted, sum(told))


def _of(answer: Scrape, name: str, worker: Worker) -> float | None:
    """The family's total of the worker's service."""
    return answer.total(name, {"service": worker.service})


def _total(answer: Scrape, name: str, labels: dict[str, str]) -> float:
    found = answer.total(name, labels)
    assert found is not None, f"no sample of {name} with {labels}"
    return found


def _memory(worker: Worker) -> int:
    return int((worker.folder.parent / "memory.current").read_text())


def _cpu_stat() -> dict[str, int]:
    return slice_file(THROTTLED, "cpu.stat")


def _settled_scrape() -> tuple[dict[str, int], Scrape]:
    """A scrape, and what the slice counted before and after: its last period ends on its own."""
    found: list[tuple[dict[str, int], Scrape]] = []

    def settled() -> bool:
        found.append((_cpu_stat(), scrape()))
        return found[-1][0] == _cpu_stat()

    wait_for(settled, "the end of the last period")
    return found[-1]


def _is_gone(worker: Worker) -> bool:
    return systemctl("show", "--property=LoadState", "--value", worker.unit) == "not-found"


def _brief_are_gone(count: int) -> bool:
    """Whether so many have run, and systemd has done with them, and so has logged their ends."""
    if len(list(BRIEF_TOLD.iterdir())) < count:
        return False
    return not systemctl("list-units", "--plain", "--no-legend", "worker-brief@*.service")


def _brief_journal() -> list[float]:
    """The CPU seconds that the journal has of each brief worker."""
    command = ["journalctl", "--output=json", "--output-fields=UNIT,CPU_USAGE_NSEC"]
    output = subprocess.check_output([*command, f"MESSAGE_ID={RESOURCES}"], text=True)
    rows = [json.loads(line) for line in output.splitlines()]
    return [
        int(row["CPU_USAGE_NSEC"]) / 1e9 for row in rows if row["UNIT"].startswith("worker-brief@")
    ]
