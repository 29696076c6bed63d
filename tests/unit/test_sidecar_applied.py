"""Limits written to a cgroup's files and read back, on copies of those files."""

import os
from pathlib import Path

import pytest

from worker_sidecar.errors import InputError
from worker_sidecar.launch import applied
from worker_sidecar.launch.limits import LARGEST, IoLimit, Limits

FILES = {
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "cpuset.cpus": "",
    "cpuset.cpus.effective": "0-7",
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "max",
    "io.max": "",
    "io.weight": "default 100",
    "pids.max": "max",
}
DISKS = {"/": (8, 0), "/var": (8, 0), "/data": (253, 1)}


@pytest.fixture(autouse=True)
def disks(monkeypatch: pytest.MonkeyPatch) -> None:
    def device_of(path: str) -> tuple[int, int]:
        if path not in DISKS:
            raise InputError(f"limit io: {path}: gone")
        return DISKS[path]

    monkeypatch.setattr(applied, "device_of", device_of)


@pytest.fixture
def swaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with one swap."""
    path = tmp_path / "swaps"
    path.write_text("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")
    monkeypatch.setattr(applied, "SWAPS", str(path))
    return path


@pytest.fixture
def cgroup(tmp_path: Path, swaps: Path) -> Path:
    directory = tmp_path / "cgroup"
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_text(f"{content}\n")
    return directory


def put(cgroup: Path, **files: str) -> None:
    """The content of files by their name with _ for the dot."""
    for name, content in files.items():
        (cgroup / name.replace("_", ".")).write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("limits", "file", "content"),
    [
        (Limits(cpu=0.5), "cpu.max", "50000 100000"),
        (Limits(cpu=2.0), "cpu.max", "200000 100000"),
        (Limits(cpu=0.01), "cpu.max", "1000 100000"),
        (Limits(cpu_weight=500), "cpu.weight", "500"),
        (Limits(cpus="3,0-1"), "cpuset.cpus", "0-1,3"),
        (Limits(memory=2**26), "memory.max", "67108864"),
        (Limits(memory=2**26), "memory.swap.max", "0"),
        (Limits(memory=2**26, swap=4096), "memory.swap.max", "4096"),
        (Limits(memory_high=2**26), "memory.high", "67108864"),
        (Limits(tasks=7), "pids.max", "7"),
        (Limits(io_weight=500), "io.weight", "default 500"),
        (
            Limits(io=(IoLimit("/", read_bandwidth=1000, write_iops=5),)),
            "io.max",
            "8:0 rbps=1000 wbps=max riops=max wiops=5",
        ),
        (
            Limits(
                io=(
                    IoLimit("/", read_bandwidth=1000, write_iops=5),
                    IoLimit("/var", read_bandwidth=500),
                )
            ),
            "io.max",
            "8:0 rbps=500 wbps=max riops=max wiops=5",
        ),
    ],
)
def test_what_is_written(cgroup: Path, limits: Limits, file: str, content: str) -> None:
    assert applied.apply(str(cgroup), limits) == ()
    assert (cgroup / file).read_text() == content
    assert (file, content) in list(applied.writes(str(cgroup), limits))


def test_only_what_is_limited_is_written(cgroup: Path) -> None:
    applied.apply(str(cgroup), Limits(tasks=7))
    changed = {name for name, old in FILES.items() if (cgroup / name).read_text() != f"{old}\n"}
    assert changed == {"pids.max"}


def test_every_device_has_a_write_of_its_own(cgroup: Path) -> None:
    limits = Limits(io=(IoLimit("/", read_bandwidth=1), IoLimit("/data", write_bandwidth=2)))
    assert list(applied.writes(str(cgroup), limits)) == [
        ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max"),
        ("io.max", "253:1 rbps=max wbps=2 riops=max wiops=max"),
    ]


def test_files_that_are_missing_are_named_and_not_made(cgroup: Path) -> None:
    for name in FILES:
        (cgroup / name).unlink()
    limits = Limits(
        cpu=1.0,
        cpu_weight=1,
        cpus="0",
        memory=2**20,
        memory_high=2**20,
        io=(IoLimit("/", read_iops=1),),
        io_weight=1,
        tasks=1,
    )
    every = (
        "cpu",
        "cpu_weight",
        "cpus",
        "memory",
        "memory_high",
        "swap",
        "io",
        "io_weight",
        "tasks",
    )
    assert applied.apply(str(cgroup), limits) == every
    assert applied.unapplied(str(cgroup), limits) == every
    assert os.listdir(cgroup) == []


def test_swap_holds_by_itself_where_there_is_none(cgroup: Path, swaps: Path) -> None:
    (cgroup / "memory.swap.max").unlink()
    limits = Limits(memory=2**20)
    put(cgroup, memory_max=str(2**20))
    assert applied.unapplied(str(cgroup), limits) == ("swap",)
    swaps.write_text("Filename Type Size Used Priority\n")
    assert applied.unapplied(str(cgroup), limits) == ()
    assert applied.apply(str(cgroup), limits) == ()


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ("50000 100000", True),
        ("5000 10000", True),
        ("12500 25000", True),
        ("50000 1000000", False),
        ("60000 100000", False),
        ("max 100000", False),
        ("", False),
    ],
)
def test_a_quota_is_a_ratio(cgroup: Path, content: str, holds: bool) -> None:
    put(cgroup, cpu_max=content)
    assert applied.unapplied(str(cgroup), Limits(cpu=0.5)) == (() if holds else ("cpu",))


@pytest.mark.parametrize(
    ("asked", "content", "holds"),
    [
        (2**20, "1048576", True),
        (2**20 + 1, "1048576", True),
        (2**20 + 4096, "1048576", False),
        (2**20, "max", False),
        (LARGEST, "max", True),
        (2**20, "nonsense", False),
    ],
)
def test_memory_is_in_pages(cgroup: Path, asked: int, content: str, holds: bool) -> None:
    put(cgroup, memory_high=content)
    limits = Limits(memory_high=asked)
    assert applied.unapplied(str(cgroup), limits) == (() if holds else ("memory_high",))


@pytest.mark.parametrize(
    ("own", "effective", "holds"),
    [
        ("0-1,3", "0-1,3", True),
        ("0,1,3", "0-1", True),
        ("0-3", "0-1,3", False),
        ("", "0-1,3", False),
        ("0-1,3", "4-7", False),
        ("0-1,3", "", False),
    ],
)
def test_a_cpuset_holds_when_no_other_cpu_is_used(
    cgroup: Path, own: str, effective: str, holds: bool
) -> None:
    put(cgroup, cpuset_cpus=own)
    (cgroup / "cpuset.cpus.effective").write_text(f"{effective}\n")
    assert applied.unapplied(str(cgroup), Limits(cpus="0-1,3")) == (() if holds else ("cpus",))


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ("8:0 rbps=1000 wbps=max riops=max wiops=5", True),
        ("253:1 rbps=1 wbps=1 riops=1 wiops=1\n8:0 wiops=5 rbps=1000 wbps=7 riops=max", True),
        ("8:0 rbps=2000 wbps=max riops=max wiops=5", False),
        ("8:0 rbps=1000 wbps=max riops=max wiops=max", False),
        ("8:16 rbps=1000 wbps=max riops=max wiops=5", False),
        ("", False),
    ],
)
def test_io_is_by_device_and_key(cgroup: Path, content: str, holds: bool) -> None:
    put(cgroup, io_max=content)
    limits = Limits(io=(IoLimit("/", read_bandwidth=1000, write_iops=5),))
    assert applied.unapplied(str(cgroup), limits) == (() if holds else ("io",))


def test_a_device_that_is_gone_holds_nothing(cgroup: Path) -> None:
    limits = Limits(tasks=7, io=(IoLimit("/gone", read_bandwidth=1000),))
    put(cgroup, pids_max="7")
    assert applied.unapplied(str(cgroup), limits) == ("io",)
    with pytest.raises(InputError, match="/gone"):
        applied.apply(str(cgroup), limits)
    with pytest.raises(InputError, match="/gone"):
        applied.check(limits)
    assert (cgroup / "pids.max").read_text() == "7\n"


@pytest.mark.parametrize(("asked", "written"), [(50, 50), (100, 100), (10_000, 1000), (101, 100)])
def test_bfq_has_a_weight_of_its_own(cgroup: Path, asked: int, written: int) -> None:
    """systemd's BFQ_WEIGHT: up to 100 as it is, from there on a tenth and a bit."""
    (cgroup / "io.weight").unlink()
    (cgroup / "io.bfq.weight").write_text("")
    limits = Limits(io_weight=asked)
    assert applied.apply(str(cgroup), limits) == ()
    assert (cgroup / "io.bfq.weight").read_text() == f"default {written}"
    for content in (f"default {written}", str(written)):
        (cgroup / "io.bfq.weight").write_text(f"{content}\n8:0 7\n")
        assert applied.unapplied(str(cgroup), limits) == ()
    (cgroup / "io.bfq.weight").write_text("default 7\n")
    assert applied.unapplied(str(cgroup), limits) == ("io_weight",)


