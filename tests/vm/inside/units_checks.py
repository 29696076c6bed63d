"""Checks of what is told of units: of those that live, and of those that systemd still holds."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from .scraped import OPENMETRICS, Scrape, ask
from .units_figures import NOTHING, Figures, Picture, said, seconds, told
from .units_scene import (
    ALIVE,
    DEAD,
    DEAF_SCOPE,
    DEAF_SERVICE,
    EXITED,
    GONE,
    KILLED,
    LOOPING,
    MISSING,
    OWN_LIMIT,
    RELOADING,
    SCOPE,
    SLICE_LIMIT,
    STARTED,
    STARTING,
    STOPPING,
    WAITING,
    Worker,
)

# What is told of a worker that has no cgroup: from its unit, and from its name.
OF_UNITS = {
    "worker_unit_state",
    "worker_unit_result",
    "worker_restarts_total",
    "worker_last_exit_status",
    "worker_last_run_cpu_seconds",
    "worker_last_run_duration_seconds",
}
OF_THE_DEAD = OF_UNITS | {"worker_up"}
START_SLACK_SECONDS = 0.01


def living_units_are_told(picture: Picture) -> None:
    """As systemctl shows them: state and restarts, and nothing of an end."""
    for worker in STARTED:
        figures = agreed(picture, worker)
        assert (figures.up, figures.result, figures.exit_status) == (1, None, None), worker.unit
    assert agreed(picture, SCOPE) == Figures(up=1, state="active")


def states_on_the_way(picture: Picture) -> None:
    """One that starts, one that reloads, which counts as active, and one that stops."""
    assert picture.properties[RELOADING]["ActiveState"] == "reloading"
    assert agreed(picture, STARTING).state == "activating"
    assert agreed(picture, RELOADING).state == "active"
    assert agreed(picture, STOPPING).state == "deactivating"


def start_time_is_systemds(picture: Picture) -> None:
    """Without an attribute that says so, a worker began when systemd says, to the millisecond."""
    for worker in STARTED:
        properties = picture.properties[worker]
        began = "ActiveEnterTimestamp" if worker.scope else "ExecMainStartTimestamp"
        value = picture.scrape.value("worker_start_time_seconds", worker.labels)
        late = value - seconds(properties[began])
        assert abs(late) <= START_SLACK_SECONDS, f"{worker.unit}: {value} is {late} s late"


def every_collector_did_its_part(picture: Picture) -> None:
    """No file was refused, and nobody failed."""
    errors = list(picture.scrape.matching("worker_exporter_read_errors_total", {}))
    assert all(value == 0 for _, value in errors), errors
    states = list(picture.scrape.matching("worker_exporter_collector_success", {}))
    assert states and all(value == 1 for _, value in states), states


def killed_by_own_memory_limit(picture: Picture) -> None:
    """The owner's question: for want of memory, and it was its own limit."""
    ended(picture, OWN_LIMIT, "oom-kill", status=137)
    _assert_events(picture, OWN_LIMIT, "oom_kill")


def killed_by_memory_limit_of_slice(picture: Picture) -> None:
    """The same, where the limit is that of the service."""
    ended(picture, SLICE_LIMIT, "oom-kill", status=137)
    _assert_events(picture, SLICE_LIMIT, "oom_kill", "oom", "max")


def exited_with_an_error(picture: Picture) -> None:
    """The program's own exit status."""
    ended(picture, EXITED, "exit-code", status=3)


def killed_by_a_signal(picture: Picture) -> None:
    """128 and the signal, as a shell has it."""
    ended(picture, KILLED, "signal", status=128 + 9)


def crash_loop_at_its_limit(picture: Picture) -> None:
    """It failed for good, after as many restarts as systemd counts."""
    figures = ended(picture, LOOPING, "exit-code", status=1)
    assert figures.restarts and figures.restarts >= 2, figures


