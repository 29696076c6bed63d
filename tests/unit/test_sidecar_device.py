"""Which disk an IO limit is about."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker_sidecar.errors import InputError
from worker_sidecar.launch import device
from worker_sidecar.launch.device import device_of


class Node:
    """What stat() says of a path."""

    def __init__(self, mode: int, rdev: tuple[int, int] = (0, 0), dev: tuple[int, int] = (0, 5)):
        self.st_mode = mode
        self.st_rdev = os.makedev(*rdev)
        self.st_dev = os.makedev(*dev)


NODES = {
    "/dev/sda": Node(stat.S_IFBLK, (8, 0)),
    "/dev/sda2": Node(stat.S_IFBLK, (8, 2)),
    "/dev/mapper/data": Node(stat.S_IFBLK, (253, 0)),
    "/dev/loop7": Node(stat.S_IFBLK, (7, 7)),
    "/dev/null": Node(stat.S_IFCHR, (1, 3)),
    "/var/lib": Node(stat.S_IFDIR, dev=(8, 2)),
    "/home": Node(stat.S_IFDIR, dev=(0, 41)),
    "/home/a b/file": Node(stat.S_IFREG, dev=(0, 41)),
    "/run": Node(stat.S_IFDIR, dev=(0, 24)),
    "/": Node(stat.S_IFDIR, dev=(0, 60)),
}
MOUNTS = """\
20 1 0:60 / / rw - overlay overlay rw,lowerdir=/a
21 20 0:24 / /run rw - tmpfs tmpfs rw
22 20 0:35 /@home /home rw - btrfs /dev/sda2 rw
23 22 0:35 /@other /home/a\\040b rw - btrfs /dev/mapper/data rw
"""


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """/sys with a disk sda, its partition sda2, and a device-mapper disk."""
    sys = tmp_path / "sys"
    (sys / "dev/block").mkdir(parents=True)
    for name, number in (("sda", "8:0"), ("sda/sda2", "8:2"), ("dm-0", "253:0")):
        place = sys / "devices" / name
        place.mkdir(parents=True)
        (place / "dev").write_text(f"{number}\n")
        (sys / "dev/block" / number).symlink_to(place)
    (sys / "devices/sda/sda2/partition").write_text("2\n")
    return sys


@pytest.fixture
def mountinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def named(path: str) -> Node:
        if path not in NODES:
            raise FileNotFoundError(2, "No such file or directory")
        return NODES[path]

    def resolved(path: str) -> str:
        return path if path in NODES else os.path.realpath(path)

    paths = SimpleNamespace(**{**vars(os.path), "realpath": resolved})
    stand_in = SimpleNamespace(**{**vars(os), "stat": named, "path": paths})
    monkeypatch.setattr(device, "os", stand_in)
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/sda", (8, 0)),
        ("/dev/sda2", (8, 0)),
        ("/dev/mapper/data", (253, 0)),
        ("/var/lib", (8, 0)),
        ("/home", (8, 0)),
        ("/home/a b/file", (253, 0)),
    ],
)
def test_the_whole_disk(sysfs: Path, mountinfo: Path, path: str, number: tuple[int, int]) -> None:
    assert device_of(path, str(sysfs), str(mountinfo)) == number


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/gone", "limit io: /gone: No such file or directory"),
        ("/dev/null", "limit io: /dev/null is no block device"),
        ("/run", "limit io: /run lies on tmpfs: name the disk itself, as in /dev/sda"),
        ("/", "limit io: / lies on overlay: name the disk itself, as in /dev/sda"),
        ("/dev/loop7", "limit io: /dev/loop7 lies on device 7:7, which is no disk here"),
    ],
)
def test_what_no_disk_is_behind(sysfs: Path, mountinfo: Path, path: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        device_of(path, str(sysfs), str(mountinfo))
    assert str(caught.value) == says


def test_a_path_that_no_file_can_have() -> None:
    """Half a character, as JSON can say it."""
    with pytest.raises(InputError, match="limit io: /\ud800: no name of a file"):
        device_of("/\ud800")


def test_on_this_host_the_file_system_of_a_file_is_that_of_its_disk() -> None:
    """Against lsblk's own source: the entry in /sys/dev/block of what stat() says."""
    found = os.stat("/").st_dev
    entry = Path(f"/sys/dev/block/{os.major(found)}:{os.minor(found)}")
    if not entry.exists():
        pytest.skip("/ of this host lies on no disk")
    whole = entry.resolve()
    if (whole / "partition").exists():
        whole = whole.parent
    major, minor = device_of("/")
    assert (whole / "dev").read_text().strip() == f"{major}:{minor}"
