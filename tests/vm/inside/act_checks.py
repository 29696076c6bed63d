"""Checks that do something to a worker, or start the sidecar, and look at what comes of it."""

import os
import subprocess
from pathlib import Path

from .readings import show
from .scraped import BIN, scrape, settled_scrape
from .workers import FROZEN, LLM, MOUNT, RESTARTED, STOPPED, as_user, wait_for

MIB = 1 << 20
BLOCK = 64 << 10
DEMO = [str(BIN / "worker-sidecar"), "demo", "--duration=10"]


def restarted_worker_goes_on() -> None:
    """A restart makes a new cgroup: the same series, a later start, no error, nothing missed."""
    before = settled_scrape()
    old = show(RESTARTED.unit)[RESTARTED.unit]
    inode = _inode()
    os.kill(int(old["MainPID"]), 9)
    wait_for(lambda: _restarts() > int(old["NRestarts"]), f"the restart of {RESTARTED.unit}")
    assert _inode() != inode, "it got its old cgroup back, which proves nothing"
    after = settled_scrape()
    labels = RESTARTED.labels
    assert after.value("worker_up", labels) == 1
    assert after.value("worker_processes", labels) == 1
    start = "worker_start_time_seconds"
    assert after.value(start, labels) > before.value(start, labels)
    assert names_of(before.text) == names_of(after.text)
    errors = "worker_exporter_read_errors_total"
    assert after.samples[errors] == before.samples[errors]


def stopped_worker_is_gone() -> None:
    """No series of it in the next scrape, and every other worker still there."""
    before = scrape()
    assert before.value("worker_up", STOPPED.labels) == 1
    subprocess.run(["systemctl", "stop", STOPPED.unit], check=True)
    wait_for(lambda: not STOPPED.folder.exists(), f"the end of {STOPPED.cgroup}")
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


def changed_limits_show() -> None:
    """Limits set on a living worker, then a smaller one on its slice, are in the next scrape."""
    _limit(LLM.unit, "MemoryMax=120M", LLM.folder / "memory.max", str(120 * MIB))
    _limit(LLM.unit, "CPUQuota=50%", LLM.folder / "cpu.max", "50000 100000")
    _limit(LLM.unit, "TasksMax=77", LLM.folder / "pids.max", "77")
    after = scrape()
    assert after.value("worker_memory_limit_bytes", LLM.labels) == 120 * MIB
    assert after.value("worker_cpu_limit_cores", LLM.labels) == 0.5
    assert after.value("worker_tasks_limit", LLM.labels) == 77
    _limit(LLM.slice, "MemoryMax=100M", LLM.folder.parent / "memory.max", str(100 * MIB))
    assert scrape().value("worker_memory_limit_bytes", LLM.labels) == 100 * MIB


def lifted_limits_go() -> None:
    """What is no longer limited has no limit in the next scrape."""
    _limit(LLM.slice, "MemoryMax=infinity", LLM.folder.parent / "memory.max", "max")
    _limit(LLM.unit, "MemoryMax=infinity", LLM.folder / "memory.max", "max")
    # Without a quota in the slice systemd takes the whole controller away, and cpu.max with it.
    _set_property(LLM.unit, "CPUQuota=")
    wait_for(lambda: "50000" not in _content(LLM.folder / "cpu.max"), "the end of the quota")
    after = scrape()
    assert after.get("worker_memory_limit_bytes", LLM.labels) is None
    assert after.get("worker_cpu_limit_cores", LLM.labels) is None


def late_accounting_shows() -> None:
    """IO accounting that is turned on in a living worker counts what it writes from then on."""
    assert scrape().total("worker_io_written_bytes_total", LLM.labels) is None
    _set_property(LLM.unit, "IOAccounting=yes")
    wait_for((LLM.folder / "io.stat").exists, f"io.stat of {LLM.unit}")
    write = "dd if=/dev/zero of=/var/tmp/late bs=64k count=4 oflag=direct status=none"
    join = f"echo $$ > '{LLM.folder}/cgroup.procs'"
    subprocess.run(["sh", "-c", f"{join} && {write}"], check=True)
    written = scrape().value("worker_io_written_bytes_total", LLM.labels)
    said = show(LLM.unit)[LLM.unit]["IOWriteBytes"]
    assert written == int(said) >= 4 * BLOCK, (written, said)


def thawed_worker_is_not_frozen() -> None:
    """The state follows `systemctl thaw`."""
    assert scrape().value("worker_frozen", FROZEN.labels) == 1
    subprocess.run(["systemctl", "thaw", FROZEN.unit], check=True)
    assert scrape().value("worker_frozen", FROZEN.labels) == 0


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
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, f"ended with {process.returncode}:\n{output}"
    assert "SIMULATED" not in output, output
    assert "llm" in output and "trainer" in output, output
    left = subprocess.check_output(units, text=True)
    assert ".service" not in left, f"left behind:\n{left}"
    assert not list(MOUNT.glob("**/demo-*.service")), "cgroups were left behind"


def _set_property(unit: str, assignment: str) -> None:
    subprocess.run(["systemctl", "set-property", "--runtime", unit, assignment], check=True)


def _limit(unit: str, assignment: str, file: Path, content: str) -> None:
    """Set a property; systemd answers before it writes to the cgroup."""
    _set_property(unit, assignment)
    wait_for(lambda: _content(file) == content, f"{content} in {file}")


def _content(file: Path) -> str:
    """What the file says; "" where it is gone."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _inode() -> int:
    return RESTARTED.folder.stat().st_ino


def _restarts() -> int:
    properties = show(RESTARTED.unit)[RESTARTED.unit]
    running = properties["ActiveState"] == "active"
    return int(properties["NRestarts"]) if running else 0
