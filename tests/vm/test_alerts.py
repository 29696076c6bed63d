"""From a kill by the kernel to a person, through Debian's Prometheus and Alertmanager."""

import shutil
from pathlib import Path

import pytest

from tests.nvml.standin import library
from tests.vm import machine
from tests.vm.guest import Outcome
from tests.vm.image import Image

CHECKS = (
    "everything_is_scraped",
    "oom_kill_is_told",
    "failed_unit_is_told",
    "every_query_finds_something",
    "dead_worker_is_told",
    "stopped_worker_is_silent",
)


def add_driver(payload: Path) -> None:
    """The stand-in for NVIDIA's library."""
    shutil.copytree(library(), payload / "nvml")


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    work = tmp_path_factory.mktemp("vm")
    options = ("systemd.unified_cgroup_hierarchy=1",)
    return machine.run("alerts", debian, packages, work, options, add_driver)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
