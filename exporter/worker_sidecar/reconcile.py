"""From what workers.yaml declares and what runs to what has to be done, and doing it."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from worker_exporter import log
from worker_sidecar.control import Control
from worker_sidecar.errors import (
    AlreadyRunningError,
    InputOutputError,
    NotFoundError,
    SidecarError,
    StoppedError,
)
from worker_sidecar.launch.declaration import differences, encode
from worker_sidecar.launch.launcher import Status, WorkerSpec
from worker_sidecar.spec import Config, Declared

AT_ONCE = 4
"""Workers handled side by side: the grace of one must not add to that of all others."""

Name = tuple[str, str]
"""Service and instance."""


class Need(StrEnum):
    """What a worker needs to be as it is declared."""

    NOTHING = "nothing"
    START = "start"
    REPLACEMENT = "replacement"
    STAYS_STOPPED = "stays-stopped"
    IS_UNDECLARED = "is-undeclared"


class Absent(StrEnum):
    """Why a declared worker is not there, in the words of `ps` and the API."""

    STOPPED = "stopped"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Step:
    """One worker and what it needs. `why` are the reasons, a line each: for a replacement what
    differs, for NOTHING what is not right but would not become so by a replacement.
    """

    service: str
    instance: str
    need: Need
    why: tuple[str, ...] = ()
    spec: WorkerSpec | None = None

    @property
    def name(self) -> str:
        """How people call the worker: service/instance."""
        return f"{self.service}/{self.instance}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A step for each declared worker in the file's order, then one for each undeclared."""

    steps: tuple[Step, ...]


class Did(StrEnum):
    """What became of a step."""

    NOTHING = "left"
    STARTED = "started"
    REPLACED = "replaced"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What was done for a step in `seconds`; `error` for FAILED."""

    step: Step
    did: Did
    seconds: float = 0.0
    error: SidecarError | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result for each step, in the plan's order."""

    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """Those that failed."""
        return tuple(result for result in self.results if result.did is Did.FAILED)


def plan(config: Config, statuses: Iterable[Status], stopped: Iterable[Name]) -> Plan:
    """What each worker needs. Pure: nothing is asked and nothing done."""
    present = _by_name(statuses)
    on_purpose = frozenset(stopped)
    steps = [
        _step(declared, present.pop(name, None), name in on_purpose)
        for declared in config.workers
        for name in [(declared.spec.service, declared.spec.instance)]
    ]
    undeclared = [
        Step(status.service, status.instance, Need.IS_UNDECLARED, ("not declared",))
        for status in present.values()
    ]
    return Plan((*steps, *undeclared))


def absent(
    config: Config, statuses: Iterable[Status], stopped: Iterable[Name]
) -> Iterator[tuple[Name, Absent]]:
    """The declared workers of which nothing is there, and why."""
    present = {(status.service, status.instance) for status in statuses}
    on_purpose = frozenset(stopped)
    for declared in config.workers:
        name = (declared.spec.service, declared.spec.instance)
        if name not in present:
            yield name, Absent.STOPPED if name in on_purpose else Absent.MISSING


def carry_out(
    plan: Plan,
    control: Control,
    *,
    replace: bool = False,
    prune: bool = False,
    strict: bool = False,
    tell: Callable[[Result], None] = lambda result: None,
) -> Outcome:
    """Start what needs it; with `replace` replace what differs, with `prune` stop what is
    undeclared. `tell` hears of each result, in the plan's order. What fails for one worker keeps
    no other from being handled.
    """
    results = []
    pool = ThreadPoolExecutor(AT_ONCE, "apply")
    try:
        work = [pool.submit(_handled, step, control, replace, prune, strict) for step in plan.steps]
        for each in work:
            results.append(each.result())
            tell(results[-1])
    finally:
        # after Ctrl-C what has begun is finished, the rest is not begun
        pool.shutdown(cancel_futures=True)
    return Outcome(tuple(results))


def apply(
    config: Config,
    control: Control,
    replace: bool = False,
    prune: bool = False,
    strict: bool = False,
    tell: Callable[[Result], None] = lambda result: None,
) -> Outcome:
    """Make it so: plan() and carry_out(). From now on `config` is the one `control` goes by.

    Raises SidecarError only when what runs cannot be listed.
    """
    control.config = config
    control.check_writable("apply", control.slice_name or "")
    _forget_undeclared(config, control)
    steps = plan(config, control.list(), control.stopped.names())
    return carry_out(steps, control, replace=replace, prune=prune, strict=strict, tell=tell)


def _step(declared: Declared, status: Status | None, on_purpose: bool) -> Step:
    spec = declared.spec

    def step(need: Need, *why: str) -> Step:
        return Step(spec.service, spec.instance, need, why, spec)

    if on_purpose:
        lives = status is not None and status.alive
        said = "its stop has not ended" if lives else "stopped on purpose"
        return step(Need.STAYS_STOPPED, said)
    if status is None:
        return step(Need.START, "missing")
    if not status.alive:
        result = f": {status.result}" if status.result else ""
        return step(Need.START, f"{status.state}{result}")
    differing = (*differences(status.declaration, encode(spec)), *_lost(status))
    # A limit that the host does not take would not hold in a new worker, either.
    loose = tuple(f"limits.{name} does not hold" for name in status.unapplied)
    return step(Need.REPLACEMENT if differing else Need.NOTHING, *differing, *loose)


def _lost(status: Status) -> Iterator[str]:
    """What a container is without that Docker started by itself, as it does after a reboot."""
    if status.container is not None and "started" not in status.metadata:
        yield "no metadata, nor the limits of the service: Docker started it by itself"


def _by_name(statuses: Iterable[Status]) -> dict[Name, Status]:
    """The statuses by name; of two with one name the living one."""
    found: dict[Name, Status] = {}
    for status in statuses:
        name = (status.service, status.instance)
        if name not in found or not found[name].alive:
            found[name] = status
    return found


def _handled(step: Step, control: Control, replace: bool, prune: bool, strict: bool) -> Result:
    """Do what `step` needs; never raises."""
    begun = time.monotonic()
    error: SidecarError
    try:
        did = _do(step, control, replace, prune, strict)
        return Result(step, did, time.monotonic() - begun)
    except (AlreadyRunningError, StoppedError):
        return Result(step, Did.NOTHING)  # somebody else was faster
    except SidecarError as failure:
        error = failure
    except Exception as failure:
        log.error("a worker could not be handled", worker=step.name, **log.describe(failure))
        error = InputOutputError(f"{step.name}: {type(failure).__name__}: {failure}")
    return Result(step, Did.FAILED, time.monotonic() - begun, error)


def _do(step: Step, control: Control, replace: bool, prune: bool, strict: bool) -> Did:
    if step.need is Need.START and step.spec is not None:
        control.restore(step.spec, strict=strict)
        return Did.STARTED
    if step.need is Need.REPLACEMENT and step.spec is not None and replace:
        control.replace(step.spec, strict=strict)
        return Did.REPLACED
    if step.need is Need.IS_UNDECLARED and prune:
        return _pruned(step, control)
    return Did.NOTHING


def _pruned(step: Step, control: Control) -> Did:
    try:
        control.stop(step.service, step.instance)
    except NotFoundError:
        return Did.NOTHING
    return Did.STOPPED


def _forget_undeclared(config: Config, control: Control) -> None:
    """Whoever leaves the file and comes back some day starts as if he were new."""
    for service, instance in control.stopped.names():
        if config.find(service, instance) is None:
            control.stopped.clear(service, instance)
