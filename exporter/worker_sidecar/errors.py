"""What can go wrong, by what the caller should do about it; each is one line of text."""

from typing import ClassVar

from worker_exporter.errors import UserError


class SidecarError(UserError):
    """A request that could not be fulfilled.

    `exit_code` is the program's, `status` the HTTP API's, `kind` the word the API and the log use.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "failed"


class InputError(SidecarError):
    """What was asked for cannot be: a bad name, limit, command or file. Nothing was done."""

    exit_code = 2
    status = 400
    kind = "bad-input"


class NotFoundError(SidecarError):
    """There is no such worker, or no such service in workers.yaml."""

    exit_code = 3
    status = 404
    kind = "not-found"


class RefusedError(SidecarError):
    """It could be done, but must not be. Nothing was done."""

    exit_code = 4
    status = 403
    kind = "refused"


class PermissionDeniedError(RefusedError):
    """The slice, or what is in it, belongs to `owner`, or to nobody known (None)."""

    kind = "permission-denied"

    def __init__(self, message: str, owner: str | None = None) -> None:
        super().__init__(message)
        self.owner = owner


class AlreadyRunningError(SidecarError):
    """The worker that should be started runs already; nothing was done to it."""

    exit_code = 5
    status = 409
    kind = "already-running"


class LaunchError(SidecarError):
    """A launcher could not do its work."""


class CreationFailedError(LaunchError):
    """A worker could not be started; nothing is left of it but a failed unit's result."""

    kind = "creation-failed"


class StoppedError(CreationFailedError):
    """Somebody stopped the worker on purpose, so it was not started, or was ended again."""


class KillFailedError(LaunchError):
    """A process does not end: it is in uninterruptible sleep. Its worker is a zombie worker."""

    kind = "kill-failed"


class InputOutputError(LaunchError):
    """The kernel, systemd or the Docker daemon did not answer, or answered with an error."""

    kind = "io"
