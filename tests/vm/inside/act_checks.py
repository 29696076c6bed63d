"""Checks that do something to a worker, or start the sidecar, and look at what comes of it."""

import os
import subprocess
from pathlib import Path

from .readings import show
from .scraped import BIN, scrape
from .workers import RESTARTED, STOPPED, as_user, wait_for

DEMO = [str(BIN / "worker-sidecar"), "demo", "--duration=10"]


def restarted_worker_goes_on() -> None:
    """A restart makes a new cgroup: the same series, a later start, no error, nothing missed."""
    before = scrape()
    old = show(RESTARTED.unit)[RESTARTED.unit]
    os.kill(int(old["MainPID"]), 9)
    wait_for(lambda: _restarts() > int(old["NRestarts"]), f"the restart of {RESTARTED.unit}")
    after = scrape()
    labels = RESTARTED.labels
    assert after.value("worker_up", labels) == 1
    assert after.value("worker_processes", labels) == 1
    start = "worker_start_time_seconds"
    assert after.value(start, labels) > before.value(start, labels)
    assert names_of(before.text) == names_of(after.text)
    errors = list(after.matching("worker_exporter_read_errors_total", {}))
    assert all(value == 0 for _, value in errors), errors


def stopped_worker_is_gone() -> None:
    """No series of it in the next scrape, and every other worker still there."""
    before = scrape()
    assert before.value("worker_up", STOPPED.labels) == 1
    subprocess.run(["systemctl", "stop", STOPPED.unit], check=True)
    after = scrape()
    left = [name for name in after.samples if list(after.matching(name, STOPPED.labels))]
    assert not left, left
    workers = "worker_exporter_workers"
    assert after.value(workers, {}) == before.value(workers, {}) - 1


def new_worker_is_found() -> None:
    """It is in the next scrape under the name it had before."""
    subprocess.run(
        [
            *("systemd-run", "--quiet", f"--unit={STOPPED.unit}", f"--slice={STOPPED.slice}"),
            *("--property=Type=exec", "sleep", "infinity"),
        ],
        check=True,
    )
    assert scrape().value("worker_up", STOPPED.labels) == 1


def demo_as_root() -> None:
    """The demo's workers are units of the system's manager, and none outlives it."""
    _demo(DEMO, ["systemctl"])


def demo_as_user() -> None:
    """The same without any privilege, in the user's own manager."""
    _demo(as_user(DEMO), as_user(["systemctl", "--user"]))


def names_of(text: str) -> list[str]:
    """The families of an exposition, in their order."""
    return [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]


def _demo(command: list[str], systemctl: list[str]) -> None:
    units = [*systemctl, "list-units", "--plain", "--no-legend", "--all", "demo-*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(
            lambda: b".service" in subprocess.check_output(units) or process.poll() is not None,
            "the demo's units",
        )
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, f"ended with {process.returncode}:\n{output}"
    assert "SIMULATED" not in output, output
    assert "llm" in output and "trainer" in output, output
    left = subprocess.check_output(units, text=True)
    assert ".service" not in left, f"left behind:\n{left}"
    assert not list(Path("/sys/fs/cgroup").glob("**/demo-*.service")), "cgroups were left behind"


def _restarts() -> int:
    properties = show(RESTARTED.unit)[RESTARTED.unit]
    running = properties["ActiveState"] == "active"
    return int(properties["NRestarts"]) if running else 0
