"""The sidecar's systemd launcher on a host with cgroup v2: the system's manager and a user's."""

from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "worker_starts",
    "second_start_is_refused",
    "words_arrive_as_written",
    "shell_words_arrive_as_written",
    "metadata_of_another_users_worker",
    "delegated_worker_cannot_lie_about_its_start",
    "pasted_lines_start_the_same",
    "worker_that_ends_at_once",
    "bad_starts_leave_nothing",
    "secrets_are_secret",
    "every_limit_is_in_the_kernel",
    "given_limits_replace_those_before",
    "cpu_hog_gets_its_quota",
    "memory_hog_is_killed_and_told",
    "disk_hog_gets_its_bandwidth",
    "totals_outlive_their_workers",
    "restarts_are_counted",
    "crash_loop_ends_as_a_failure",
    "polite_end",
    "deaf_worker_is_killed_after_the_grace",
    "longer_grace_is_kept",
    "kill_is_not_answered_by_a_restart",
    "crash_loop_can_be_stopped",
    "bombs_and_daemons_leave_nothing",
    "stuck_worker_is_told",
    "output_is_read",
    "killed_sidecar_loses_nothing",
    "users_worker_starts",
    "users_metadata_outlives_restarts",
    "users_output_is_read",
    "users_workers_end",
    "user_is_told_what_only_root_may",
    "down_leaves_nothing",
)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    work = tmp_path_factory.mktemp("vm")
    options = ("systemd.unified_cgroup_hierarchy=1",)
    return machine.run("sidecar_systemd", debian, packages, work, options)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
