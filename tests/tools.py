"""Tools a test needs: skipped by name where missing, failed where CI promised them."""

import os
import shutil
from typing import NoReturn

import pytest


def require(tool: str) -> str:
    """The path of the program `tool`; else the test is skipped, or fails under REQUIRE_ALL=1."""
    path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        missing(f"{tool} is not installed")
    return path


def missing(what: str) -> NoReturn:
    """Skip the running test because of `what`; under REQUIRE_ALL=1 fail it."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what}, and REQUIRE_ALL=1 forbids to skip")
    pytest.skip(what)
