"""Where cgroup2 is mounted: real mountinfo files, and what users name by hand."""

from pathlib import Path

import pytest

from worker_exporter.cgroup.mount import Mount, find_mount, given_mount, parse_mountinfo
from worker_exporter.errors import UserError

UNIFIED = """\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
26 22 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
DOCKER_PRIVATE = """\
1301 1290 0:112 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1306 1305 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
"""
DOCKER_HOST_MOUNT = """\
1306 1305 0:26 /../../.. /sys/fs/cgroup ro,relatime - cgroup2 cgroup rw,nsdelegate
"""


def write(tmp_path: Path, mountinfo: str) -> str:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(mountinfo)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("mountinfo", "mount"),
    [
        (UNIFIED, Mount("/sys/fs/cgroup", "/")),
        (HYBRID, Mount("/sys/fs/cgroup/unified", "/")),
        (DOCKER_PRIVATE, Mount("/sys/fs/cgroup", "/")),
        (DOCKER_HOST_MOUNT, Mount("/sys/fs/cgroup", "/../../..")),
        (DOCKER_HOST_MOUNT + UNIFIED.replace("/sys/fs/cgroup", "/host/cg"), Mount("/host/cg")),
        (
            "1 2 0:3 /a /one rw - cgroup2 c rw\n2 2 0:3 / /two rw - cgroup2 c rw\n",
            Mount("/two", "/"),
        ),
        (
            "1 2 0:3 /a/b /one rw - cgroup2 c rw\n2 2 0:3 /a /two rw - cgroup2 c rw\n",
            Mount("/two", "/a"),
        ),
        (r"1 2 0:3 / /a\040b\134c\011d rw - cgroup2 c rw" + "\n", Mount("/a b\\c\td")),
        ("1 2 0:3 / /a rw shared:1 master:2 propagate_from:3 - cgroup2 c rw\n", Mount("/a")),
    ],
)
def test_the_mount_that_shows_the_hosts_root(tmp_path: Path, mountinfo: str, mount: Mount) -> None:
    assert find_mount(write(tmp_path, mountinfo)) == mount


def test_a_covered_mount_is_none(tmp_path: Path) -> None:
    covered = UNIFIED + "90 26 0:50 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    assert parse_mountinfo(covered.splitlines()) == []
    again = covered + "91 90 0:23 /x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert parse_mountinfo(again.splitlines()) == [Mount("/sys/fs/cgroup", "/x")]


@pytest.mark.parametrize("line", ["", "what", "1 2 0:3 / /a", "1 2 0:3 / - cgroup2 c rw"])
def test_odd_lines_are_passed_over(line: str) -> None:
    assert parse_mountinfo([line]) == []


@pytest.mark.parametrize(
    ("root", "foreign"), [("/", False), ("/a", False), ("/..", True), ("/../../..", True)]
)
def test_a_mount_of_another_namespace_is_foreign(root: str, foreign: bool) -> None:
    assert Mount("/sys/fs/cgroup", root).foreign is foreign


@pytest.mark.parametrize("mountinfo", ["", HYBRID.replace("cgroup2", "cgroup")])
def test_no_cgroup2_is_one_clear_line(tmp_path: Path, mountinfo: str) -> None:
    with pytest.raises(UserError, match=r"no cgroup2 is mounted .*--path\.cgroupfs") as caught:
        find_mount(write(tmp_path, mountinfo))
    assert "\n" not in str(caught.value)


def test_no_mountinfo_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*/self/mountinfo: No such file") as caught:
        find_mount(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_path_of_no_utf8_is_kept(tmp_path: Path) -> None:
    procfs = write(tmp_path, "")
    (tmp_path / "self/mountinfo").write_bytes(b"1 2 0:3 / /a\xff rw - cgroup2 c rw\n")
    assert find_mount(procfs).path.encode(errors="surrogateescape") == b"/a\xff"


def test_the_users_own_mount(tmp_path: Path) -> None:
    assert given_mount(str(tmp_path)) == Mount(str(tmp_path))
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.controllers").touch()
    assert given_mount(str(tmp_path)) == Mount(f"{tmp_path}/unified")
    (tmp_path / "cgroup.controllers").touch()
    assert given_mount(str(tmp_path)) == Mount(str(tmp_path))


def test_the_users_own_mount_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a directory"):
        given_mount(f"{tmp_path}/none")
