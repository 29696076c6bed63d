"""The sidecar as the service that deploy/worker-sidecar installs, on a host with cgroup v2."""

from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "service_starts_what_is_declared",
    "exporter_sees_what_is_declared",
    "own_metrics",
    "socket_is_for_its_group",
    "second_service_is_refused",
    "ten_equal_requests_start_one",
    "bad_requests_start_nothing",
    "output_is_followed",
    "deliberate_stop_stays",
    "workers_outlive_the_service",
    "dead_worker_comes_back_at_reload",
    "bad_file_changes_nothing",
    "doctor_is_content",
    "killed_at_random_moments",
    "killed_in_the_middle_of_a_stop",
    "socket_activation",
    "tcp_wants_the_token",
    "down_leaves_nothing",
)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    work = tmp_path_factory.mktemp("vm")
    options = ("systemd.unified_cgroup_hierarchy=1",)
    return machine.run("sidecar_service", debian, packages, work, options)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
