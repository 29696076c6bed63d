"""The image and the wheels are made once a session; each module boots its own machine."""

from pathlib import Path

import pytest

from tests.tools import require
from tests.vm import image, payload


@pytest.fixture(scope="session")
def debian() -> image.Image:
    """The image to boot, kept in build/vm between sessions."""
    require("qemu-system-x86_64")
    return image.build(payload.PROJECT / "build" / "vm")


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project's wheel as it is now, and all that it needs."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    payload.make_wheelhouse(folder)
    return folder
