"""A host with cgroup v2 alone, as Debian boots it: every figure against systemctl's."""

import subprocess
from pathlib import Path

import pytest

from tests.tools import require
from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "no_workers_yet",
    "absent_slices_logged_once",
    "exporter_is_unprivileged",
    "workers_found",
    "duplicates_counted",
    "metadata",
    "up",
    "frozen",
    "start_time",
    "process_count",
    "node",
    "nothing_failed",
    "series_budget",
    "openmetrics",
    "cpu_seconds",
    "cpu_modes",
    "cpu_throttled",
    "cpu_limit",
    "memory_current",
    "memory_peak_and_swap",
    "memory_kinds",
    "memory_working_set",
    "memory_faults",
    "memory_limits",
    "memory_events",
    "unlimited_is_absent",
    "io_bytes",
    "io_absent",
    "pressure",
    "tasks",
    "restarted_worker_goes_on",
    "stopped_worker_is_gone",
    "new_worker_is_found",
    "thawed_worker_is_not_frozen",
    "changed_limits_show",
    "lifted_limits_go",
    "late_accounting_shows",
    "demo_as_root",
    "demo_as_user",
)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    options = ("systemd.unified_cgroup_hierarchy=1",)
    return machine.run("unified", debian, packages, tmp_path_factory.mktemp("vm"), options)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS


def test_promtool_has_no_complaint(outcome: Outcome) -> None:
    promtool = require("promtool")
    scrape = outcome.files["scrape.prom"]
    done = subprocess.run([promtool, "check", "metrics"], input=scrape, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
