"""docker-compose.yml under a real Docker with a real Docker Compose, on a host with cgroup v2."""

from functools import partial
from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image
from tests.vm.payload import PROJECT
from tests.vm.stack import add_stack

CHECKS = (
    "comes_up",
    "all_are_well",
    "image_has_no_more_than_it_needs",
    "all_are_confined",
    "only_loopback_is_served",
    "grafana_has_what_it_reads",
    "exporter_has_nothing_to_complain_of",
    "node_is_the_host",
    "rules_are_loaded",
    "changed_rules_are_seen",
    "workers_reach_prometheus",
    "units_need_one_more_file",
    "figures_are_the_hosts",
    "foreign_namespaces_are_told",
    "alerts_reach_alertmanager",
    "exporter_ends_at_once",
    "host_without_a_name_is_refused",
    "down_leaves_nothing",
)
OPTIONS = ("systemd.unified_cgroup_hierarchy=1",)


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    work = tmp_path_factory.mktemp("vm")
    add = partial(add_stack, cache=PROJECT / "build" / "vm")
    return machine.run("stack", debian, packages, work, OPTIONS, add)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
