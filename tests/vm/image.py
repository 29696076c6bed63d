"""The Debian to boot: bookworm's packages on an ext4 file, its kernel and its initrd."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.tools import missing, require

SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "udev",
    "kmod",
    "procps",
    "python3",
    "python3-venv",
    "python3-pip",
    "docker.io",
    "busybox-static",
    "attr",
    "prometheus",
    "prometheus-alertmanager",
    "linux-image-cloud-amd64",
)
LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/fonts*",
    "/usr/share/javascript/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/nodejs/*",
)
# A run that needs one of these starts it itself, and no other waits for it.
MASKED = (
    "docker.service",
    "docker.socket",
    "containerd.service",
    "prometheus.service",
    "prometheus-alertmanager.service",
)
DISK_BYTES = 3 << 30

# No default dependencies on targets: it may start while the rest still does, and end the machine.
UNIT = """\
[Unit]
Description=The run that the host put on the second disk
After=systemd-logind.service dbus.service systemd-user-sessions.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
ExecStart=/usr/local/sbin/host-run
ExecStopPost=/usr/local/sbin/host-collect
Environment=PYTHONFAULTHANDLER=1
KillSignal=SIGABRT
TimeoutStopSec=10
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TasksMax=infinity
RuntimeMaxSec=3000

[Install]
WantedBy=multi-user.target
"""

# vdb is a tar with a program `start`, which leaves its results in the folder of its argument.
RUN = """\
#!/bin/sh
mkdir -p /opt/payload /opt/result
tar -C /opt/payload -xf /dev/vdb
exec /opt/payload/start /opt/result
"""

# Whatever became of it, vdc gets a tar of what it left; what hangs is shown on the console.
COLLECT = """\
#!/bin/sh
if [ "$SERVICE_RESULT" != success ]; then
    echo "the run ended with $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS"
    systemctl list-jobs --no-pager
    ps -eo pid,stat,time,wchan:20,args
fi
tar -C /opt/result -cf /dev/vdc .
sync
"""


@dataclass(frozen=True)
class Image:
    """What QEMU boots; none of it is written to by a boot."""

    disk: Path
    kernel: Path
    initrd: Path


def build(cache: Path) -> Image:
    """The image below `cache`, made there unless it is there already.

    Skips the test where root, mmdebstrap or mkfs.ext4 is missing, and raises RuntimeError with
    the end of the log where one of them fails.
    """
    made = _image(cache / _key())
    if made.disk.exists():
        return made
    mmdebstrap, mkfs = require("mmdebstrap"), require("mkfs.ext4")
    if os.geteuid() != 0:
        missing("root (mmdebstrap makes device nodes) is not what runs this")
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run beside each other, and it takes a minute
        if not made.disk.exists():
            _make(made, cache, mmdebstrap, mkfs)
    return made


def _make(made: Image, cache: Path, mmdebstrap: str, mkfs: str) -> None:
    work = Path(tempfile.mkdtemp(prefix="image-", dir=cache))
    try:
        _fill(work, mmdebstrap, mkfs)
        work.rename(made.disk.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _image(folder: Path) -> Image:
    return Image(disk=folder / "disk.img", kernel=folder / "vmlinuz", initrd=folder / "initrd.img")


def _key() -> str:
    parts = (SUITE, PACKAGES, LEFT_OUT, MASKED, DISK_BYTES, UNIT, RUN, COLLECT)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _fill(work: Path, mmdebstrap: str, mkfs: str) -> None:
    root = work / "root"
    _run([
        mmdebstrap,
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        SUITE,
        str(root),
    ])  # fmt: skip
    _put(root / "etc/systemd/system/host-run.service", UNIT, 0o644)
    _put(root / "usr/local/sbin/host-run", RUN, 0o755)
    _put(root / "usr/local/sbin/host-collect", COLLECT, 0o755)
    _put(root / "etc/fstab", "", 0o644)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    (wants / "host-run.service").symlink_to("/etc/systemd/system/host-run.service")
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    image = _image(work)
    _only(root / "boot", "vmlinuz-*").rename(image.kernel)
    _only(root / "boot", "initrd.img-*").rename(image.initrd)
    with open(image.disk, "wb") as disk:
        disk.truncate(DISK_BYTES)
    _run([mkfs, "-q", "-F", "-d", str(root), str(image.disk)])
    shutil.rmtree(root)


def _put(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
