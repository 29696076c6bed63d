"""The guest as a host in production: exporter and sidecar as they are installed, workers of every
kind, Prometheus and Alertmanager; all durations of rules and routes are a fifth.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from bench.prometheus import Prometheus, Target, running_prometheus

from tests.alerting import (
    Inbox,
    routed_to,
    running_alertmanager,
    running_inbox,
    sending_to,
    write_rules,
)

from . import scraped
from .sidecar_service_scene import DEPLOY, FILE, PROGRAMS, UNIT, show, systemctl, unit_of
from .workers import wait_for

NODE = "guest"
HASTE = 5
FOLDER = Path("/opt/alerts")
NVML = Path("/opt/payload/nvml")
SCENARIO = FOLDER / "scenario"
GIB = 1 << 30
# So that the dashboards have an alert on a GPU to show: it would have to last for two minutes here.
AT_ONCE = ("WorkerVRAMUnattributed",)

# llm is told of. busy has all figures, and something wrong that each query asks for.
DECLARED = f"""\
services:
  llm:
    command: [/usr/bin/python3, {PROGRAMS}, hoard]
    user: nobody
    limits: {{memory: 64M}}
    total: {{memory: 1G}}
    instances: {{dies: , stops: , lives: }}
  busy:
    command: [/usr/bin/python3, {PROGRAMS}, write, "{FOLDER}/{{name}}"]
    user: root
    limits:
      memory: 96M
      memory_high: 90M
      cpu: 0.1
      tasks: 4
    total: {{memory: 200M, cpu: 0.2}}
    health: {{command: ["true"], interval: 10s, timeout: 10s}}
    parameters: {{name: {{type: string, default: file}}}}
    instances: {{main: }}
  loop:
    command: [/bin/sh, -c, "sleep 15; exit 3"]
    user: nobody
    restart: always
    instances: {{main: }}
  broken:
    command: [/nonexistent]
    user: nobody
    instances: {{main: }}
"""
RUNNING = ("llm/dies", "llm/stops", "llm/lives", "busy/main")


@dataclass(frozen=True)
class Scene:
    """What Prometheus knows, and what people are told."""

    prometheus: Prometheus
    inbox: Inbox

    def scrape_every(self, seconds: int) -> None:
        """Change Prometheus' configuration, and wait until both targets are scraped by it."""
        file = FOLDER / "prometheus/prometheus.yml"
        config = yaml.safe_load(file.read_text())
        config["global"]["scrape_interval"] = f"{seconds}s"
        file.write_text(yaml.safe_dump(config))
        os.kill(self.prometheus.pid, signal.SIGHUP)
        wait_for(lambda: self._scraped(seconds), "scrapes at the new interval")

    def _scraped(self, seconds: int) -> bool:
        targets = self.prometheus.targets()
        return all(
            each["scrapeInterval"] == f"{seconds}s" and each["health"] == "up" for each in targets
        )


@contextmanager
def running_scene() -> Iterator[Scene]:
    """Everything runs, and is scraped as often as rules in such haste need."""
    FOLDER.mkdir()
    _install_sidecar()
    _set_gpus()
    _use_gpus()
    scraped.start_exporter()
    with ExitStack() as stack:
        inbox, url = stack.enter_context(running_inbox())
        alertmanager = stack.enter_context(
            running_alertmanager(
                "/usr/bin/prometheus-alertmanager", FOLDER / "alertmanager", routed_to(url, HASTE)
            )
        )
        home = FOLDER / "prometheus"
        (home / "rules").mkdir(parents=True)
        write_rules(home / "rules", HASTE, AT_ONCE)
        targets = [Target(scraped.ADDRESS, NODE), Target("127.0.0.1:10391", NODE)]
        edit = sending_to(alertmanager.port, home / "rules")
        prometheus = stack.enter_context(
            running_prometheus("/usr/bin/prometheus", home, targets, interval="3s", edit=edit)
        )
        yield Scene(prometheus, inbox)


def pid(name: str) -> int:
    """The main process of a worker, from systemctl."""
    return int(show(unit_of(name), "MainPID"))


def _install_sidecar() -> None:
    FILE.parent.mkdir()
    FILE.write_text(DECLARED)
    FILE.chmod(0o600)
    shutil.copy(DEPLOY / UNIT, f"/etc/systemd/system/{UNIT}")
    systemctl("daemon-reload")
    systemctl("start", UNIT)
    wait_for(lambda: all(map(pid, RUNNING)), "the declared workers")


def _use_gpus() -> None:
    """Have the exporter find the stand-in for NVIDIA's library, by a drop-in of its unit."""
    drop_in = Path(f"/etc/systemd/system/{scraped.UNIT}.d/gpu.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nEnvironment=LD_LIBRARY_PATH={NVML} NVML_SCENARIO={SCENARIO}\n")
    Path("/dev/nvidiactl").touch()


def _set_gpus() -> None:
    """A GPU that two workers and another process hold, and one that nobody does."""
    held = {pid("llm/lives"): 20 * GIB, pid("busy/main"): 30 * GIB, os.getpid(): 2 * GIB}
    lines = []
    for index, used in ((0, sum(held.values())), (1, GIB // 2)):
        lines += [
            "gpu",
            f"uuid GPU-{index:08x}",
            "name NVIDIA H100 80GB HBM3",
            f"memory {80 * GIB} {GIB // 2} {used}",
            "utilization 64",
            "temperature 66",
            "power 123456",
            "energy 789000",
            "samples",
        ]
        if index == 0:
            lines += [f"compute {process} {size}" for process, size in held.items()]
            lines += [f"sample {process} {1 << 60} 20" for process in held]
    SCENARIO.write_text("\n".join(lines) + "\n")
