"""What holds for all tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command that a test calls sets up the log of the whole process: not for the next test."""
    loggers = [logging.getLogger(name) for name in ("root", "aiohttp", "asyncio")]
    levels = [each.level for each in loggers]
    handlers, raises = list(logging.root.handlers), logging.raiseExceptions
    yield
    logging.root.handlers[:] = [each for each in logging.root.handlers if each in handlers]
    logging.raiseExceptions = raises
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def no_system_bus() -> Iterator[None]:
    """No test asks the machine's own systemd, unless it says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/system_bus_socket")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_nvidia_nodes() -> Iterator[None]:
    """The machine's own GPUs of NVIDIA are in no fixture tree: there procfs says whether there is
    a driver, not /dev.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker_exporter.gpu.drivers._NVIDIA_NODES", ())
        yield
