"""A Docker daemon in the guest, its image, and what it says of containers by its own program."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .workers import wait_for

SOCKET = "/var/run/docker.sock"
IMAGE = "tools"
PROGRAMS = ("sh", "sleep", "cat", "echo", "id", "dd", "true")


class Dockerd:
    """dockerd with the cgroup driver `driver`; it logs to the file `log`."""

    def __init__(self, driver: str, log: Path) -> None:
        self._driver = driver
        self._log = log
        self._start()

    def restart(self) -> None:
        """End it as an update would, and start it again."""
        self.end()
        self._start()

    def end(self) -> None:
        """Let it end by itself; it stops its containers."""
        self._process.terminate()
        self._process.wait(300)

    def _start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--exec-opt", f"native.cgroupdriver={self._driver}"),
                    *("--iptables=false", "--bridge=none", "--shutdown-timeout=5"),
                ],
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, f"dockerd with the driver {self._driver}")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"dockerd ended: {self._log.read_text()[-2000:]}")
        return docker("version", check=False).returncode == 0


@contextmanager
def dockerd(driver: str, log: Path) -> Iterator[Dockerd]:
    """A daemon that has the image IMAGE, until the context ends."""
    daemon = Dockerd(driver, log)
    try:
        _import_image()
        yield daemon
    finally:
        daemon.end()


def docker(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """The program docker, as somebody beside the sidecar would use it."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(words)} failed: {done.stderr}")
    return done


def inspect(container: str) -> dict[str, Any]:
    """What `docker inspect` says of one container."""
    (found,) = json.loads(docker("inspect", container).stdout)
    return dict(found)


def container_names() -> set[str]:
    """The names of all containers, ended ones too."""
    return set(docker("ps", "--all", "--format={{.Names}}").stdout.split())


def _import_image() -> None:
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        (root / "bin").mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for program in PROGRAMS:
            os.symlink("busybox", root / "bin" / program)
        (root / "etc").mkdir()
        (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(root, arcname=".")
    subprocess.run(["docker", "import", "-", IMAGE], input=packed.getvalue(), check=True)
