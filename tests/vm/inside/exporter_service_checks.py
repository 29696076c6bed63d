"""Checks of the exporter's unit as it is shipped: sound, closed, and able to see all it must."""

import os
import signal
import subprocess
from pathlib import Path

from .scraped import UNIT, await_exporter, scrape, set_flags, settled_scrape
from .units_figures import seconds
from .units_scene import systemctl
from .workers import MOUNT, wait_for

EXPOSURE = 25
"""Tenths of a point that `systemd-analyze security` may give: 0 is closed, 100 wide open."""

SCOPE = "system.slice/slurmstepd.scope"
PATTERN = r"system\.slice/slurmstepd\.scope/(?P<instance>(?P<service>job)_\d+)"
RESIDENT_SLACK = 1.25
DESCRIPTOR_SLACK = 20
START_SLACK_SECONDS = 2.0


def unit_file_is_sound() -> None:
    """systemd has nothing to say against it."""
    said = _run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")
    assert UNIT not in said, said


def service_is_hardened() -> None:
    """Its exposure is low, as systemd counts it."""
    _run("systemd-analyze", "security", "--no-pager", f"--threshold={EXPOSURE}", UNIT)


def nothing_is_hidden_from_it() -> None:
    """It has the host's own /proc and devices; the cgroup tree it only reads."""
    mounts = _mounts(_main_pid())
    proc = mounts["/proc"]
    assert "hidepid" not in proc and "subset" not in proc, proc
    assert "/dev" not in mounts or mounts["/dev"] == _mounts(1)["/dev"]
    assert mounts["/sys/fs/cgroup"].split()[0].startswith("ro"), mounts["/sys/fs/cgroup"]
    answer = settled_scrape()
    missed = [
        labels
        for labels, value in answer.matching("worker_exporter_collector_success", {})
        if value != 1
    ]
    assert not missed, missed


def own_figures_are_those_of_its_process() -> None:
    """process_* are of the unit's main process, with the limit of files that the unit sets."""
    answer, pid = scrape(), _main_pid()
    resident = answer.value("process_resident_memory_bytes", {})
    now = 1024 * _status(pid, "VmRSS")
    assert now / RESIDENT_SLACK <= resident <= now * RESIDENT_SLACK, (resident, now)
    opened = answer.value("process_open_fds", {})
    assert abs(opened - len(os.listdir(f"/proc/{pid}/fd"))) <= DESCRIPTOR_SLACK, opened
    assert answer.value("process_max_fds", {}) == int(_shown("LimitNOFILE")) == 65536
    began = seconds(_shown("ExecMainStartTimestamp"))
    assert abs(answer.value("process_start_time_seconds", {}) - began) <= START_SLACK_SECONDS


def it_comes_back() -> None:
    """Killed, it is started again, and finds what it found."""
    before, pid = settled_scrape(), _main_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: _main_pid() not in (0, pid), "another process of the exporter")
    await_exporter()
    after = settled_scrape()
    assert after.samples["worker_up"] == before.samples["worker_up"]
    assert _shown("NRestarts") == "1"


def patterns_come_from_the_environment_file() -> None:
    """A pattern reaches the exporter as it is meant, backslashes and all."""
    job = MOUNT / SCOPE / "job_4242"
    job.mkdir(parents=True)
    try:
        set_flags(f"--worker.pattern={PATTERN}")
        systemctl("restart", UNIT)
        await_exporter()
        found = list(scrape().matching("worker_info", {"service": "job"}))
    finally:
        job.rmdir()
        job.parent.rmdir()
    assert [labels["cgroup"] for labels, _ in found] == [f"{SCOPE}/job_4242"], found
    assert found[0][0]["instance"] == "job_4242"


def _run(*command: str) -> str:
    """What it says; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    return said


def _main_pid() -> int:
    return int(_shown("MainPID"))


def _shown(name: str) -> str:
    return systemctl("show", "--timestamp=us+utc", f"--property={name}", "--value", UNIT)


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _mounts(pid: int) -> dict[str, str]:
    """The mounts that a process sees: the options of each place and of its file system."""
    lines = (line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return {words[4]: f"{words[5]} {words[-1]}" for words in lines}
