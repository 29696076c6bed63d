"""One start or removal of a worker at a time, whoever does it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.site import Site


@contextmanager
def locked(site: Site, service: str, instance: str) -> Iterator[None]:
    """Hold the lock of a worker's name: an empty directory, which is gone again afterwards.

    A process that dies lets go of it. Raises InputOutputError when another one does not.
    """
    directory = f"{site.run_dir}/docker/{service}@{instance}"
    with ExitStack() as held:
        _acquire(directory, held)
        try:
            yield
        finally:
            with suppress(OSError):
                os.rmdir(directory)


def _acquire(directory: str, held: ExitStack) -> None:
    while True:
        try:
            os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            held.enter_context(cgroup.locked(directory))
        except FileNotFoundError:
            continue  # its holder removed it while we waited
        except OSError as error:
            raise InputOutputError(f"cannot lock {directory}: {error.strerror}") from error
        return
