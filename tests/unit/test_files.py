"""Interface files of cgroups: missing, refused, removed and back again."""

import errno
import os
from pathlib import Path

import pytest
from tests.trees import KernelManners, kernel

from worker_exporter.cgroup.files import Cgroup, InterfaceFile


@pytest.fixture
def manners(monkeypatch: pytest.MonkeyPatch) -> KernelManners:
    return KernelManners(monkeypatch)


def cgroup(tmp_path: Path, name: str, **files: bytes) -> Cgroup:
    (tmp_path / name).mkdir()
    for file, content in files.items():
        (tmp_path / name / file).write_bytes(content)
    return Cgroup(name, f"{tmp_path}/{name}", (tmp_path / name).stat().st_ino)


def changed(file: InterfaceFile[Cgroup]) -> dict[str, bytes | None]:
    return {each.path: data for each, data in file.changed()}


@pytest.fixture(params=[100, 0], ids=["kept", "none"])
def available(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def test_each_change_is_told_once(tmp_path: Path, available: int) -> None:
    shared = kernel(tmp_path, available)
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", shared)
    for each in (cgroup(tmp_path, "a", stat=b"1\n"), cgroup(tmp_path, "b", stat=b"2\n")):
        each.open(shared.descriptors)
        file.add(each)
    assert changed(file) == {"a": b"1\n", "b": b"2\n"}
    (tmp_path / "b/stat").write_bytes(b"3\n")
    assert changed(file) == {"b": b"3\n"}
    assert changed(file) == {}
    assert shared.faults.errors == {"stat": 0}


def test_a_missing_file_is_no_error(tmp_path: Path, available: int) -> None:
    shared = kernel(tmp_path, available)
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", shared)
    each = cgroup(tmp_path, "a")
    file.add(each)
    assert changed(file) == {}
    assert each not in file
    assert not file.is_denied(each)
    assert shared.faults.errors == {"stat": 0}
    assert not shared.faults.vanished
    (tmp_path / "a/stat").write_bytes(b"1\n")
    assert changed(file) == {}
    file.look_again(each)
    assert changed(file) == {"a": b"1\n"}


def test_a_file_that_is_removed_and_comes_back(
    tmp_path: Path, available: int, manners: KernelManners
) -> None:
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", kernel(tmp_path, available))
    each = cgroup(tmp_path, "a", stat=b"1\n")
    file.add(each)
    changed(file)
    (tmp_path / "a/stat").unlink()
    assert changed(file) == {"a": None}
    assert changed(file) == {}
    file.retry_missing()
    assert changed(file) == {}
    (tmp_path / "a/stat").write_bytes(b"1\n")
    file.retry_missing()
    assert changed(file) == {"a": b"1\n"}


def test_a_file_that_came_back_between_two_passes_is_not_lost(
    tmp_path: Path, manners: KernelManners
) -> None:
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", kernel(tmp_path))
    each = cgroup(tmp_path, "a", stat=b"1\n")
    file.add(each)
    changed(file)
    (tmp_path / "a/stat").unlink()
    (tmp_path / "a/stat").write_bytes(b"2\n")
    assert changed(file) == {"a": b"2\n"}


def test_what_no_cgroup_ever_had_is_tried_for_one_at_a_time(tmp_path: Path) -> None:
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", kernel(tmp_path))
    for name in "abc":
        file.add(cgroup(tmp_path, name))
    file.retry_missing()
    for name in "abc":
        (tmp_path / name / "stat").write_bytes(b"1\n")
    file.retry_missing()
    assert changed(file) == {"a": b"1\n", "b": b"1\n", "c": b"1\n"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO])
def test_a_refused_file_is_counted_at_every_pass_and_told_when_it_is_not(
    tmp_path: Path, available: int, manners: KernelManners, number: int
) -> None:
    shared = kernel(tmp_path, available)
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", shared)
    each = cgroup(tmp_path, "a", stat=b"1\n")
    manners.refuse(tmp_path / "a/stat", number)
    file.add(each)
    assert file.is_denied(each)
    assert changed(file) == {}
    assert shared.faults.errors == {"stat": 2}
    manners.refusing.clear()
    assert changed(file) == {"a": b"1\n"}
    assert not file.is_denied(each)
    manners.refuse(tmp_path / "a/stat", number)
    assert changed(file) == {"a": None}
    assert shared.faults.errors == {"stat": 3}
    assert not shared.faults.vanished
    (tmp_path / "a/stat").unlink()
    assert changed(file) == {"a": None}
    assert not file.is_denied(each)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_that_says_nothing_here_is_missing(
    tmp_path: Path, available: int, manners: KernelManners, number: int
) -> None:
    shared = kernel(tmp_path, available)
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", shared)
    each = cgroup(tmp_path, "a", stat=b"1\n")
    file.add(each)
    changed(file)
    manners.refuse(tmp_path / "a/stat", number)
    assert changed(file) == {"a": None}
    assert changed(file) == {}
    assert shared.faults.errors == {"stat": 0}


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ESTALE, errno.ESRCH])
def test_a_cgroup_that_is_gone_is_said_to_have_vanished(
    tmp_path: Path, available: int, manners: KernelManners, number: int
) -> None:
    shared = kernel(tmp_path, available)
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", shared)
    each = cgroup(tmp_path, "a", stat=b"1\n")
    file.add(each)
    changed(file)
    manners.refuse(tmp_path / "a/stat", number)
    (tmp_path / "a").rename(tmp_path / "gone")
    assert changed(file) == {"a": None}
    assert shared.faults.vanished == {each}
    assert shared.faults.errors == {"stat": 0}
    shared.faults.clear()
    assert not shared.faults.vanished


def test_another_cgroup_of_the_same_name_is_not_this_one(tmp_path: Path) -> None:
    each = cgroup(tmp_path, "a")
    assert each.exists()
    (tmp_path / "a").rename(tmp_path / "gone")
    assert not each.exists()
    (tmp_path / "a").mkdir()
    assert not each.exists()


def test_a_bad_file_is_counted_and_told_again(tmp_path: Path, available: int) -> None:
    shared = kernel(tmp_path, available)
    file: InterfaceFile[Cgroup] = InterfaceFile("stat", shared)
    each = cgroup(tmp_path, "a", stat=b"what\n")
    file.add(each)
    assert changed(file) == {"a": b"what\n"}
    file.bad(each)
    assert changed(file) == {"a": b"what\n"}
    assert shared.faults.errors == {"stat": 1}


def test_a_directory_kept_open_stays_that_directory(tmp_path: Path) -> None:
    shared = kernel(tmp_path)
    each = cgroup(tmp_path, "a", stat=b"1\n")
    each.open(shared.descriptors)
    (tmp_path / "a").rename(tmp_path / "moved")
    descriptor = each.open_file("stat")
    assert os.read(descriptor, 9) == b"1\n"
    os.close(descriptor)
    each.close(shared.descriptors)
    with pytest.raises(FileNotFoundError):
        each.open_file("stat")


def test_links_count_the_cgroups_below(tmp_path: Path) -> None:
    shared = kernel(tmp_path)
    each = cgroup(tmp_path, "a")
    (tmp_path / "a/b").mkdir()
    assert each.links() == 3
    each.open(shared.descriptors)
    (tmp_path / "a/c").mkdir()
    assert each.links() == 4
    each.close(shared.descriptors)