def test_a_cgroup_that_is_gone_lacks_nothing(tmp_path: Path) -> None:
    assert applied.unapplied(str(tmp_path / "gone"), Limits(cpu=1.0, tasks=1)) == ()


def test_nothing_asked_for_is_nothing_to_say(cgroup: Path) -> None:
    assert applied.apply(str(cgroup), Limits()) == ()
    assert applied.unapplied(str(cgroup), Limits()) == ()


def test_other_limits_of_before_are_lifted(cgroup: Path) -> None:
    before = Limits(cpu=1.0, cpu_weight=5, cpus="0", memory=2**20, io_weight=5, tasks=5)
    applied.apply(str(cgroup), before)
    put(cgroup, io_max="8:0 rbps=1 wbps=max riops=max wiops=max")
    assert applied.replace(str(cgroup), Limits(tasks=7)) == ()
    assert {name: (cgroup / name).read_text().strip() for name in FILES} == {
        **FILES,
        "pids.max": "7",
        # the kernel would take the line away
        "io.max": "8:0 rbps=max wbps=max riops=max wiops=max",
    }


def test_no_limits_lift_all_and_none_leave_all(cgroup: Path) -> None:
    applied.apply(str(cgroup), Limits(cpu=1.0, cpus="0", memory=2**20, tasks=5))
    before = {name: (cgroup / name).read_text() for name in FILES}
    assert applied.replace(str(cgroup), None) == ()
    assert list(applied.changes(str(cgroup), None)) == []
    assert {name: (cgroup / name).read_text() for name in FILES} == before
    assert applied.replace(str(cgroup), Limits()) == ()
    assert {name: (cgroup / name).read_text().strip() for name in FILES} == FILES
    assert list(applied.changes(str(cgroup), Limits())) == []


def test_what_holds_is_not_written_again(cgroup: Path) -> None:
    put(cgroup, cpu_max="5000 10000", memory_max=str(2**20), memory_swap_max="0")
    assert list(applied.changes(str(cgroup), Limits(cpu=0.5, memory=2**20))) == []
    stamps = {name: (cgroup / name).stat().st_mtime_ns for name in FILES}
    assert applied.replace(str(cgroup), Limits(cpu=0.5, memory=2**20)) == ()
    assert {name: (cgroup / name).stat().st_mtime_ns for name in FILES} == stamps
    put(cgroup, cpu_max="6000 10000")
    assert applied.replace(str(cgroup), Limits(cpu=0.5, memory=2**20)) == ()
    assert (cgroup / "cpu.max").read_text() == "50000 100000"


def test_what_cannot_be_replaced_is_named(cgroup: Path) -> None:
    (cgroup / "pids.max").unlink()
    assert applied.replace(str(cgroup), Limits(cpu=0.5, tasks=7)) == ("tasks",)
