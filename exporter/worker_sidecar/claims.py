"""What only one start on a host may be at work on: a worker's name, a port, the choice of a GPU."""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from worker_sidecar.errors import InputOutputError

PATIENCE = 30.0
"""Seconds to wait for a start that is at work on the same."""

_PAUSE = 0.02
"""Seconds between two tries: flock has no deadline of its own."""


class ClaimedError(Exception):
    """Another start holds `claim`, and did not let go of it in time."""

    def __init__(self, claim: str) -> None:
        super().__init__(claim)
        self.claim = claim


@contextmanager
def claimed(run_dir: str, claims: Iterable[str], patience: float = PATIENCE) -> Iterator[None]:
    """Hold all of `claims` (file names below `<run_dir>/starting`) against other processes and
    threads. The kernel lets go of them however this process ends, and no file stays behind.

    Raises ClaimedError, or InputOutputError when the directory cannot be used.
    """
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        for claim in sorted(claims):  # one order for all: nobody waits in a circle
            stack.enter_context(_held(f"{run_dir}/starting", claim, deadline))
        yield


@contextmanager
def _held(directory: str, claim: str, deadline: float) -> Iterator[None]:
    path = f"{directory}/{claim}"
    descriptor = _lock(directory, claim, deadline)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _lock(directory: str, claim: str, deadline: float) -> int:
    """A descriptor that holds the lock of the file which has this name now."""
    path = f"{directory}/{claim}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() >= deadline:
                    raise ClaimedError(claim) from None
                time.sleep(_PAUSE)
                continue
            if _is_there(path, descriptor):
                return descriptor
            os.close(descriptor)  # its holder removed it before it let go
    except OSError as error:
        raise InputOutputError(
            f"cannot lock {path}: {error.strerror} (XDG_RUNTIME_DIR would name another place)"
        ) from error


def _is_there(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
