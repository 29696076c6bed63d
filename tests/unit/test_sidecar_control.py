"""Every check that is not one launcher's own."""

import os
import pwd
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from tests.unit.fake_launcher import FakeLauncher, running

from worker_sidecar import gpu
from worker_sidecar.claims import claimed
from worker_sidecar.control import Control
from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    InputOutputError,
    KillFailedError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
    SidecarError,
    StoppedError,
)
from worker_sidecar.launch.combined import Combined
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import GRACE, Ended, Gpu, State, Status, WorkerSpec
from worker_sidecar.ownership import Ownership
from worker_sidecar.spec import Config, Declared
from worker_sidecar.stopped import Stopped

LLM = WorkerSpec("llm", "8080", ("sleep", "9"), metadata={"port": "8080"})
JOB = WorkerSpec("job", "1", ("sleep", "9"))


def config(*specs: WorkerSpec, owners: dict[str, str] | None = None) -> Config:
    ownership = Ownership(("worker.slice",), owners or {})
    return Config("file", "worker.slice", ownership, tuple(map(Declared, specs)))


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def control(launcher: FakeLauncher, tmp_path: Path) -> Control:
    return Control(launcher, Stopped(str(tmp_path)), config=config(LLM))


def test_a_marker_is_gone_before_the_worker_starts(
    control: Control, launcher: FakeLauncher
) -> None:
    control.stopped.mark("llm", "8080")
    seen: list[frozenset[tuple[str, str]]] = []
    launcher.before_start = lambda spec: seen.append(control.stopped.names())
    control.start(LLM)
    assert seen == [frozenset()]


def test_a_marker_is_there_before_the_stop(control: Control, launcher: FakeLauncher) -> None:
    control.start(LLM)
    launcher.fails["llm/8080"] = KillFailedError("stuck")
    with pytest.raises(KillFailedError):
        control.stop("llm", "8080", 1)
    assert control.stopped.names() == {("llm", "8080")}
    control.stopped.clear("llm", "8080")
    with pytest.raises(KillFailedError):
        control.kill("llm", "8080")
    assert control.stopped.names() == {("llm", "8080")}


@pytest.mark.parametrize("refusal", [InputError("too long"), RefusedError("it is us")])
def test_a_stop_that_is_not_even_tried_leaves_no_marker(
    control: Control, launcher: FakeLauncher, refusal: SidecarError
) -> None:
    control.start(LLM)
    launcher.fails["llm/8080"] = refusal
    for end in (control.stop, control.kill):
        with pytest.raises(type(refusal)):
            end("llm", "8080")
        assert control.stopped.names() == frozenset()
    control.stopped.mark("llm", "8080")
    with pytest.raises(type(refusal)):
        control.kill("llm", "8080")
    assert control.stopped.names() == {("llm", "8080")}


@pytest.mark.parametrize("spec", [LLM, JOB])
def test_a_stop_that_is_under_way_is_not_forgotten(
    control: Control, launcher: FakeLauncher, spec: WorkerSpec
) -> None:
    control.start(spec)
    control.stopped.mark(spec.service, spec.instance)
    with pytest.raises(AlreadyRunningError):
        control.start(spec)
    assert control.stopped.names() == {(spec.service, spec.instance)}


@pytest.mark.parametrize("start", [Control.start, Control.restore, Control.replace])
def test_a_stop_that_comes_during_a_start_counts(
    control: Control, launcher: FakeLauncher, start: Callable[[Control, WorkerSpec], Status]
) -> None:
    """It finds nothing to end yet, and says so: whoever starts the worker has to end it."""

    def stop(spec: WorkerSpec) -> None:
        with pytest.raises(NotFoundError):
            control.stop(spec.service, spec.instance)

    launcher.before_start = stop
    with pytest.raises(StoppedError, match="llm/8080 was not started: somebody stopped it"):
        start(control, LLM)
    assert launcher.workers == {}
    assert control.stopped.names() == {("llm", "8080")}


def test_only_declared_workers_are_marked(control: Control) -> None:
    control.start(JOB)
    control.stop("job", "1")
    with pytest.raises(NotFoundError):
        control.stop("job", "1")
    assert control.stopped.names() == frozenset()
    with pytest.raises(NotFoundError):
        control.stop("llm", "8080")
    assert control.stopped.names() == {("llm", "8080")}


