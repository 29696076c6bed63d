"""A hybrid host: cgroup2 at /sys/fs/cgroup/unified, without a controller."""

from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "no_workers_yet",
    "absent_slices_logged_once",
    "exporter_is_unprivileged",
    "workers_found",
    "up",
    "start_time",
    "process_count",
    "nothing_failed",
    "openmetrics",
    "cpu_modes",
    "pressure",
    "rss_from_processes",
    "controllers_are_absent",
    "stopped_worker_is_gone",
)
OPTIONS = (
    "systemd.unified_cgroup_hierarchy=0",
    "systemd.legacy_systemd_cgroup_controller=0",
)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    return machine.run("hybrid", debian, packages, tmp_path_factory.mktemp("vm"), OPTIONS)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
