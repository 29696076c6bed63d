"""What the checks on the Docker launcher share: the launcher, its workers, their cgroups."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_sidecar.launch.docker import DockerLauncher
from worker_sidecar.launch.launcher import Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.site import Site

from .scraped import BIN
from .sidecar_docker_daemon import IMAGE, SOCKET, Dockerd
from .workers import MOUNT

MIB = 1 << 20
RUN = Path("/run/worker-sidecar")
CONTROL = Path("/run/systemd/system.control")
SITE = Site("worker.slice", str(MOUNT), str(RUN), "/var/log/worker-sidecar")
PATTERN = r"worker/(?P<service>[^/]+)/(?P<instance>[^/]+?)(?:[0-9a-f]{52})?"
"""What a user of the cgroupfs driver gives the exporter, as the documentation has it."""

REST = "trap 'exit 0' TERM; echo out; echo err >&2; while :; do sleep 1000 & wait $!; done"
LIMITS = Limits(
    cpu=0.5,
    cpu_weight=50,
    cpus="0",
    memory=64 * MIB,
    memory_high=48 * MIB,
    io=(IoLimit("/dev/vda", write_bandwidth=1_000_000, read_iops=500),),
    tasks=50,
)


@dataclass(frozen=True)
class Scene:
    """The daemon that runs, and the driver it was started with."""

    driver: str
    daemon: Dockerd

    @property
    def launcher(self) -> DockerLauncher:
        """A new one each time, as another run of the sidecar would have."""
        return DockerLauncher(SITE, SOCKET)

    def cgroup(self, service: str, instance: str | None) -> str:
        """Where the contract puts a worker, or a service, below the cgroup root."""
        if self.driver == "cgroupfs":
            return "/".join(filter(None, ("worker", service, instance)))
        path = f"worker.slice/worker-{service}.slice"
        return path if instance is None else f"{path}/worker-{service}-{instance}.slice"

    def folder(self, service: str, instance: str | None) -> Path:
        """The directory of that cgroup."""
        return MOUNT / self.cgroup(service, instance)

    def own_folder(self, service: str, instance: str, container: str) -> Path:
        """The directory of a container's own cgroup."""
        name = container if self.driver == "cgroupfs" else f"docker-{container}.scope"
        return self.folder(service, instance) / name


def worker(service: str, instance: str, command: str = REST, **more: Any) -> WorkerSpec:
    """A worker that runs `command` in a shell."""
    return WorkerSpec(service, instance, **{"image": IMAGE, "argv": _shell(command), **more})


def llm(instance: str, **more: Any) -> WorkerSpec:
    """A worker with all that can be asked for."""
    given = {
        "image": IMAGE,
        "argv": _shell(REST),
        "env": {"GREETING": "hello $HOME 'quoted'"},
        "limits": LIMITS,
        "metadata": {"model": "llama 3", "port": instance},
        "restart": Restart.ALWAYS,
        "directory": "/etc",
        "oom_score_adjust": 100,
        "service_limits": Limits(memory=512 * MIB),
        "host_limits": Limits(tasks=1000),
    }
    return WorkerSpec("llm", instance, **{**given, **more})


def traces(scene: Scene, service: str, instance: str) -> list[str]:
    """What is left of a worker anywhere but in the daemon."""
    slice_name = f"worker-{service}-{instance}.slice"
    paths = (
        scene.folder(service, instance),
        CONTROL / f"{slice_name}.d",
        RUN / f"secrets/{service}@{instance}",
        RUN / f"docker/{service}@{instance}",
    )
    left = [str(path) for path in paths if path.exists()]
    active = subprocess.run(["systemctl", "is-active", "--quiet", slice_name]).returncode == 0
    return [*left, *([f"{slice_name} is active"] if active else [])]


def failed_units() -> str:
    """What `systemctl --failed` shows of containers and slices."""
    words = ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "docker-*", "worker*"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def attributes(folder: Path) -> dict[str, str]:
    """The metadata on a cgroup."""
    names = [name for name in os.listxattr(folder) if name.startswith("user.worker.")]
    return {name: os.getxattr(folder, name).decode() for name in names}


def exporter(driver: str) -> list[str]:
    """The samples of the exporter, as users of this driver run it."""
    pattern = [f"--worker.pattern={PATTERN}"] if driver == "cgroupfs" else []
    words = [str(BIN / "worker-exporter"), *pattern, "once"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if not line.startswith("#")]


def labels_of(samples: list[str], family: str) -> list[dict[str, str]]:
    """The labels of every sample of `family`."""
    return [
        dict(re.findall(r'(\w+)="([^"]*)"', line))
        for line in samples
        if line.startswith(f"{family}{{")
    ]


def _shell(command: str) -> tuple[str, ...]:
    return ("sh", "-c", command)