def test_the_grace_is_the_workers_own(control: Control, launcher: FakeLauncher) -> None:
    control.start(WorkerSpec("job", "1", ("x",), grace=30))
    control.stop("job", "1")
    control.start(JOB)
    control.stop("job", "1")
    control.start(JOB)
    control.stop("job", "1", 0)
    stops = [call for call in launcher.calls if call.startswith("stop")]
    assert stops == ["stop(30) job/1", "stop(5) job/1", "stop(0) job/1"]


@pytest.mark.parametrize("name", [".", "..", "cgroup.procs", "a\n", "x" * 300])
def test_names_are_checked_before_anything(
    control: Control, launcher: FakeLauncher, name: str
) -> None:
    for act in (control.stop, control.kill, control.status):
        with pytest.raises(InputError):
            act("llm", name)
    with pytest.raises(InputError):
        control.logs("llm", name, 1, follow=False)
    assert launcher.calls == []


def test_a_port_is_given_once(control: Control, launcher: FakeLauncher) -> None:
    control.start(LLM)
    other = WorkerSpec("web", "1", ("x",), metadata={"port": "8080"})
    with pytest.raises(RefusedError, match="web/1 was not started: llm/8080 has the port 8080"):
        control.start(other)
    with pytest.raises(RefusedError):
        control.commands(other)
    launcher.workers["llm", "8080"] = running(
        "llm", "8080", state=State.FAILED, metadata={"port": "8080"}
    )
    control.start(other)


def test_a_worker_cannot_take_a_port_by_writing_its_own_metadata(
    control: Control, launcher: FakeLauncher
) -> None:
    declared = encode(WorkerSpec("evil", "1", ("x",), metadata={"port": "9000"}))
    launcher.workers["evil", "1"] = running(
        "evil", "1", metadata={"port": "8080"}, declaration=declared
    )
    control.start(LLM)
    with pytest.raises(RefusedError, match="web/1 was not started: evil/1 has the port 9000"):
        control.start(WorkerSpec("web", "1", ("x",), metadata={"port": "9000"}))


def test_instances_of_two_services_may_have_one_number(control: Control) -> None:
    for service in ("train", "eval"):
        assert control.start(WorkerSpec(service, "1", ("x",))).metadata == {}


def test_an_instance_that_is_a_port_has_it(control: Control, launcher: FakeLauncher) -> None:
    assert control.start(WorkerSpec("web", "8090", ("x",))).metadata == {"port": "8090"}
    assert control.start(WorkerSpec("web", "65536", ("x",))).metadata == {}
    with pytest.raises(RefusedError, match="web/8090 has the port 8090"):
        control.start(WorkerSpec("llm", "8090", ("x",)))
    control.start(WorkerSpec("llm", "8090", ("x",), metadata={"port": "8091"}))


@pytest.mark.parametrize("port", ["0", "65536", "http", "080", "../x", "8" * 250])
def test_a_port_that_cannot_be(control: Control, launcher: FakeLauncher, port: str) -> None:
    with pytest.raises(InputError, match="is no number from 1 to 65535"):
        control.start(WorkerSpec("web", "1", ("x",), metadata={"port": port}))
    assert launcher.calls == []


def ten_at_once(control: Control, specs: list[WorkerSpec]) -> list[Status | SidecarError]:
    gate = threading.Barrier(len(specs))

    def one(spec: WorkerSpec) -> Status | SidecarError:
        gate.wait()
        try:
            return control.start(spec)
        except SidecarError as error:
            return error

    with ThreadPoolExecutor(len(specs)) as pool:
        return list(pool.map(one, specs))


def test_of_ten_equal_starts_one_starts(control: Control, launcher: FakeLauncher) -> None:
    """Also with a launcher that would start them all."""
    launcher.before_start = lambda spec: time.sleep(0.01)
    launcher_start = launcher.start

    def careless(spec: WorkerSpec) -> Status:
        launcher.workers.pop((spec.service, spec.instance), None)
        return launcher_start(spec)

    launcher.start = careless  # type: ignore[method-assign]
    results = ten_at_once(control, [LLM] * 10)
    assert sum(isinstance(result, Status) for result in results) == 1
    assert sum(isinstance(result, AlreadyRunningError) for result in results) == 9
    assert launcher.changes() == ["start llm/8080"]


