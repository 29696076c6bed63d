"""The sidecar's plain cgroups on a host with cgroup v2 and all its controllers."""

from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "every_limit_is_in_the_kernel",
    "limits_above_are_replaced_and_kept",
    "exporter_finds_the_worker",
    "cpu_hog_gets_its_quota",
    "cpuset_is_kept",
    "memory_hog_is_killed_and_told",
    "disk_hog_gets_its_bandwidth",
    "oom_score_is_lowered",
    "restart_is_refused",
    "deaf_worker_is_killed_after_the_grace",
    "bomb_and_daemon_leave_nothing",
    "bomb_loses_without_cgroup_kill",
    "stuck_worker_is_told",
    "delegated_worker_divides_its_limits",
    "user_without_delegation_is_told",
    "user_with_delegation_has_limits",
    "down_leaves_nothing",
)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    work = tmp_path_factory.mktemp("vm")
    options = ("systemd.unified_cgroup_hierarchy=1",)
    return machine.run("sidecar_cgroupfs", debian, packages, work, options)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
