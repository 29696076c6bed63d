"""Resident memory by /proc/PID/statm, as processes come, grow and end."""

import errno
import shutil
from pathlib import Path

import pytest
from tests.trees import KernelManners, kernel

from worker_exporter.cgroup.identity import Identity
from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.procfs import PAGE_BYTES
from worker_exporter.cgroup.resident import ResidentMemory


class Proc:
    """A procfs and one worker."""

    def __init__(self, tmp_path: Path, manners: KernelManners, available: int) -> None:
        self.root = tmp_path / "proc"
        self.manners = manners
        self.kernel = kernel(tmp_path, available)
        self.memory = ResidentMemory(self.kernel)
        self.worker = Worker("w", "/w", 1, None, Identity("w", "0"))
        self.memory.add(self.worker)
        self.pids: tuple[int, ...] | None = ()

    def hold(self, pid: int, pages: int) -> None:
        (self.root / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.root / str(pid) / "statm").write_text(f"9999 {pages} 3 4 0 6 0\n")

    def end(self, pid: int) -> None:
        (self.root / str(pid) / "statm").unlink()
        shutil.rmtree(self.root / str(pid))

    def pages(self) -> list[float | None]:
        told = list(self.memory.changed({self.worker: self.pids}))
        assert all(worker is self.worker for worker, _ in told)
        return [None if value is None else value / PAGE_BYTES for _, value in told]


@pytest.fixture(params=[100, 1, 0], ids=["kept", "few", "none"])
def proc(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(tmp_path, KernelManners(monkeypatch), request.param)


def test_the_sum_of_its_processes(proc: Proc) -> None:
    assert proc.pages() == [0]
    proc.hold(1, 10)
    proc.hold(2, 20)
    proc.pids = (1, 2)
    assert proc.pages() == [30]
    assert proc.pages() == []
    proc.hold(2, 21)
    assert proc.pages() == [31]
    proc.pids = (2,)
    assert proc.pages() == [21]


def test_a_process_that_ended_holds_nothing(proc: Proc) -> None:
    proc.hold(1, 10)
    proc.hold(2, 20)
    proc.pids = (1, 2)
    assert proc.pages() == [30]
    proc.end(1)
    assert proc.pages() == [20]
    proc.pids = (2,)
    assert proc.pages() == [20]


def test_a_process_nobody_can_see_leaves_the_sum_out(proc: Proc) -> None:
    proc.hold(1, 10)
    proc.pids = (1, 2)
    assert proc.pages() == [None]
    proc.hold(2, 20)
    assert proc.pages() == [30]


def test_another_process_of_the_same_number(proc: Proc) -> None:
    proc.hold(1, 10)
    proc.pids = (1,)
    assert proc.pages() == [10]
    proc.end(1)
    assert proc.pages() == [0]
    proc.hold(1, 7)
    assert proc.pages() == [7]
    assert proc.pages() == []


def test_one_that_is_refused_leaves_the_sum_out(proc: Proc) -> None:
    proc.hold(1, 10)
    proc.hold(2, 20)
    proc.manners.refuse(proc.root / "2/statm", errno.EACCES)
    proc.pids = (1, 2)
    assert proc.pages() == [None]
    assert proc.kernel.faults.errors["statm"] == 1
    proc.manners.refusing.clear()
    assert proc.pages() == [30]


@pytest.mark.parametrize("content", ["", "1", "9 8", "x y z\n"])
def test_one_that_makes_no_sense_leaves_the_sum_out(proc: Proc, content: str) -> None:
    proc.hold(1, 10)
    proc.hold(2, 20)
    proc.pids = (1, 2)
    proc.pages()
    (proc.root / "2/statm").write_text(content)
    assert proc.pages() == [None]
    assert proc.kernel.faults.errors["statm"] == 1
    proc.hold(2, 20)
    assert proc.pages() == [30]


def test_unknown_processes_are_unknown_memory(proc: Proc) -> None:
    proc.hold(1, 10)
    proc.pids = (1,)
    proc.pages()
    proc.pids = None
    assert proc.pages() == [None]


def test_nothing_is_kept_of_a_worker_that_is_gone(proc: Proc) -> None:
    before = proc.kernel.descriptors.available
    proc.hold(1, 10)
    proc.pids = (1,)
    proc.pages()
    proc.memory.remove(proc.worker)
    assert proc.worker not in proc.memory
    assert proc.kernel.descriptors.available == before
