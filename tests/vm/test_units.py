"""What became of workers, as systemd holds it: every way to end, on a host with cgroup v2."""

import subprocess
from pathlib import Path

import pytest

from tests.tools import require
from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "every_collector_did_its_part",
    "living_units_are_told",
    "states_on_the_way",
    "start_time_is_systemds",
    "killed_by_own_memory_limit",
    "killed_by_memory_limit_of_slice",
    "exited_with_an_error",
    "killed_by_a_signal",
    "crash_loop_at_its_limit",
    "crash_loop_that_waits",
    "deaf_when_stopped",
    "scope_deaf_when_stopped",
    "program_that_is_not_there",
    "dead_have_no_other_figures",
    "ended_as_asked_is_gone",
    "openmetrics_has_the_dead",
    "restarted_worker_lives",
    "worker_started_again_lives",
    "new_exporter_knows_the_dead",
    "memory_of_slices_shows",
    "throttling_outlives_the_worker",
    "limits_of_slices_show",
    "io_outlives_the_worker",
    "brief_workers_are_counted",
    "reset_scope_is_gone",
    "reloads_spoil_nothing",
    "hung_bus_costs_the_units_only",
    "others_manager_is_out_of_reach",
    "reset_failed_ends_the_dead",
    "killed_bus_is_found_again",
    "unit_file_is_sound",
    "service_is_hardened",
    "nothing_is_hidden_from_it",
    "own_figures_are_those_of_its_process",
    "it_comes_back",
    "patterns_come_from_the_environment_file",
    "own_manager_is_told_of",
)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    options = ("systemd.unified_cgroup_hierarchy=1",)
    return machine.run("units", debian, packages, tmp_path_factory.mktemp("vm"), options)


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
