"""Docker with its cgroup driver cgroupfs, on a host with cgroup v2 and systemd."""

from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.docker import CHECKS, OPTIONS
from tests.vm.guest import Outcome
from tests.vm.image import Image


@pytest.fixture(scope="module")
def outcome(debian: Image, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the boot left."""
    work = tmp_path_factory.mktemp("vm")
    return machine.run("sidecar_docker_cgroupfs", debian, packages, work, OPTIONS)


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(outcome: Outcome, check: str) -> None:
    machine.verdict(outcome, check)


def test_every_check_is_listed_here(outcome: Outcome) -> None:
    assert tuple(machine.results(outcome)) == CHECKS
