"""Which declared workers somebody stopped on purpose: the one thing kept beside systemd and the
cgroups, as empty files that are gone at a reboot, as the workers are.
"""

import os
from contextlib import suppress

from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.launch.names import check_names


class Stopped:
    """The markers `<run_dir>/stopped/<service>@<instance>`; each call reads or writes the files,
    so that several processes agree.

    Every method raises InputOutputError when the directory cannot be used.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self._directory = f"{run_dir}/stopped"

    def mark(self, service: str, instance: str) -> None:
        """The worker is stopped on purpose. Raises InputError for what is no worker's name."""
        check_names(service, instance)
        path = self._path(service, instance)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise InputOutputError(f"cannot write the marker {path}: {error.strerror}") from error

    def clear(self, service: str, instance: str) -> None:
        """The worker is not, or no longer, stopped on purpose."""
        path = self._path(service, instance)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
        except OSError as error:
            raise InputOutputError(f"cannot remove the marker {path}: {error.strerror}") from error

    def names(self) -> frozenset[tuple[str, str]]:
        """Service and instance of every worker that is stopped on purpose."""
        try:
            files = os.listdir(self._directory)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise InputOutputError(f"cannot read {self._directory}: {error.strerror}") from error
        return frozenset(name for file in files if (name := _parsed(file)))

    def _path(self, service: str, instance: str) -> str:
        return f"{self._directory}/{service}@{instance}"


def _parsed(file: str) -> tuple[str, str] | None:
    """The worker that a marker's file is for; None for what is no marker."""
    service, _, instance = file.partition("@")
    with suppress(InputError):
        check_names(service, instance)
        return service, instance
    return None
