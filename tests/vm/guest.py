"""One boot: files go in as a tar on the second disk, results come back on the third."""

import io
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.tools import require
from tests.vm.image import Image

RESULT_BYTES = 64 << 20
KERNEL_OPTIONS = (
    "root=/dev/vda",
    "rw",
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "psi=1",
    "apparmor=0",
    "systemd.getty_auto=no",
)


@dataclass(frozen=True)
class Outcome:
    """What one boot left: `files` by their path in the results, the console, and the seconds."""

    files: dict[str, bytes]
    console: str
    seconds: float
    timed_out: bool


def boot(
    image: Image, payload: Path, work: Path, options: tuple[str, ...], timeout: float
) -> Outcome:
    """Boot `image` with the folder `payload`, whose program `start` runs as root in the guest.

    `start` gets a folder as its argument, and what it leaves there are the outcome's files. The
    kernel gets `options` besides the usual ones. QEMU is ended after `timeout` seconds, or
    whatever happens. `work` is an empty folder for the disks and the console.
    """
    qemu = require("qemu-system-x86_64")
    sent, result, console = work / "payload.tar", work / "result.raw", work / "console.log"
    with tarfile.open(sent, "w") as tar:
        tar.add(payload, arcname=".")
    with open(result, "wb") as disk:
        disk.truncate(RESULT_BYTES)
    command = [
        qemu,
        # One thread for both CPUs: with one each, guests of this QEMU lock up now and then, and
        # what a CPU spins for waits for the host.
        *("-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "3072"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{console}"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", " ".join(KERNEL_OPTIONS + options)),
        *("-drive", f"file={image.disk},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={sent},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={result},if=virtio,format=raw,cache=unsafe"),
    ]
    started = time.monotonic()
    with open(work / "qemu.log", "wb") as log:
        qemu_process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            qemu_process.wait(timeout)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            qemu_process.kill()
            qemu_process.wait()
    text = (work / "qemu.log").read_text() + console.read_text(errors="replace")
    return Outcome(_unpack(result), text, time.monotonic() - started, timed_out)


def _unpack(result: Path) -> dict[str, bytes]:
    content = result.read_bytes()
    if not content.strip(b"\0"):
        return {}
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member)
            if stream is not None:
                files[member.name.removeprefix("./")] = stream.read()
    return files
