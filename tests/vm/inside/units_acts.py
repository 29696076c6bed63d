"""Checks that do something to workers or to the bus, and look at what is told then."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from .scraped import UNIT, Scrape, await_exporter, scrape
from .units_checks import OF_UNITS, START_SLACK_SECONDS, agreed, families_with
from .units_figures import NOTHING, Figures, look, seconds, show, told
from .units_scene import (
    ALIVE,
    DEAD,
    DEAF_SCOPE,
    HERS,
    KILLED,
    PHOENIX,
    PLAIN,
    WAITING,
    Worker,
    await_processes,
    open_gate,
    start,
    start_exporter_of_user,
    systemctl,
)
from .workers import UID, start_user_manager, wait_for

BUS = "dbus.service"
RELOADS = 2
# All but the one that reset_scope_is_gone takes.
STILL_DEAD = tuple(worker for worker in DEAD if worker is not DEAF_SCOPE)
START = "worker_start_time_seconds"


def restarted_worker_lives() -> None:
    """A restart by systemd is counted, moves the start, and leaves nothing of the end."""
    before = look((PHOENIX,))
    os.kill(int(before.properties[PHOENIX]["MainPID"]), signal.SIGKILL)
    wait_for(lambda: _restarts(PHOENIX) == 1 and _is_active(PHOENIX), "the restart")
    after = look((PHOENIX,))
    assert agreed(after, PHOENIX) == Figures(up=1, state="active", restarts=1)
    began = after.scrape.value(START, PHOENIX.labels)
    assert began > before.scrape.value(START, PHOENIX.labels)
    late = began - seconds(after.properties[PHOENIX]["ExecMainStartTimestamp"])
    assert abs(late) <= START_SLACK_SECONDS, late


def worker_started_again_lives() -> None:
    """One that failed and is started by hand has no result any more; then it fails again."""
    systemctl("start", KILLED.unit)
    assert agreed(look((KILLED,)), KILLED) == Figures(up=1, state="active", restarts=0)
    systemctl("kill", "--signal=SEGV", KILLED.unit)
    wait_for(lambda: show(KILLED)[KILLED]["ActiveState"] == "failed", "its second end")
    figures = agreed(look((KILLED,)), KILLED)
    assert (figures.result, figures.exit_status) in (("signal", 139), ("core-dump", 139)), figures


def new_exporter_knows_the_dead() -> None:
    """Nothing is kept in the exporter: started anew, it tells the same of those it never saw."""
    before = look(DEAD)
    systemctl("restart", UNIT)
    await_exporter()
    after = look(DEAD)
    for worker in DEAD:
        assert agreed(after, worker) == told(before.scrape, worker)


def reset_scope_is_gone() -> None:
    """Of one dead, while the others stay; a reload would make its result a success."""
    assert families_with(scrape(), DEAF_SCOPE)
    systemctl("reset-failed", DEAF_SCOPE.unit)
    after = look(())
    assert not families_with(after.scrape, DEAF_SCOPE)
    assert families_with(after.scrape, KILLED)


def reloads_spoil_nothing() -> None:
    """While systemd reloads, what it cannot tell is left out; then all is as it was."""
    workers = (*ALIVE, *STILL_DEAD)
    before = look(workers).scrape
    for _ in range(RELOADS):
        answers = _scrapes_during(["systemctl", "daemon-reload"])
        after = look(workers)
        for worker in workers:
            for answer in answers:
                _assert_same_or_absent(before, answer, worker)
            assert agreed(after, worker) == told(before, worker)


def others_manager_is_out_of_reach() -> None:
    """The exporter of another user tells of alice's worker all but its unit; that is no failure.

    A unit of the same name in the system's manager, which goes on to run, is not taken for it.
    """
    start_user_manager()
    namesake = ["systemd-run", "--quiet", f"--unit={HERS.unit}", "sleep", "infinity"]
    subprocess.run(namesake, check=True)
    start(HERS).wait()
    await_processes((HERS,))
    labels = {"service": f"{HERS.service}@{UID}", "instance": HERS.instance}
    answer = look(()).scrape
    assert answer.value("worker_up", labels) == 1
    assert answer.total("worker_cpu_seconds_total", labels)
    began = seconds(show(HERS)[HERS]["ExecMainStartTimestamp"])
    assert abs(answer.value(START, labels) - began) <= 2, "its oldest process"
    assert not [name for name in OF_UNITS if answer.total(name, labels) is not None]
    open_gate(HERS)
    wait_for(lambda: not HERS.folder.exists(), "the end of her worker")
    answer = look(()).scrape
    left = [name for name in answer.samples if any(answer.matching(name, labels))]
    assert not left, left


def hung_bus_costs_the_units_only() -> None:
    """A bus that hangs takes the families of units along, and comes back by itself."""
    workers = (*ALIVE, *STILL_DEAD)
    before = look(workers).scrape
    with _halted(int(systemctl("show", "--property=MainPID", "--value", BUS))):
        _assert_without_units(before, scrape())
        _assert_without_units(before, scrape())
    after = look(workers)
    for worker in workers:
        assert agreed(after, worker) == told(before, worker)


def reset_failed_ends_the_dead() -> None:
    """What systemd forgets is told no more; one that waits for its restart must be stopped."""
    # Without a name it also sets the restarts of living units to 0, and nothing tells of that.
    systemctl("reset-failed", *(worker.unit for worker in STILL_DEAD))
    after = look(())
    for worker in DEAD:
        assert bool(families_with(after.scrape, worker)) is (worker is WAITING), worker.unit
    systemctl("stop", WAITING.unit)
    after = look(())
    assert not families_with(after.scrape, WAITING)
    assert told(after.scrape, PLAIN) == Figures(up=1, state="active", restarts=0)


def killed_bus_is_found_again() -> None:
    """A bus that is gone is missed in one scrape, and found when it is there again."""
    before = look(ALIVE).scrape
    systemctl("stop", "dbus.socket")
    systemctl("kill", "--signal=KILL", BUS)
    wait_for(lambda: not scrape().units_answered, "a scrape without a bus")
    _assert_without_units(before, scrape())
    systemctl("reset-failed", BUS)
    systemctl("start", "dbus.socket", BUS)
    after = look(ALIVE)
    for worker in ALIVE:
        assert agreed(after, worker) == told(before, worker)


def own_manager_is_told_of() -> None:
    """alice's own exporter tells of her workers what her manager says, and of the system's."""
    start_exporter_of_user()
    picture = look((HERS, PLAIN))
    figures = agreed(picture, HERS)
    assert (figures.up, figures.state, figures.result) == (0, "failed", "exit-code"), figures
    assert figures.exit_status == 5, figures
    assert agreed(picture, PLAIN).state == "active"


def _assert_without_units(before: Scrape, answer: Scrape) -> None:
    """`answer` has all of `before` but what only systemd knows, and says that it is missing."""
    assert not answer.units_answered
    assert set(answer.samples) == set(before.samples) - OF_UNITS
    for worker in ALIVE:
        assert told(answer, worker) == Figures(up=1), worker.unit
        assert answer.value(START, worker.labels) == before.value(START, worker.labels)
    for worker in DEAD:
        assert told(answer, worker) == NOTHING, worker.unit


def _assert_same_or_absent(before: Scrape, answer: Scrape, worker: Worker) -> None:
    expected, found = asdict(told(before, worker)), asdict(told(answer, worker))
    wrong = {name: value for name, value in found.items() if value not in (None, expected[name])}
    assert not wrong, f"{worker.unit}: {wrong}, not {expected}"
    if worker not in ALIVE:
        return
    assert found["up"] == 1, worker.unit
    assert answer.value(START, worker.labels) == before.value(START, worker.labels), worker.unit


def _scrapes_during(command: list[str]) -> list[Scrape]:
    answers = []
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            answers.append(scrape())
    finally:
        process.kill()
        code = process.wait()
    assert (code, bool(answers)) == (0, True), (command, code)
    return answers


def _restarts(worker: Worker) -> int:
    return int(show(worker)[worker]["NRestarts"])


def _is_active(worker: Worker) -> bool:
    return show(worker)[worker]["ActiveState"] == "active"


@contextmanager
def _halted(pid: int) -> Iterator[None]:
    """The process does nothing until the context ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
