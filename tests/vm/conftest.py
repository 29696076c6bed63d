"""The image and the packages are made once a session; each module boots its own machine."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tools import require
from tests.vm import image, payload

LONGEST_FIRST: Sequence[str] = (
    "test_stack",
    "test_sidecar_service",
    "test_sidecar_systemd",
    "test_sidecar_docker_systemd",
    "test_sidecar_docker_cgroupfs",
    "test_alerts",
    "test_systemd",
    "test_units",
    "test_hybrid",
    "test_sidecar_cgroupfs",
)
"""So that machines that run beside each other end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the modules of this folder; others, and those not named above, come after them."""
    here = Path(__file__).parent
    rank = {here / f"{name}.py": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def debian() -> image.Image:
    """The image to boot, kept in build/vm between sessions."""
    require("qemu-system-x86_64")
    return image.build(payload.PROJECT / "build" / "vm")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project as it is now and all that it needs, as pip installs them."""
    folder = tmp_path_factory.mktemp("packages")
    payload.install(folder)
    return folder
