"""The processes of a worker and of what nests in it, as cgroups come and go."""

import errno
from pathlib import Path

import pytest
from tests.trees import KernelManners, kernel

from worker_exporter.cgroup.identity import Identity
from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.processes import Processes

MAX_DIRECTORIES = 256


class Family:
    """A worker with cgroups in it."""

    def __init__(self, tmp_path: Path, manners: KernelManners, available: int) -> None:
        self.root = tmp_path / "cgroup"
        self.root.mkdir()
        self.manners = manners
        self.kernel = kernel(tmp_path, available)
        self.processes = Processes(self.kernel)
        self.graves = 0
        self.put("w")
        location = self.root / "w"
        self.worker = Worker("w", str(location), location.stat().st_ino, None, Identity("w", "0"))
        self.worker.open(self.kernel.descriptors)
        self.processes.add(self.worker)

    def put(self, path: str, *pids: int) -> None:
        (self.root / path).mkdir(exist_ok=True, parents=True)
        text = "".join(f"{pid}\n" for pid in pids)
        (self.root / path / "cgroup.procs").write_text(text)

    def take(self, path: str) -> None:
        for file in (self.root / path).rglob("cgroup.procs"):
            file.unlink()
        self.graves += 1
        (self.root / path).rename(self.root.parent / f"grave{self.graves}")

    def pids(self) -> set[int] | None:
        self.kernel.faults.clear()
        self.processes.refresh()
        found = self.processes.pids[self.worker]
        assert found is None or len(set(found)) == len(found)
        return None if found is None else set(found)


@pytest.fixture(params=[1000, 2, 0], ids=["kept", "few", "none"])
def family(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Family:
    return Family(tmp_path, KernelManners(monkeypatch), request.param)


def test_its_own(family: Family) -> None:
    assert family.pids() == set()
    family.put("w", 1, 2)
    assert family.pids() == {1, 2}
    unchanged = family.processes.pids[family.worker]
    assert family.pids() == {1, 2}
    assert family.processes.pids[family.worker] is unchanged


def test_nested_ones_come_and_go(family: Family) -> None:
    family.put("w", 1)
    family.put("w/a", 2)
    assert family.pids() == {1, 2}
    family.put("w/a/b", 3)
    assert family.pids() == {1, 2, 3}
    family.put("w/a/b", 4)
    assert family.pids() == {1, 2, 4}
    family.take("w/a")
    assert family.pids() == {1}
    family.put("w/a", 5)
    assert family.pids() == {1, 5}


@pytest.mark.parametrize("name", ["a", "c"])
def test_another_in_its_place(family: Family, name: str) -> None:
    family.put("w/a", 2)
    assert family.pids() == {2}
    family.take("w/a")
    family.put(f"w/{name}", 3)
    assert family.pids() == {3}


@pytest.mark.parametrize("name", ["a", "c"])
def test_another_in_the_place_of_one_that_says_nothing(family: Family, name: str) -> None:
    family.put("w/a", 2)
    family.manners.refuse(family.root / "w/a/cgroup.procs", errno.EOPNOTSUPP)
    assert family.pids() == set()
    family.take("w/a")
    family.manners.refusing.clear()
    family.put(f"w/{name}", 3)
    assert family.pids() == {3}


def test_with_one_that_is_refused_nothing_is_said(family: Family) -> None:
    family.put("w", 1)
    family.put("w/a", 2)
    family.manners.refuse(family.root / "w/a/cgroup.procs", errno.EACCES)
    assert family.pids() is None
    family.manners.refusing.clear()
    assert family.pids() == {1, 2}
    family.manners.refuse(family.root / "w/cgroup.procs", errno.EACCES)
    assert family.pids() is None


def test_a_truncated_list_is_none(family: Family) -> None:
    (family.root / "w/cgroup.procs").write_text("12")
    assert family.pids() is None
    assert family.kernel.faults.errors["cgroup.procs"] == 1
    family.put("w", 123)
    assert family.pids() == {123}


def test_zero_is_a_process_of_another_namespace(family: Family) -> None:
    family.put("w", 0, 5)
    family.pids()
    assert family.kernel.faults.foreign_processes


def test_too_many_cgroups_are_left_out(family: Family) -> None:
    for number in range(MAX_DIRECTORIES - 1):
        family.put(f"w/{number}", number + 1)
    assert family.pids() == set(range(1, MAX_DIRECTORIES))
    family.put("w/more", 1000)
    assert family.pids() is None
    family.take("w/more")
    assert family.pids() == set(range(1, MAX_DIRECTORIES))


def test_the_kernels_own_count_saves_the_walk(family: Family) -> None:
    (family.root / "w/cgroup.stat").write_text(f"nr_descendants {MAX_DIRECTORIES}\n")
    family.put("w/a", 2)
    assert family.pids() is None


def test_nothing_is_kept_of_a_worker_that_is_gone(family: Family) -> None:
    family.put("w/a/b", 3)
    family.pids()
    family.processes.remove(family.worker)
    family.worker.close(family.kernel.descriptors)
    assert family.processes.pids == {}
    assert family.kernel.descriptors.available in (1000, 2, 0)
    family.put("w", 7)
    family.processes.refresh()
    assert family.processes.pids == {}
