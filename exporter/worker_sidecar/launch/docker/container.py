"""What the daemon says of a container (GET /containers/{id}/json), in the sidecar's words."""

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from worker_sidecar.errors import InputError
from worker_sidecar.launch.docker.daemon import Json
from worker_sidecar.launch.docker.place import Place, possible
from worker_sidecar.launch.launcher import State
from worker_sidecar.launch.names import check_names

SERVICE = "worker.service"
INSTANCE = "worker.instance"
SLICE = "worker.slice"
DECLARATION = "worker.declaration"

_STATES = {
    "running": State.RUNNING,
    "paused": State.RUNNING,
    "restarting": State.RESTARTING,
    "removing": State.STOPPING,
}
_CLEAN_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
"""Ends that are no failure, as for systemd (SuccessExitStatus=)."""

_KILLED = 128 + signal.SIGKILL
_SIGNALS = range(129, 129 + 64)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that is a worker of ours. `result` and `exit_status` are of its last run, None
    while it runs; `since` is where the log of this run begins, "" for at its start, else seconds
    since the epoch. The rest as in Status.
    """

    id: str
    service: str
    instance: str
    place: Place
    state: State
    pid: int | None
    started: float | None
    restarts: int | None
    result: str | None
    exit_status: int | None
    since: str
    declaration: str | None

    @property
    def alive(self) -> bool:
        """Whether it runs, or comes up by itself."""
        return self.state not in (State.FAILED, State.ENDED)


def container_of(answer: Json, slice_name: str, mount: str) -> Container | None:
    """The worker below `slice_name` that the container is; None when it is none.

    Its labels name it, and it must lie where a worker of that name would: labels alone could be
    anybody's.
    """
    labels = _mapping(_mapping(answer.get("Config")).get("Labels"))
    service, instance = str(labels.get(SERVICE, "")), str(labels.get(INSTANCE, ""))
    try:
        check_names(service, instance)
    except InputError:
        return None
    parent = _mapping(answer.get("HostConfig")).get("CgroupParent")
    places = possible(slice_name, service, instance)
    place = next((place for place in places if place.parent == parent), None)
    if place is None or labels.get(SLICE) != slice_name:
        return None
    state = _mapping(answer.get("State"))
    result, exit_status = _end(state, f"{mount}/{place.cgroup}")
    declaration = labels.get(DECLARATION)
    return Container(
        id=str(answer.get("Id")),
        service=service,
        instance=instance,
        place=place,
        state=_state(state, result),
        pid=_number(state.get("Pid")) or None,
        started=_seconds(state.get("StartedAt")),
        restarts=_number(answer.get("RestartCount")),
        result=result,
        exit_status=exit_status,
        since=_since(state),
        declaration=None if declaration is None else str(declaration),
    )


def _state(state: Mapping[str, object], result: str | None) -> State:
    living = _STATES.get(str(state.get("Status")))
    if living is not None:
        return living
    return State.ENDED if result in (None, "success") else State.FAILED


def _end(state: Mapping[str, object], directory: str) -> tuple[str | None, int | None]:
    """How the last run ended, as systemd would say it: "success", "exit-code", ... and a number."""
    code = _number(state.get("ExitCode"))
    if state.get("Status") not in ("exited", "dead", "restarting") or code is None:
        return None, None
    # the daemon now and then misses the event, the kernel's counter does not
    if state.get("OOMKilled") or (code == _KILLED and _oom_kills(directory)):
        return "oom-kill", int(signal.SIGKILL)
    if code == 0:
        return "success", 0
    if code not in _SIGNALS:
        return "exit-code", code
    number = code - 128
    return ("success" if number in _CLEAN_SIGNALS else "signal"), number


def _oom_kills(directory: str) -> int:
    """Processes killed for want of memory in the cgroup and below it (memory.events)."""
    with (
        suppress(OSError, ValueError),
        open(f"{directory}/memory.events", encoding="utf-8") as file,
    ):
        return int(dict(line.split() for line in file)["oom_kill"])
    return 0


def _since(state: Mapping[str, object]) -> str:
    """The end of the run before this one: the daemon says when this one started too late, after
    its first lines. An ended run hides when the one before it ended.
    """
    finished, started = _seconds(state.get("FinishedAt")), _seconds(state.get("StartedAt"))
    if finished is None or started is None or finished >= started:
        return ""
    return f"{finished:.6f}"


def _seconds(text: object) -> float | None:
    """Seconds since the epoch of a time such as 2026-01-02T03:04:05.678901234Z; None for year 1,
    the daemon's word for never.
    """
    with suppress(ValueError):
        seconds = datetime.fromisoformat(str(text)).timestamp()
        return seconds if seconds > 0 else None
    return None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
