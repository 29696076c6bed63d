"""Operations on cgroup directories that need no kernel: on copies of its files."""

import os
import subprocess
from pathlib import Path

import pytest

from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch import cgroup


def make(directory: Path, procs: str = "", populated: int = 0) -> Path:
    directory.mkdir(parents=True)
    (directory / "cgroup.procs").write_text(procs)
    (directory / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    return directory


def test_pids_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    top = make(tmp_path / "top", "12\n13\n")
    make(top / "a", "14\n")
    make(top / "a/b", "15\n")
    assert sorted(cgroup.pids(str(top))) == [12, 13, 14, 15]


def test_a_process_of_another_namespace_has_no_pid_here(tmp_path: Path) -> None:
    """It shows as 0, and a signal to 0 is one to ourselves."""
    top = make(tmp_path / "top", "0\n12\n0\n")
    assert cgroup.pids(str(top)) == [12]


def test_cgroups_nested_deeper_than_a_path_can_tell_hide_none_above_them(tmp_path: Path) -> None:
    top = make(tmp_path / "top", "12\n")
    make(top / "aa", "13\n")
    place = os.open(top / "aa", os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("aa", dir_fd=place)
        below = os.open("aa", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    try:
        assert cgroup.pids(str(top)) == [12, 13]
    finally:
        subprocess.run(["rm", "-rf", top], check=True)


def test_a_process_is_signalled_before_the_next_cgroup_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read long ago may be the PID of somebody else by now."""
    top = make(tmp_path / "top", "12\n", populated=1)
    below = make(top / "a", "13\n")
    told: list[int] = []

    def kill(pid: int, number: int) -> None:
        told.append(pid)
        (below / "cgroup.procs").write_text("14\n")
        (top / "cgroup.events").write_text("populated 0\n")

    monkeypatch.setattr(os, "kill", kill)
    assert not cgroup.end(str(top), 5)
    assert dict.fromkeys(told) == dict.fromkeys([12, 14])


@pytest.mark.parametrize(("value", "expected"), [(0, False), (1, True)])
def test_populated(tmp_path: Path, value: int, expected: bool) -> None:
    assert cgroup.populated(str(make(tmp_path / "top", populated=value))) is expected


def test_links_are_not_followed(tmp_path: Path) -> None:
    top = make(tmp_path / "top", "12\n")
    make(tmp_path / "elsewhere", "13\n")
    os.symlink(tmp_path / "elsewhere", top / "link")
    assert cgroup.pids(str(top)) == [12]


def test_what_cannot_be_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    top = make(tmp_path / "top")
    (top / "cgroup.events").unlink()
    (top / "cgroup.events").mkdir()
    with pytest.raises(InputOutputError, match=f"cannot read the cgroup {top}: Is a directory"):
        cgroup.populated(str(top))


def test_nothing_is_stuck_that_is_not_asleep(tmp_path: Path) -> None:
    top = make(tmp_path / "top", f"{os.getpid()}\n{2**22 + 1}\n")
    assert cgroup.stuck(str(top)) == []
