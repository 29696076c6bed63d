"""What is told of a worker's unit, by systemctl and by the exporter, in one form to compare."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from .scraped import Scrape, settled_scrape
from .units_scene import Worker
from .workers import as_user

STATES = {"active", "activating", "deactivating", "failed", "inactive"}
PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "MainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestamp",
    "ExecMainExitTimestamp",
    "ActiveEnterTimestamp",
    "CPUUsageNSec",
)
# waitid(2): si_code of a process that exited by itself; 2 and 3 are signals.
CLD_EXITED = 1
CPU_SLACK_SECONDS = 2e-6
# systemd takes its two clocks one after the other.
CLOCK_SLACK_SECONDS = 0.01

Properties = dict[str, str]


@dataclass(frozen=True)
class Figures:
    """What became of a worker; None for what is not told."""

    up: float | None = None
    state: str | None = None
    result: str | None = None
    restarts: float | None = None
    exit_status: float | None = None
    cpu_seconds: float | None = None
    duration_seconds: float | None = None

    def is_near(self, other: "Figures") -> bool:
        """Whether both say the same, but for what clocks and rounding make of it."""
        return (
            (self.up, self.state, self.result, self.restarts, self.exit_status)
            == (other.up, other.state, other.result, other.restarts, other.exit_status)
            and _near(self.cpu_seconds, other.cpu_seconds, CPU_SLACK_SECONDS)
            and _near(self.duration_seconds, other.duration_seconds, CLOCK_SLACK_SECONDS)
        )


NOTHING = Figures()


@dataclass(frozen=True)
class Picture:
    """One scrape, and what systemd said right before it."""

    properties: dict[Worker, Properties]
    scrape: Scrape


def look(workers: tuple[Worker, ...]) -> Picture:
    """What systemd and the exporter say of `workers`, which do not change."""
    return Picture(show(*workers), settled_scrape())


def told(answer: Scrape, worker: Worker) -> Figures:
    """What the exporter says of `worker`."""
    labels = worker.labels
    return Figures(
        up=answer.get("worker_up", labels),
        state=_state(answer, labels),
        result=_result(answer, labels),
        restarts=answer.get("worker_restarts_total", labels),
        exit_status=answer.get("worker_last_exit_status", labels),
        cpu_seconds=answer.get("worker_last_run_cpu_seconds", labels),
        duration_seconds=answer.get("worker_last_run_duration_seconds", labels),
    )


def said(properties: Properties) -> Figures:
    """What systemd says of a unit that is loaded, by its properties."""
    state = properties["ActiveState"].replace("reloading", "active")
    restarts = float(properties["NRestarts"]) if "NRestarts" in properties else None
    if state != "failed" and properties["SubState"] != "auto-restart":
        return Figures(up=1, state=state, restarts=restarts)
    return Figures(
        up=0,
        state=state,
        result=properties["Result"],
        restarts=restarts,
        exit_status=_exit_status(properties),
        cpu_seconds=int(properties["CPUUsageNSec"]) / 1e9,
        duration_seconds=_duration(properties),
    )


def show(*workers: Worker) -> dict[Worker, Properties]:
    """What `systemctl show` says of each; of one that is not loaded too."""
    return {
        worker: block
        for user in (False, True)
        for worker, block in _show([each for each in workers if each.user is user], user)
    }


def seconds(timestamp: str) -> float:
    """A timestamp of `show` in seconds since the epoch."""
    return datetime.strptime(f"{timestamp}+0000", "%a %Y-%m-%d %H:%M:%S.%f UTC%z").timestamp()


def _show(workers: list[Worker], user: bool) -> Iterable[tuple[Worker, Properties]]:
    if not workers:
        return ()
    command = ["systemctl", *(["--user"] if user else []), "show", "--timestamp=us+utc"]
    command += [f"--property={','.join(PROPERTIES)}", "--", *(worker.unit for worker in workers)]
    answer = subprocess.check_output(as_user(command) if user else command, text=True)
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines())
        for block in answer.strip().split("\n\n")
    ]
    by_unit = {block["Id"]: block for block in blocks}
    return ((worker, by_unit[worker.unit]) for worker in workers)


def _state(answer: Scrape, labels: dict[str, str]) -> str | None:
    values = {own["state"]: value for own, value in answer.matching("worker_unit_state", labels)}
    if not values:
        return None
    assert set(values) == STATES, f"{labels}: {values}"
    (state,) = (state for state, value in values.items() if value == 1)
    assert sum(values.values()) == 1, f"{labels}: {values}"
    return state


def _result(answer: Scrape, labels: dict[str, str]) -> str | None:
    results = list(answer.matching("worker_unit_result", labels))
    if not results:
        return None
    ((own, value),) = results
    assert value == 1, results
    return own["result"]


def _exit_status(properties: Properties) -> float | None:
    if "ExecMainCode" not in properties:
        return None
    status = int(properties["ExecMainStatus"])
    return status if int(properties["ExecMainCode"]) == CLD_EXITED else 128 + status


def _duration(properties: Properties) -> float | None:
    if "ExecMainExitTimestamp" not in properties:
        return None
    ended, began = properties["ExecMainExitTimestamp"], properties["ExecMainStartTimestamp"]
    return seconds(ended) - seconds(began)


def _near(one: float | None, other: float | None, slack: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= slack