def crash_loop_that_waits(picture: Picture) -> None:
    """Not failed, but down, and the result of its last run is told."""
    figures = agreed(picture, WAITING)
    assert figures.up == 0, figures
    assert (figures.state, figures.result) == ("activating", "exit-code"), figures
    assert figures.exit_status == 4, figures


def deaf_when_stopped(picture: Picture) -> None:
    """A stop that had to kill is a failure."""
    ended(picture, DEAF_SERVICE, "timeout", status=137)


def scope_deaf_when_stopped(picture: Picture) -> None:
    """systemd started no process of a scope, so it knows of no exit status and no restarts."""
    figures = ended(picture, DEAF_SCOPE, "timeout", status=None)
    assert (figures.restarts, figures.duration_seconds) == (None, None), figures


def program_that_is_not_there(picture: Picture) -> None:
    """A worker that never had a process of its own: systemd.exec(5), status 203."""
    ended(picture, MISSING, "exit-code", status=203)


def dead_have_no_other_figures(picture: Picture) -> None:
    """Nothing that only a cgroup tells, least of all zeros."""
    for worker in DEAD:
        found = families_with(picture.scrape, worker)
        assert found <= OF_THE_DEAD, f"{worker.unit}: {found - OF_THE_DEAD}"
        assert "worker_up" in found, worker.unit


def ended_as_asked_is_gone(picture: Picture) -> None:
    """No series of those that systemd holds no more; what they used stays with their service."""
    for worker in GONE:
        assert told(picture.scrape, worker) == NOTHING, worker.unit
        assert not families_with(picture.scrape, worker), worker.unit
        assert_cpu_of_slice(picture.scrape, worker)


def openmetrics_has_the_dead(_: Picture) -> None:
    """What Prometheus asks for first parses, and has the same workers, up and down."""
    text = ask("/metrics", OPENMETRICS)
    families = {f.name: f for f in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    found = {
        (s.labels["service"], s.labels["instance"]): s.value for s in families["worker_up"].samples
    }
    expected = {(w.service, w.instance): float(w in ALIVE) for w in (*ALIVE, *DEAD)}
    assert found == expected, found


def _assert_events(picture: Picture, worker: Worker, *events: str) -> None:
    """Each is told as often as the slice of the worker's service counts it, and it did happen."""
    counted = slice_file(worker, "memory.events")
    for event in events:
        labels = {"service": worker.service, "event": event}
        value = picture.scrape.value("worker_service_memory_events_total", labels)
        assert value == counted[event] >= 1, (event, value, counted)


def agreed(picture: Picture, worker: Worker) -> Figures:
    """What the exporter says of `worker`, which must be what systemd says."""
    found, expected = told(picture.scrape, worker), said(picture.properties[worker])
    assert found.is_near(expected), f"{worker.unit}:\n  told {found}\n  said {expected}"
    return found


def ended(picture: Picture, worker: Worker, result: str, status: int | None) -> Figures:
    """As `agreed`, of a unit that failed for good with this result and exit status."""
    figures = agreed(picture, worker)
    assert (figures.up, figures.state) == (0, "failed"), figures
    assert (figures.result, figures.exit_status) == (result, status), figures
    assert figures.cpu_seconds, figures
    return figures


def families_with(answer: Scrape, worker: Worker) -> set[str]:
    """The names of all samples that carry the labels of `worker`."""
    return {name for name in answer.samples if any(answer.matching(name, worker.labels))}


def slice_file(worker: Worker, file: str) -> dict[str, int]:
    """A file of lines `key value` of the slice of the worker's service."""
    lines = (worker.folder.parent / file).read_text().splitlines()
    return {key: int(value) for key, value in map(str.split, lines)}


def assert_cpu_of_slice(answer: Scrape, worker: Worker) -> None:
    """The worker's service has the CPU seconds that its slice counts, in each mode."""
    stat = slice_file(worker, "cpu.stat")
    for mode in ("user", "system"):
        labels = {"service": worker.service, "mode": mode}
        value = answer.value("worker_service_cpu_seconds_total", labels)
        assert value == stat[f"{mode}_usec"] / 1e6, (labels, value, stat)
