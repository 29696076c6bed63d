"""Docker on a host with cgroup v2 and systemd, with each of the daemon's cgroup drivers."""

from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "driver_is_detected",
    "errors_leave_nothing",
    "worker_starts",
    "limits_are_on_both",
    "metadata_is_there",
    "exporter_sees_it",
    "second_start_is_refused",
    "output_is_read",
    "secrets_are_files",
    "volumes_are_mounted",
    "pasted_lines_do_the_same",
    "lost_limits_are_seen",
    "metadata_outlives_a_restart",
    "crashed_worker_comes_back",
    "stop_leaves_nothing",
    "kill_leaves_nothing",
    "stopped_by_hand_stays_stopped",
    "ten_starts_at_once",
    "want_of_memory_is_told",
    "failure_is_told",
    "killed_start_is_cleared",
    "killed_stop_is_finished",
    "parent_for_compose",
    "down_leaves_nothing",
)
OPTIONS = ("systemd.unified_cgroup_hierarchy=1",)


@pytest.fixture(scope="module", params=["systemd", "cgroupfs"])
def outcome(
    request: pytest.FixtureRequest,
    debian: Image,
    wheelhouse: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    """What the boot left with one of the drivers."""
    name = f"sidecar_docker_{request.param}"
    return machine.run(name, debian, wheelhouse, tmp_path_factory.mktemp("vm"), OPTIONS)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
