"""What apply plans and does."""

import dataclasses
import threading
from pathlib import Path

import pytest
from tests.unit.fake_launcher import FakeLauncher, running

from worker_sidecar.control import Control
from worker_sidecar.errors import (
    CreationFailedError,
    InputOutputError,
    PermissionDeniedError,
)
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import State, Status, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.ownership import Ownership
from worker_sidecar.reconcile import Absent, Did, Need, Result, absent, apply, carry_out, plan
from worker_sidecar.spec import Config, Declared
from worker_sidecar.stopped import Stopped

A = WorkerSpec("llm", "a", ("serve",))
B = WorkerSpec("llm", "b", ("serve",), limits=Limits(memory=2**30))
C = WorkerSpec("trainer", "main", ("train",))


def config(*specs: WorkerSpec) -> Config:
    return Config("file", "worker.slice", Ownership(("worker.slice",)), tuple(map(Declared, specs)))


def right(spec: WorkerSpec, state: State = State.RUNNING) -> Status:
    return running(spec.service, spec.instance, state=state, declaration=encode(spec))


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def control(launcher: FakeLauncher, tmp_path: Path) -> Control:
    return Control(launcher, Stopped(str(tmp_path)))


def needs(*statuses: Status, stopped: tuple[tuple[str, str], ...] = ()) -> dict[str, Need]:
    return {step.name: step.need for step in plan(config(A, B), statuses, stopped).steps}


def test_what_runs_as_declared_needs_nothing() -> None:
    for state in (State.RUNNING, State.STARTING, State.RESTARTING, State.STOPPING):
        assert needs(right(A, state), right(B)) == {"llm/a": Need.NOTHING, "llm/b": Need.NOTHING}


def test_what_is_missing_failed_or_ended_is_started() -> None:
    failed = dataclasses.replace(right(B, State.FAILED), result="oom-kill")
    assert needs(failed) == {"llm/a": Need.START, "llm/b": Need.START}
    steps = plan(config(A, B), [failed], ()).steps
    assert [step.why for step in steps] == [("missing",), ("failed: oom-kill",)]
    assert needs(right(A, State.ENDED))["llm/a"] is Need.START


def test_what_differs_is_said_line_by_line() -> None:
    old = dataclasses.replace(B, argv=("serve", "-v"), limits=Limits(memory=2**20))
    status = running("llm", "b", declaration=encode(old), unapplied=("memory", "swap"))
    [_, step] = plan(config(A, B), [right(A), status], ()).steps
    assert step.need is Need.REPLACEMENT
    assert step.why == (
        'argv: ["serve", "-v"] -> ["serve"]',
        "limits.memory: 1048576 -> 1073741824",
        "limits.memory does not hold",
        "limits.swap does not hold",
    )


def test_a_container_that_docker_started_by_itself_differs() -> None:
    """After a reboot its slice is a new one, that nobody limited or marked."""
    image = dataclasses.replace(A, image="serve:1")
    container = dataclasses.replace(right(image), container="5e1f" * 16)
    ours = dataclasses.replace(container, metadata={"started": "1767225600.000"})
    [step] = plan(config(image), [ours], ()).steps
    assert step.need is Need.NOTHING
    [step] = plan(config(image), [container], ()).steps
    assert step.need is Need.REPLACEMENT
    [why] = step.why
    assert why.endswith("Docker started it by itself")


def test_a_limit_the_host_does_not_take_is_said_but_is_no_reason_to_replace() -> None:
    status = running("llm", "b", declaration=encode(B), unapplied=("memory",))
    [_, step] = plan(config(A, B), [right(A), status], ()).steps
    assert (step.need, step.why) == (Need.NOTHING, ("limits.memory does not hold",))


def test_what_was_stopped_on_purpose_stays_so() -> None:
    stopped = (("llm", "a"), ("llm", "b"))
    found = needs(right(B), stopped=stopped)
    assert found == {"llm/a": Need.STAYS_STOPPED, "llm/b": Need.STAYS_STOPPED}
    why = [step.why[0] for step in plan(config(A, B), [right(B)], stopped).steps]
    assert why == ["stopped on purpose", "its stop has not ended"]


def test_the_undeclared_come_last_and_the_living_counts() -> None:
    ended = running("llm", "a", launcher="docker", state=State.ENDED)
    other = running("x", "1")
    assert list(needs(other, ended, right(A), right(B)).items()) == [
        ("llm/a", Need.NOTHING),
        ("llm/b", Need.NOTHING),
        ("x/1", Need.IS_UNDECLARED),
    ]
    assert needs(right(A), ended, right(B))["llm/a"] is Need.NOTHING


def test_absent_workers_and_why() -> None:
    found = absent(config(A, B, C), [right(A, State.FAILED)], [("llm", "b"), ("x", "1")])
    assert dict(found) == {("llm", "b"): Absent.STOPPED, ("trainer", "main"): Absent.MISSING}


def did(results: tuple[Result, ...]) -> dict[str, Did]:
    return {result.step.name: result.did for result in results}


def test_twice_in_a_row_does_nothing(control: Control, launcher: FakeLauncher) -> None:
    assert did(apply(config(A, B), control).results) == {
        "llm/a": Did.STARTED,
        "llm/b": Did.STARTED,
    }
    launcher.calls.clear()
    again = apply(config(A, B), control, replace=True, prune=True)
    assert set(did(again.results).values()) == {Did.NOTHING}
    assert launcher.changes() == []