def test_of_a_process_and_a_container_of_one_name_one_starts(tmp_path: Path) -> None:
    """Neither launcher knows of the other's start."""
    process, docker = FakeLauncher("process"), FakeLauncher("docker")
    process.before_start = docker.before_start = lambda spec: time.sleep(0.01)
    control = Control(Combined(process, docker), Stopped(str(tmp_path)))
    container = WorkerSpec("job", "1", (), image="busybox")
    results = ten_at_once(control, [JOB, container] * 5)
    assert sum(isinstance(result, Status) for result in results) == 1
    assert sum(isinstance(result, AlreadyRunningError) for result in results) == 9


def test_of_ten_starts_with_one_port_one_starts(control: Control, launcher: FakeLauncher) -> None:
    launcher.before_start = lambda spec: time.sleep(0.01)
    specs = [WorkerSpec("web", str(n), ("x",), metadata={"port": "80"}) for n in range(10)]
    results = ten_at_once(control, specs)
    assert sum(isinstance(result, Status) for result in results) == 1
    assert sum(type(result) is RefusedError for result in results) == 9


def test_limits_that_do_not_hold(
    control: Control, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    launcher.unapplied = ("memory", "io")
    control.start(LLM)
    [record] = [each for each in caplog.records if "do not hold" in each.message]
    assert record.__dict__["fields"]["limits"] == "memory, io"
    strict = WorkerSpec("job", "1", ("x",), grace=7)
    with pytest.raises(
        CreationFailedError, match="job/1 was ended again: its limits of memory, io"
    ):
        control.start(strict, strict=True)
    assert launcher.changes()[-1] == "stop(7) job/1"
    assert ("job", "1") not in launcher.workers


def test_gpus_of_living_workers_are_taken(
    control: Control, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[int]]] = []

    def choose(wanted: str, taken: list[int]) -> tuple[Gpu, ...]:
        asked.append((wanted, taken))
        return (Gpu(3, "GPU-3"),)

    monkeypatch.setattr(gpu, "choose", choose)
    launcher.workers["a", "1"] = running("a", "1", metadata={"gpu": "0,2"})
    launcher.workers["a", "2"] = running("a", "2", metadata={"gpu": "2"})
    launcher.workers["b", "1"] = running("b", "1", metadata={"gpu": "GPU-x"})
    launcher.workers["c", "1"] = running("c", "1", state=State.ENDED, metadata={"gpu": "5"})
    control.start(WorkerSpec("job", "1", ("x",), gpu="auto"))
    assert asked == [("auto", [0, 2, 2])]
    assert launcher.specs["job/1"].environment["CUDA_VISIBLE_DEVICES"] == "GPU-3"


def test_a_replacement_looks_before_it_stops(control: Control, launcher: FakeLauncher) -> None:
    control.start(LLM)
    control.start(WorkerSpec("web", "1", ("x",), metadata={"port": "80"}))
    launcher.calls.clear()
    with pytest.raises(RefusedError):
        control.replace(WorkerSpec("llm", "8080", ("x",), metadata={"port": "80"}))
    assert launcher.changes() == []
    control.replace(WorkerSpec("llm", "8080", ("y",), metadata={"port": "8080"}))
    assert launcher.changes() == ["stop(5) llm/8080", "start llm/8080"]
    assert launcher.specs["llm/8080"].argv == ("y",)
    assert control.stopped.names() == frozenset()


def test_a_stop_during_a_replacement_counts(control: Control, launcher: FakeLauncher) -> None:
    control.start(LLM)
    launcher_stop = launcher.stop

    def stop(service: str, instance: str, grace: float = GRACE) -> Ended:
        control.stopped.mark(service, instance)
        return launcher_stop(service, instance, grace)

    launcher.stop = stop  # type: ignore[method-assign]
    launcher.calls.clear()
    with pytest.raises(StoppedError):
        control.replace(LLM)
    assert launcher.changes() == ["stop(5) llm/8080"]


def test_a_replacement_that_waits_for_the_old_one_holds_up_no_other_gpu(
    control: Control, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "choose", lambda wanted, taken: (Gpu(0, "GPU-0"),))
    launcher_stop = launcher.stop

    def slow(service: str, instance: str, grace: float = GRACE) -> Ended:
        with claimed(control.stopped.run_dir, ["gpu"], 0):
            return launcher_stop(service, instance, grace)

    launcher.stop = slow  # type: ignore[method-assign]
    control.start(WorkerSpec("job", "1", ("x",), gpu="auto"))
    control.replace(WorkerSpec("job", "1", ("y",), gpu="auto"))
    assert launcher.specs["job/1"].gpus == (Gpu(0, "GPU-0"),)


