"""The smallest limit on a worker's path, wherever it is set and whatever cannot be read."""

import errno
from pathlib import Path

import pytest
from tests.trees import KernelManners, kernel

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.files import Kernel
from worker_exporter.cgroup.identity import Identity
from worker_exporter.cgroup.limits import UNKNOWN, PathLimit
from worker_exporter.cgroup.members import Ancestor, Worker

FILE = "memory.max"


class Path3:
    """A slice, a service's slice in it and workers in that, with one limit file each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernel: Kernel = kernel(root)
        self.limit: PathLimit[Worker] = PathLimit(FILE, self.kernel, parse.limit)
        self.outer = Ancestor(*self._make("s"), None, None)
        self.inner = Ancestor(*self._make("s/a"), None, self.outer)

    def worker(self, name: str) -> Worker:
        path = f"s/a/{name}"
        return Worker(*self._make(path), None, Identity(name, "0"), self.inner)

    def set(self, path: str, limit: str) -> None:
        (self.root / path / FILE).write_text(f"{limit}\n")

    def changed(self) -> dict[str, float | None]:
        return {worker.identity.service: value for worker, value in self.limit.changed()}

    def said_unknown(self) -> bool:
        return [value is UNKNOWN for _, value in self.limit.changed()] == [True]

    def _make(self, path: str) -> tuple[str, str, int]:
        (self.root / path).mkdir()
        self.set(path, "max")
        return path, f"{self.root}/{path}", (self.root / path).stat().st_ino


@pytest.fixture
def here(tmp_path: Path) -> Path3:
    return Path3(tmp_path)


def test_the_smallest_on_the_path(here: Path3) -> None:
    here.limit.add(here.worker("w"))
    assert here.changed() == {"w": None}
    for path, limit, expected in (
        ("s", "1000", 1000),
        ("s/a/w", "2000", None),
        ("s/a", "500", 500),
        ("s/a/w", "0", 0),
        ("s/a/w", "max", 500),
        ("s/a", "max", 1000),
        ("s", "18446744073709551615", 2**64 - 1),
    ):
        here.set(path, limit)
        assert here.changed() == ({} if expected is None else {"w": expected})
    here.set("s", "max")
    assert here.changed() == {"w": None}


def test_a_limit_above_holds_for_all_below(here: Path3) -> None:
    for name in "xy":
        here.limit.add(here.worker(name))
    here.set("s/a/y", "7")
    here.set("s", "10")
    assert here.changed() == {"x": 10, "y": 7}
    here.set("s", "5")
    assert here.changed() == {"x": 5, "y": 5}
    assert here.changed() == {}


def test_a_worker_that_joins_later_has_the_limits_above(here: Path3) -> None:
    here.set("s", "10")
    here.limit.add(here.worker("x"))
    here.changed()
    here.limit.add(here.worker("y"))
    assert here.changed() == {"y": 10}


@pytest.mark.parametrize("path", ["s", "s/a/w"])
@pytest.mark.parametrize("content", ["what\n", "12", ""])
def test_with_one_that_makes_no_sense_the_limit_is_unknown(
    here: Path3, path: str, content: str
) -> None:
    here.limit.add(here.worker("w"))
    here.set("s/a", "10")
    assert here.changed() == {"w": 10}
    (here.root / path / FILE).write_text(content)
    assert here.said_unknown()
    assert here.kernel.faults.errors[FILE] == 1
    here.set(path, "5")
    assert here.changed() == {"w": 5}


@pytest.mark.parametrize("path", ["s", "s/a/w"])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_with_one_that_is_refused_the_limit_is_unknown(
    here: Path3, path: str, from_the_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = KernelManners(monkeypatch)
    worker = here.worker("w")
    here.set("s/a", "10")
    if not from_the_start:
        here.limit.add(worker)
        assert here.changed() == {"w": 10}
    manners.refuse(here.root / path / FILE, errno.EACCES)
    if from_the_start:
        here.limit.add(worker)
    assert here.said_unknown()
    manners.refusing.clear()
    assert here.changed() == {"w": 10}


@pytest.mark.parametrize("path", ["s", "s/a/w"])
def test_a_file_that_is_not_there_limits_nothing(here: Path3, path: str) -> None:
    worker = here.worker("w")
    here.set("s/a", "10")
    (here.root / path / FILE).unlink()
    here.limit.add(worker)
    assert here.changed() == {"w": 10}
    here.set(path, "5")
    here.limit.look_again(worker)
    assert here.changed() == {"w": 5}


def test_nothing_is_kept_of_what_is_removed(here: Path3) -> None:
    before = here.kernel.descriptors.available
    workers = [here.worker(name) for name in "xy"]
    for worker in workers:
        here.limit.add(worker)
    here.changed()
    here.limit.remove(workers[0])
    here.set("s", "5")
    assert here.changed() == {"y": 5}
    here.limit.remove(workers[1])
    assert here.changed() == {}
    assert here.kernel.descriptors.available == before