def test_what_differs_is_left_unless_told(control: Control, launcher: FakeLauncher) -> None:
    apply(config(A, B), control)
    launcher.calls.clear()
    newer = dataclasses.replace(A, argv=("serve", "2"))
    assert did(apply(config(newer, B), control).results)["llm/a"] is Did.NOTHING
    assert launcher.changes() == []
    assert did(apply(config(newer, B), control, replace=True).results)["llm/a"] is Did.REPLACED
    assert launcher.changes() == ["stop(5) llm/a", "start llm/a"]
    assert control.stopped.names() == frozenset()
    assert did(apply(config(newer, B), control, replace=True).results)["llm/a"] is Did.NOTHING


def test_a_replacement_that_was_killed_in_the_middle_is_finished(
    control: Control, launcher: FakeLauncher
) -> None:
    apply(config(A), control)
    newer = dataclasses.replace(A, argv=("serve", "2"))

    def killed(spec: WorkerSpec) -> None:
        raise KeyboardInterrupt

    launcher.before_start = killed
    with pytest.raises(KeyboardInterrupt):
        apply(config(newer), control, replace=True)
    assert launcher.list() == []
    launcher.before_start = lambda spec: None
    assert did(apply(config(newer), control).results) == {"llm/a": Did.STARTED}
    assert launcher.specs["llm/a"].argv == ("serve", "2")


def test_the_undeclared_are_left_unless_told(control: Control, launcher: FakeLauncher) -> None:
    apply(config(A, B), control)
    launcher.calls.clear()
    assert did(apply(config(A), control).results)["llm/b"] is Did.NOTHING
    assert launcher.changes() == []
    assert did(apply(config(A), control, prune=True).results)["llm/b"] is Did.STOPPED
    assert launcher.changes() == ["stop(5) llm/b"]
    assert control.stopped.names() == frozenset()


def test_stopped_on_purpose_stays_stopped_until_started(
    control: Control, launcher: FakeLauncher
) -> None:
    apply(config(A, B), control)
    control.stop("llm", "a")
    apply(config(A, B), control, replace=True, prune=True)
    assert [each.name for each in launcher.list()] == ["llm/b"]
    control.start(A)
    control.kill("llm", "b")
    control.start(B)
    assert set(did(apply(config(A, B), control).results).values()) == {Did.NOTHING}


def test_a_worker_that_left_the_file_comes_back_as_new(control: Control) -> None:
    apply(config(A, B), control)
    control.stop("llm", "a")
    apply(config(B), control)
    assert control.stopped.names() == frozenset()
    assert did(apply(config(A, B), control).results)["llm/a"] is Did.STARTED


def test_one_that_fails_keeps_no_other_from_being_handled(
    control: Control, launcher: FakeLauncher
) -> None:
    launcher.fails["llm/a"] = CreationFailedError("no such program")
    launcher.fails["llm/b"] = ZeroDivisionError("a mistake of ours")  # type: ignore[assignment]
    heard: list[str] = []
    outcome = apply(config(A, B, C), control, tell=lambda result: heard.append(result.step.name))
    assert did(outcome.results) == {
        "llm/a": Did.FAILED,
        "llm/b": Did.FAILED,
        "trainer/main": Did.STARTED,
    }
    assert heard == ["llm/a", "llm/b", "trainer/main"]
    assert [str(result.error) for result in outcome.failed] == [
        "no such program",
        "llm/b: ZeroDivisionError: a mistake of ours",
    ]
    assert isinstance(outcome.failed[1].error, InputOutputError)


def test_somebody_faster_is_no_failure(control: Control, launcher: FakeLauncher) -> None:
    def first(spec: WorkerSpec) -> None:
        launcher.workers[spec.service, spec.instance] = right(spec)

    launcher.before_start = first
    outcome = apply(config(A), control)
    assert did(outcome.results) == {"llm/a": Did.NOTHING}
    assert not outcome.failed


def test_a_stop_after_the_plan_was_made_counts(control: Control, launcher: FakeLauncher) -> None:
    made = plan(config(A), (), ())
    control.stopped.mark("llm", "a")
    assert did(carry_out(made, control).results) == {"llm/a": Did.NOTHING}
    assert launcher.changes() == []
    assert control.stopped.names() == {("llm", "a")}


def test_a_stop_while_it_is_applied_is_no_failure(control: Control, launcher: FakeLauncher) -> None:
    apply(config(A), control)
    changed = dataclasses.replace(A, argv=("serve", "anew"))
    launcher.before_start = lambda spec: control.stopped.mark(spec.service, spec.instance)
    outcome = apply(config(changed, B), control, replace=True)
    assert did(outcome.results) == {"llm/a": Did.NOTHING, "llm/b": Did.NOTHING}
    assert launcher.workers == {}
    assert control.stopped.names() == {("llm", "a"), ("llm", "b")}


def test_workers_are_handled_side_by_side(control: Control, launcher: FakeLauncher) -> None:
    gate = threading.Barrier(2)

    def meet(spec: WorkerSpec) -> None:
        gate.wait(30)

    launcher.before_start = meet
    assert not apply(config(A, B), control).failed


def test_a_slice_that_is_not_ours_is_left_alone(control: Control, launcher: FakeLauncher) -> None:
    control.slice_name = "pact.slice"
    control.stopped.mark("old", "1")
    with pytest.raises(PermissionDeniedError):
        apply(config(A), control)
    assert launcher.calls == []
    assert control.stopped.names() == {("old", "1")}