def test_a_claim_that_others_keep_is_worth_another_try(
    control: Control, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` tries again what was not answered, but nothing that is wrong in itself."""
    monkeypatch.setattr("worker_sidecar.control.claimed", partial(claimed, patience=0))
    wanting = WorkerSpec("llm", "8080", ("x",), gpu="auto")
    for claim, error in {
        "llm@8080": AlreadyRunningError,
        "port-8080": InputOutputError,
        "gpu": InputOutputError,
    }.items():
        with (
            claimed(control.stopped.run_dir, [claim]),
            pytest.raises(error, match=f"llm/8080 was not started: another start holds {claim}"),
        ):
            control.start(wanting)
    assert launcher.changes() == []


def test_down_keeps_the_declared_down(control: Control, launcher: FakeLauncher) -> None:
    control.start(JOB)
    assert [ended.service for ended in control.down(1)] == ["job"]
    assert control.stopped.names() == {("llm", "8080")}
    assert launcher.calls[-1] == "down(1)"


class TestAForeignSlice:
    @pytest.fixture
    def control(self, launcher: FakeLauncher, tmp_path: Path) -> Control:
        theirs = config(LLM, owners={"pact.slice": "pact"})
        return Control(launcher, Stopped(str(tmp_path)), None, theirs, "pact-team.slice")

    def test_is_read_but_not_written(self, control: Control, launcher: FakeLauncher) -> None:
        launcher.workers["llm", "8080"] = running("llm", "8080")
        assert [each.name for each in control.list()] == ["llm/8080"]
        assert control.status("llm", "8080").alive
        assert control.logs("llm", "8080", 5, follow=True).read() == b"fake: 5 True\n"
        for act in (
            lambda: control.start(JOB),
            lambda: control.replace(LLM),
            lambda: control.stop("llm", "8080"),
            lambda: control.kill("llm", "8080"),
            control.down,
        ):
            with pytest.raises(PermissionDeniedError) as caught:
                act()
            assert caught.value.owner == "pact"
        assert launcher.changes() == []
        assert control.stopped.names() == frozenset()

    def test_an_emergency_is_logged_with_its_reason(
        self, control: Control, caplog: pytest.LogCaptureFixture
    ) -> None:
        control.emergency = "the owner is gone"
        control.start(JOB)
        [record] = [each for each in caplog.records if "emergency" in each.message]
        fields = record.__dict__["fields"]
        assert fields == {
            "doing": "start",
            "what": "job/1",
            "slice": "pact-team.slice",
            "reason": "the owner is gone",
            "uid": os.getuid(),
        }


def test_a_service_below_our_slice_may_be_somebody_elses(
    launcher: FakeLauncher, tmp_path: Path
) -> None:
    theirs = config(owners={"worker-job.slice": "pact"})
    control = Control(launcher, Stopped(str(tmp_path)), None, theirs, "worker.slice")
    with pytest.raises(PermissionDeniedError, match=r"worker-job\.slice belongs to pact"):
        control.start(JOB)
    control.start(LLM)
    assert launcher.changes() == ["start llm/8080"]


class TestSecrets:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "token"
        path.write_text("hunter2")
        path.chmod(0o600)
        return path

    def spec(self, file: Path, user: str | None) -> WorkerSpec:
        return WorkerSpec("llm", "1", ("x",), user=user, secrets={"token": str(file)})

    def test_they_need_a_uid_of_their_own(self, control: Control, file: Path) -> None:
        control.start(self.spec(file, pwd.getpwuid(1).pw_name))
        for user in (None, "root", "0"):
            with pytest.raises(RefusedError, match="needs a uid of its own"):
                control.start(self.spec(file, user))

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_a_file_that_others_can_read_is_refused(
        self, control: Control, launcher: FakeLauncher, file: Path, mode: int
    ) -> None:
        file.chmod(mode)
        with pytest.raises(RefusedError, match=r"llm/1: secret token: .* by others"):
            control.start(self.spec(file, "daemon"))
        with pytest.raises(RefusedError, match="llm/1: secret_env: "):
            control.start(WorkerSpec("llm", "1", ("x",), user="daemon", secret_env=str(file)))
        assert launcher.changes() == []

    def test_a_file_that_is_not_there_is_bad_input(self, control: Control, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="No such file"):
            control.start(self.spec(tmp_path / "nothing", "daemon"))
